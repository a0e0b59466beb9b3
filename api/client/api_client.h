#pragma once

#include "vmm/base/error.h"
#include "vmm/base/owned_fd.h"

#include <chrono>
#include <string>
#include <string_view>
#include <utility>

/// The other end of the API: a client of a running Mayfly (or of anything else that speaks the dialect).
///
///   ApiClient client{"/run/vm-7.sock"};
///   auto answer = client.send("PATCH", "/vm", R"({"state": "Paused"})");
namespace mayfly {

class ApiClient {
 public:
  /// An answer may take as long as `patience`: a snapshot of a large machine takes its time.
  explicit ApiClient(std::string socket_path, std::chrono::seconds patience = std::chrono::hours{1})
      : socket_path_(std::move(socket_path)), patience_(patience) {}

  /// The answer's body, by a connection of its own. Errors: nobody listens, no right to the socket, no answer; and a
  /// refusal, whose sentence is the server's.
  [[nodiscard]] Result<std::string> send(std::string_view method, std::string_view path,
                                         std::string_view body = "") const;

  /// The process that listens, as a pidfd: to wait for its end, or to send it a signal.
  [[nodiscard]] Result<OwnedFd> process() const;

 private:
  [[nodiscard]] Result<OwnedFd> connect() const;

  std::string socket_path_;
  std::chrono::seconds patience_;
};

/// A text member of an answer; empty where it is none, or no object.
[[nodiscard]] std::string text_member(const std::string& body, std::string_view name);

}  // namespace mayfly
