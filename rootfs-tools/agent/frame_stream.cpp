#include "rootfs-tools/agent/frame_stream.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <limits>

namespace mayfly::agent {
namespace {

constexpr std::chrono::seconds kLongestFarewell{5};

int milliseconds_until(std::optional<FrameStream::Deadline> deadline) {
  if (!deadline) return -1;
  const auto left = std::chrono::ceil<std::chrono::milliseconds>(*deadline - std::chrono::steady_clock::now()).count();
  return static_cast<int>(std::clamp<decltype(left)>(left, 0, std::numeric_limits<int>::max()));
}

}  // namespace

FrameStream::FrameStream(OwnedFd socket, int cancel) : socket_(std::move(socket)), cancel_(cancel) {
  ::fcntl(socket_.get(), F_SETFL, O_RDWR | O_NONBLOCK);
}

Status FrameStream::wait(short events, std::optional<Deadline> deadline) {
  for (;;) {
    std::array ready = {pollfd{.fd = socket_.get(), .events = events, .revents = 0},
                        pollfd{.fd = cancel_, .events = POLLIN, .revents = 0}};
    const int count = ::poll(ready.data(), ready.size(), milliseconds_until(deadline));
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return fail_errno(ErrorKind::System, "cannot wait for the peer");
    if (ready[1].revents != 0) return fail(ErrorKind::State, "interrupted");
    if (count == 0) return fail(ErrorKind::System, "no answer");
    return {};
  }
}

Status FrameStream::check_cancel() const {
  pollfd ready{.fd = cancel_, .events = POLLIN, .revents = 0};
  if (cancel_ >= 0 && ::poll(&ready, 1, 0) > 0) return fail(ErrorKind::State, "interrupted");
  return {};
}

Status FrameStream::send(FrameType type, std::string_view payload) {
  if (auto goes_on = check_cancel(); !goes_on) return goes_on;
  std::string header = frame_header(type, payload.size());
  std::string_view head = header;
  while (!head.empty() || !payload.empty()) {
    std::array<iovec, 2> parts = {iovec{.iov_base = const_cast<char*>(head.data()), .iov_len = head.size()},
                                  iovec{.iov_base = const_cast<char*>(payload.data()), .iov_len = payload.size()}};
    msghdr message{};
    message.msg_iov = parts.data();
    message.msg_iovlen = parts.size();
    const ssize_t count = ::sendmsg(socket_.get(), &message, MSG_NOSIGNAL);
    if (count < 0 && errno == EAGAIN) {
      auto ready = wait(POLLOUT, std::nullopt);
      if (!ready) return ready;
    } else if (count < 0 && errno != EINTR) {
      return fail_errno(ErrorKind::System, "the connection has ended");
    }
    if (count <= 0) continue;
    const auto sent = static_cast<std::size_t>(count);
    const std::size_t of_head = std::min(sent, head.size());
    head.remove_prefix(of_head);
    payload.remove_prefix(sent - of_head);
  }
  return {};
}

Result<bool> FrameStream::read_some() {
  const auto room = reader_.room();
  const ssize_t count = ::read(socket_.get(), room.data(), room.size());
  if (count > 0) reader_.fill(static_cast<std::size_t>(count));
  if (count > 0) return true;
  if (count < 0 && (errno == EAGAIN || errno == EINTR)) return false;
  if (count < 0) return fail_errno(ErrorKind::System, "the connection has ended");
  return fail(ErrorKind::System, "the connection has ended");
}

Result<std::optional<Frame>> FrameStream::poll() {
  auto frame = reader_.next();
  if (!frame || *frame) return frame;
  auto came = read_some();
  if (!came) return propagate(came);
  if (!*came) return std::nullopt;
  return reader_.next();
}

Result<Frame> FrameStream::receive(std::optional<Deadline> deadline) {
  if (auto goes_on = check_cancel(); !goes_on) return propagate(goes_on);
  for (;;) {
    auto frame = poll();
    if (!frame) return propagate(frame);
    if (*frame) return **frame;
    auto ready = wait(POLLIN, deadline);
    if (!ready) return propagate(ready);
  }
}

void FrameStream::finish() {
  ::shutdown(socket_.get(), SHUT_WR);
  const Deadline deadline = std::chrono::steady_clock::now() + kLongestFarewell;
  std::array<char, 16 * 1024> unread{};
  for (;;) {
    const ssize_t count = ::read(socket_.get(), unread.data(), unread.size());
    if (count == 0 || (count < 0 && errno != EAGAIN && errno != EINTR)) return;
    if (count < 0 && !wait(POLLIN, deadline)) return;
    if (std::chrono::steady_clock::now() >= deadline) return;
  }
}

}  // namespace mayfly::agent
