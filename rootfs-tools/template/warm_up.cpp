#include "rootfs-tools/template/warm_up.h"

#include "vmm/base/printable.h"
#include "vmm/base/text.h"

#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>

#include <fmt/format.h>

namespace mayfly::image {
namespace {

/// Of the status line; "HTTP/1.1 200" and what follows.
constexpr std::size_t kStatusAt = 9;
constexpr std::size_t kStatusEnd = 12;
constexpr std::chrono::milliseconds kLongestPoll{60'000};

Status judge(std::string_view answer, const std::string& path) {
  const auto status = answer.size() < kStatusEnd
                          ? std::nullopt
                          : whole_number<unsigned>(answer.substr(kStatusAt, kStatusEnd - kStatusAt));
  if (!answer.starts_with("HTTP/1.") || !status)
    return fail(ErrorKind::InvalidArgument, "--warm-up {}: the function's answer is no HTTP: '{}'", path,
                printable(std::string{answer.substr(0, 80)}, 80));
  if (*status >= 500)
    return fail(ErrorKind::InvalidArgument, "--warm-up {}: the function answers with status {}", path, *status);
  return {};
}

}  // namespace

Status warm_up(agent::RawConnection connection, const std::string& path, Deadline deadline, int cancel) {
  const std::string request = fmt::format("GET {} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", path);
  const int socket = connection.socket.get();
  if (::send(socket, request.data(), request.size(), MSG_NOSIGNAL) != static_cast<ssize_t>(request.size()))
    return fail_errno(ErrorKind::System, "--warm-up {} cannot be sent", path);
  std::string answer = std::move(connection.first);
  std::array<char, 16384> piece;
  for (;;) {
    std::array ready = {pollfd{.fd = socket, .events = POLLIN, .revents = 0},
                        pollfd{.fd = cancel, .events = POLLIN, .revents = 0}};
    const auto left = std::min(time_left(deadline), kLongestPoll);
    const int count_ready = ::poll(ready.data(), ready.size(), static_cast<int>(left.count()));
    if (ready[1].revents != 0) return fail(ErrorKind::State, "interrupted");
    if (time_left(deadline).count() == 0)
      return fail(ErrorKind::System, "--warm-up {}: the function has not answered in time; see --patience", path);
    if (count_ready <= 0) continue;
    const ssize_t count = ::recv(socket, piece.data(), piece.size(), 0);
    if (count < 0 && (errno == EINTR || errno == EAGAIN)) continue;
    if (count < 0) return fail_errno(ErrorKind::System, "--warm-up {}: the answer breaks off", path);
    if (count == 0) break;
    if (answer.size() < kStatusEnd) answer.append(piece.data(), static_cast<std::size_t>(count));
  }
  return judge(answer, path);
}

}  // namespace mayfly::image
