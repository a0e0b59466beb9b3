#include "tests/host-agent/hand_over.h"

#include "tests/host-agent/clone_network.h"

#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <limits>

#include <fmt/format.h>

namespace mayfly::host_agent {
namespace {

/// A machine that never stops talking must not fill the host's memory.
constexpr std::size_t kLongestAnswer = 4 << 20;

using Outcome = std::expected<void, Silence>;

/// Waits for `events` of the connection. What has been said counts, even if its machine has died since.
Outcome wait_for(short events, const Exchange& exchange) {
  for (;;) {
    std::array all = {pollfd{.fd = exchange.connection, .events = events, .revents = 0},
                      pollfd{.fd = exchange.machine, .events = POLLIN, .revents = 0}, exchange.asker};
    const auto left = std::min<std::int64_t>(time_left(exchange.deadline).count(), std::numeric_limits<int>::max());
    if (left == 0) return std::unexpected(Silence::Late);
    const int count = ::poll(all.data(), all.size(), static_cast<int>(left));
    if (count < 0 && errno != EINTR) return std::unexpected(Silence::Broken);
    if (count <= 0) continue;
    if (all[0].revents != 0) return {};
    return std::unexpected(all[1].revents != 0 ? Silence::Died : Silence::Unasked);
  }
}

Outcome send(std::string_view bytes, const Exchange& exchange) {
  while (!bytes.empty()) {
    const ssize_t count = ::send(exchange.connection, bytes.data(), bytes.size(), MSG_NOSIGNAL);
    if (count >= 0)
      bytes.remove_prefix(static_cast<std::size_t>(count));
    else if (errno != EAGAIN)
      return std::unexpected(Silence::Broken);
    else if (auto ready = wait_for(POLLOUT, exchange); !ready)
      return ready;
  }
  return {};
}

std::expected<std::string, Silence> receive(const Exchange& exchange) {
  std::string answer;
  std::array<char, 16'384> piece{};
  while (answer.size() <= kLongestAnswer) {
    if (auto ready = wait_for(POLLIN, exchange); !ready) return std::unexpected(ready.error());
    const ssize_t count = ::recv(exchange.connection, piece.data(), piece.size(), 0);
    if (count < 0 && errno == EAGAIN) continue;
    if (count < 0) break;
    if (count == 0 && answer.starts_with("HTTP/1.")) return answer;
    if (count == 0) break;
    answer.append(piece.data(), static_cast<std::size_t>(count));
  }
  return std::unexpected(Silence::Broken);
}

}  // namespace

std::expected<void, Silence> connect_to_function(const Exchange& exchange) {
  const sockaddr_in guest = guest_address();
  if (::connect(exchange.connection, reinterpret_cast<const sockaddr*>(&guest), sizeof guest) == 0) return {};
  if (errno != EINPROGRESS) return std::unexpected(Silence::Broken);
  Exchange connecting = exchange;
  connecting.deadline = exchange.connected_by;
  if (auto ready = wait_for(POLLOUT, connecting); !ready) return ready;
  // Refused, or nobody is there: the socket is writable as well.
  int failure = 0;
  socklen_t length = sizeof failure;
  const int asked = ::getsockopt(exchange.connection, SOL_SOCKET, SO_ERROR, &failure, &length);
  if (asked != 0 || failure != 0) return std::unexpected(Silence::Broken);
  return {};
}

std::string_view send_ahead(std::string_view request, int connection) {
  const ssize_t count = ::send(connection, request.data(), request.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
  if (count > 0) request.remove_prefix(static_cast<std::size_t>(count));
  return request;  // after an error hand_over() meets it again
}

std::expected<std::string, Silence> hand_over(std::string_view request, const Exchange& exchange) {
  if (!exchange.is_connected)
    if (auto connected = connect_to_function(exchange); !connected) return std::unexpected(connected.error());
  if (auto sent = send(request, exchange); !sent) return std::unexpected(sent.error());
  return receive(exchange);
}

std::string http_request(std::string_view line, std::string_view body) {
  return fmt::format("{}\r\nHost: function\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{}", line, body.size(),
                     body);
}

}  // namespace mayfly::host_agent
