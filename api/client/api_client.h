#pragma once

#include "api/client/deadline.h"
#include "vmm/base/error.h"
#include "vmm/base/owned_fd.h"

#include <sys/types.h>

#include <chrono>
#include <string>
#include <string_view>
#include <utility>

/// The other end of the API: a client of a running Mayfly (or of anything else that speaks the dialect).
///
///   ApiClient client{"/run/vm-7.sock"};
///   auto answer = client.send("PATCH", "/vm", R"({"state": "Paused"})");
namespace mayfly {

struct ApiClientOptions {
  /// For a request and its answer as a whole: a snapshot of a large machine takes its time.
  std::chrono::milliseconds patience = std::chrono::hours{1};
  /// The process that must listen at the socket, or nothing is sent; 0: any.
  pid_t process = 0;
  /// Ends the wait for an answer once it can be read, with an error; -1: nothing does.
  int cancel = -1;
};

class ApiClient {
 public:
  explicit ApiClient(std::string socket_path, ApiClientOptions options = {})
      : socket_path_(std::move(socket_path)), options_(options) {}

  /// The answer's body, by a connection of its own. Errors: nobody listens, or another process; no right to the socket,
  /// no answer; and a refusal, alone of kind State, whose sentence is the server's. All are printable.
  [[nodiscard]] Result<std::string> send(std::string_view method, std::string_view path,
                                         std::string_view body = "") const;

  /// Sends GET `path` and does not wait for the answer, which comes by the socket that is returned (an AnswerReader
  /// takes it). Errors: as of send(), but for the answer.
  [[nodiscard]] Result<OwnedFd> ask(std::string_view path) const;

  /// The process that listens, as a pidfd: to wait for its end, or to send it a signal.
  [[nodiscard]] Result<OwnedFd> process() const;

 private:
  [[nodiscard]] Result<OwnedFd> connect(Deadline deadline) const;
  [[nodiscard]] Result<OwnedFd> ask(std::string_view method, std::string_view path, std::string_view body,
                                    Deadline deadline) const;
  /// "GET / to /run/vm-7.sock"
  [[nodiscard]] std::string what_of(std::string_view method, std::string_view path) const;
  [[nodiscard]] Deadline deadline() const { return Deadline::clock::now() + options_.patience; }
  [[nodiscard]] std::string shown_path() const;

  std::string socket_path_;
  ApiClientOptions options_;
};

}  // namespace mayfly
