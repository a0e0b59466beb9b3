#include "tests/host-agent/http_server.h"

#include "api/client/deadline.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>

#include <array>
#include <cerrno>
#include <optional>

#include <fmt/format.h>

namespace mayfly::host_agent {
namespace {

using std::chrono_literals::operator""s;

constexpr HttpLimits kLimits{.body = 1 << 20};
/// For a request from its connection to its last byte, and as long for its answer: a slow client has a thread no
/// longer.
constexpr auto kPatience = 5s;
constexpr int kBacklog = 512;

/// What a refused client still sends: left unread, it would have the kernel throw the refusal away.
void drain(int client) {
  ::shutdown(client, SHUT_WR);
  const Deadline deadline = Deadline::clock::now() + 1s;
  std::array<char, 16'384> piece{};
  while (is_ready_by(deadline, client, POLLIN) && ::recv(client, piece.data(), piece.size(), MSG_DONTWAIT) > 0) {
  }
}

/// A whole request; none where the client is gone or slow, or has been refused.
std::optional<HttpMessage> read_request(int client) {
  const Deadline deadline = Deadline::clock::now() + kPatience;
  HttpFramer framer{kLimits};
  std::array<char, 16'384> piece{};
  while (is_ready_by(deadline, client, POLLIN)) {
    const ssize_t count = ::recv(client, piece.data(), piece.size(), MSG_DONTWAIT);
    if (count < 0 && (errno == EAGAIN || errno == EINTR)) continue;
    if (count <= 0) return std::nullopt;
    (void)framer.feed({piece.data(), static_cast<std::size_t>(count)});  // one request a connection: the rest is lost
    if (framer.state() == HttpFramer::State::Complete) return framer.take();
    if (framer.state() == HttpFramer::State::Faulty) {
      send_answer(client, text_answer(fmt::format("{} Refused", framer.fault().status), framer.fault().message));
      drain(client);
      return std::nullopt;
    }
    if (framer.take_wants_continue()) send_answer(client, "HTTP/1.1 100 Continue\r\n\r\n");
  }
  return std::nullopt;
}

/// Until the listener is shut down.
void serve(int listener, const HttpServer::Handler& handler) {
  for (;;) {
    const OwnedFd client{::accept4(listener, nullptr, nullptr, SOCK_CLOEXEC)};
    if (!client && errno == EINVAL) return;
    // Out of descriptors or memory: what is at work will give some back.
    if (!client && errno != ECONNABORTED && errno != EINTR) (void)::poll(nullptr, 0, 10);
    if (!client) continue;
    const int at_once = 1;
    (void)::setsockopt(client.get(), IPPROTO_TCP, TCP_NODELAY, &at_once, sizeof at_once);
    if (const auto request = read_request(client.get())) handler(*request, client.get());
    ::shutdown(client.get(), SHUT_WR);
  }
}

}  // namespace

Result<HttpServer> HttpServer::listen(const std::string& address, std::uint16_t port) {
  sockaddr_in inet{};
  inet.sin_family = AF_INET;
  inet.sin_port = htons(port);
  if (::inet_pton(AF_INET, address.c_str(), &inet.sin_addr) != 1)
    return fail(ErrorKind::InvalidArgument, "{} is no IPv4 address", address);
  OwnedFd listener{::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)};
  const int again = 1;
  (void)::setsockopt(listener.get(), SOL_SOCKET, SO_REUSEADDR, &again, sizeof again);
  socklen_t length = sizeof inet;
  if (!listener || ::bind(listener.get(), reinterpret_cast<const sockaddr*>(&inet), sizeof inet) != 0 ||
      ::listen(listener.get(), kBacklog) != 0 ||
      ::getsockname(listener.get(), reinterpret_cast<sockaddr*>(&inet), &length) != 0)
    return fail_errno(ErrorKind::System, "cannot listen at {}:{}", address, port);
  return HttpServer{std::move(listener), ntohs(inet.sin_port)};
}

void HttpServer::start(unsigned threads, const Handler& handler) {
  for (unsigned i = 0; i < threads; ++i)
    threads_.emplace_back([listener = listener_.get(), handler] { serve(listener, handler); });
}

void HttpServer::stop() {
  ::shutdown(listener_.get(), SHUT_RDWR);  // which ends accept4() in every thread
  for (std::thread& thread : threads_) thread.join();
  threads_.clear();
}

bool send_answer(int client, std::string_view bytes) {
  const Deadline deadline = Deadline::clock::now() + kPatience;
  while (!bytes.empty()) {
    const ssize_t count = ::send(client, bytes.data(), bytes.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
    if (count >= 0)
      bytes.remove_prefix(static_cast<std::size_t>(count));
    else if ((errno != EAGAIN && errno != EINTR) || !is_ready_by(deadline, client, POLLOUT))
      return false;
  }
  return true;
}

std::string text_answer(std::string_view status, std::string_view body, std::string_view type, std::string_view more) {
  return fmt::format("HTTP/1.1 {}\r\nContent-Type: {}\r\n{}Connection: close\r\nContent-Length: {}\r\n\r\n{}\n", status,
                     type, more, body.size() + 1, body);
}

}  // namespace mayfly::host_agent
