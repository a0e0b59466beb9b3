#include "rootfs-tools/agent/guest/splice.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <utility>

#include <fmt/format.h>

namespace mayfly::agent {
namespace {

using SpliceClock = std::chrono::steady_clock;

// Nothing tells that somebody begins to listen. A refused connection costs microseconds.
constexpr std::chrono::milliseconds kFirstLook{1};
constexpr std::chrono::milliseconds kLongestLook{64};

/// One direction of a connection.
class Direction {
 public:
  Direction(int from, int to, std::string_view first) : from_(from), to_(to) { waiting_.add(first); }

  [[nodiscard]] short from_events() const { return !ended_ && waiting_.empty() ? POLLIN : 0; }
  [[nodiscard]] short to_events() const { return waiting_.empty() ? 0 : POLLOUT; }
  [[nodiscard]] bool is_over() const { return ended_ && waiting_.empty(); }

  /// Copies what there is. False: one of both ends has failed.
  bool copy() {
    if (!ended_ && waiting_.empty()) {
      std::array<char, 64 * 1024> piece;
      const ssize_t count = ::read(from_, piece.data(), piece.size());
      if (count < 0 && errno != EAGAIN && errno != EINTR) return false;
      if (count > 0) waiting_.add({piece.data(), static_cast<std::size_t>(count)});
      ended_ = count == 0;
    }
    if (!waiting_.flush(to_)) return false;
    if (is_over() && !std::exchange(is_shut_, true)) ::shutdown(to_, SHUT_WR);
    return true;
  }

 private:
  int from_;
  int to_;
  Outbox waiting_;
  bool ended_ = false;
  bool is_shut_ = false;
};

void splice(int host, int local, std::string_view first) {
  Direction in{host, local, first};
  Direction out{local, host, ""};
  while (!in.is_over() || !out.is_over()) {
    if (!in.copy() || !out.copy()) return;
    // Hang-ups come without being asked for: not of what has ended in both directions.
    const auto entry = [](int fd, int events) {
      return pollfd{.fd = events != 0 ? fd : -1, .events = static_cast<short>(events), .revents = 0};
    };
    std::array ready = {entry(host, in.from_events() | out.to_events()),
                        entry(local, out.from_events() | in.to_events())};
    if (ready[0].fd < 0 && ready[1].fd < 0) continue;
    if (::poll(ready.data(), ready.size(), -1) < 0 && errno != EINTR) return;
  }
}

/// 0, or an errno.
int connect_once(const OwnedFd& socket, std::uint16_t port) {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(port);
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  if (::connect(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0) return 0;
  if (errno != EINPROGRESS) return errno;
  // A full backlog: the kernel tries again every second.
  pollfd ready{.fd = socket.get(), .events = POLLOUT, .revents = 0};
  if (::poll(&ready, 1, 5000) <= 0) return ETIMEDOUT;
  int error = 0;
  socklen_t length = sizeof error;
  return ::getsockopt(socket.get(), SOL_SOCKET, SO_ERROR, &error, &length) == 0 ? error : errno;
}

/// Whether the host has hung up within that time.
bool is_gone_within(int host, std::chrono::milliseconds time) {
  pollfd ready{.fd = host, .events = POLLRDHUP, .revents = 0};
  return ::poll(&ready, 1, static_cast<int>(time.count())) > 0;
}

/// None, with errno: nobody listens, or the host has hung up.
OwnedFd connect_to_port(const ConnectRequest& request, int host) {
  const auto deadline = SpliceClock::now() + std::chrono::milliseconds{request.wait_ms};
  for (auto look = kFirstLook;; look = std::min(look * 2, kLongestLook)) {
    OwnedFd socket{::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0)};
    const int error = socket ? connect_once(socket, request.port) : errno;
    if (error == 0) return socket;
    const bool is_late = SpliceClock::now() >= deadline;
    if (error != ECONNREFUSED || is_late || is_gone_within(host, look)) {
      errno = error;
      return OwnedFd{};
    }
  }
}

}  // namespace

void serve_connect(FrameStream& stream, const ConnectRequest& request) {
  const OwnedFd local = connect_to_port(request, stream.fd());
  if (!local) {
    const bool nobody = errno == ECONNREFUSED;
    const Refusal refusal{
        .reason = nobody ? RefusalReason::NotFound : RefusalReason::Other,
        .sentence = nobody ? fmt::format("nobody listens at port {} of the guest's 127.0.0.1, after {} ms",
                                         request.port, request.wait_ms)
                           : fmt::format("cannot connect to port {} of the guest's 127.0.0.1: {}", request.port,
                                         errno_text(errno))};
    if (stream.send(FrameType::Refused, encode(refusal))) stream.finish();
    return;
  }
  const int on = 1;
  ::setsockopt(local.get(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  if (!stream.send(FrameType::Done)) return;
  splice(stream.fd(), local.get(), stream.reader().rest());
}

}  // namespace mayfly::agent
