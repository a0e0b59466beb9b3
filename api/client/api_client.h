#pragma once

#include "vmm/base/error.h"

#include <memory>
#include <string>

/// The other end of the API: a client of a running Mayfly (or of anything else that speaks the dialect).
///
///   ApiClient client{"/run/vm-7.sock"};
///   auto answer = client.send("PATCH", "/vm", R"({"state": "Paused"})");
namespace mayfly {

class ApiClient {
 public:
  /// Nothing is connected yet.
  explicit ApiClient(std::string socket_path);
  ApiClient(ApiClient&&) noexcept;
  ApiClient& operator=(ApiClient&&) noexcept;
  ApiClient(const ApiClient&) = delete;
  ApiClient& operator=(const ApiClient&) = delete;
  ~ApiClient();

  /// The answer's body. Errors: nobody listens, no right to the socket, no answer; and a refusal, whose sentence is the
  /// server's. Waits as long as the server works: a snapshot of a large machine takes its time.
  [[nodiscard]] Result<std::string> send(const std::string& method, const std::string& path,
                                         const std::string& body = "");
  [[nodiscard]] const std::string& socket_path() const noexcept { return socket_path_; }

 private:
  struct Connection;
  std::string socket_path_;
  std::unique_ptr<Connection> connection_;
};

}  // namespace mayfly
