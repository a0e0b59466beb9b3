#pragma once

#include "api/http_framer.h"
#include "vmm/base/error.h"
#include "vmm/base/owned_fd.h"

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

/// HTTP for a handler that blocks: as many requests at once as there are threads, one a connection.
///
///   auto server = HttpServer::listen("127.0.0.1", 8080);
///   server->start(16, [](const HttpMessage& request, int client) { send_answer(client, "HTTP/1.1 200 OK..."); });
///   ...
///   server->stop();
///
/// Requests are framed as the monitor's own API frames them (api/http_framer.h), within a time and a length.
namespace mayfly::host_agent {

class HttpServer {
 public:
  /// Answers by send_answer().
  using Handler = std::function<void(const HttpMessage& request, int client)>;

  /// An IPv4 address; port 0: any that is free.
  [[nodiscard]] static Result<HttpServer> listen(const std::string& address, std::uint16_t port);

  [[nodiscard]] std::uint16_t port() const noexcept { return port_; }
  void start(unsigned threads, const Handler& handler);
  /// Takes no more connections, and waits for the handlers.
  void stop();

 private:
  HttpServer(OwnedFd listener, std::uint16_t port) : listener_(std::move(listener)), port_(port) {}

  OwnedFd listener_;
  std::uint16_t port_;
  std::vector<std::thread> threads_;
};

/// Sends all of it within some seconds; false where the client does not take it.
bool send_answer(int client, std::string_view bytes);

/// An answer with a text as its body. `more`: further header lines, each with its end.
[[nodiscard]] std::string text_answer(std::string_view status, std::string_view body,
                                      std::string_view type = "text/plain", std::string_view more = "");

}  // namespace mayfly::host_agent
