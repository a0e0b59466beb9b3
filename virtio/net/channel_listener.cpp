#include "virtio/net/channel_listener.h"

#include "vmm/base/error.h"

#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <utility>

namespace mayfly {
namespace {

/// After a socket that could not be accepted for want of descriptors or memory: not a busy loop.
constexpr __kernel_timespec kAcceptAgain{.tv_sec = 0, .tv_nsec = 100'000'000};

/// The host's process has given up, or was never there.
bool is_nobody(int error_number) {
  return error_number == EAGAIN || error_number == EINTR || error_number == ECONNABORTED;
}

}  // namespace

ChannelListener::ChannelListener(int fd, std::string name, EventLoop& loop, Log& log)
    : fd_(fd), name_(std::move(name)), loop_(loop), log_(log), ready_([this](int result, bool) { on_ready(result); }) {}

void ChannelListener::wait(Waiter& waiter) {
  waiters_.push_back(&waiter);
  if (!in_flight_) poll();
}

void ChannelListener::forget(const Waiter& waiter) noexcept {
  std::erase(waiters_, &waiter);
  if (waiters_.empty() && in_flight_ && !std::exchange(cancelled_, true)) loop_.cancel(ready_);
}

void ChannelListener::poll() noexcept {
  in_flight_ = true;
  cancelled_ = false;
  loop_.poll_once(fd_, POLLIN, ready_);
}

void ChannelListener::on_ready(int result) noexcept {
  in_flight_ = false;
  if (result > 0) accept_for_waiters();
  if (!waiters_.empty() && !in_flight_) poll();
}

void ChannelListener::accept_for_waiters() noexcept {
  while (!waiters_.empty()) {
    int failure = 0;
    waiters_.front()->take_host([&] {
      OwnedFd socket{::accept4(fd_, nullptr, nullptr, SOCK_CLOEXEC)};
      failure = socket ? 0 : errno;
      return socket;
    });
    if (failure == 0) {
      waiters_.pop_front();
      continue;
    }
    if (is_nobody(failure)) return;
    if (log_rate_.allow())
      log_.warning("{}: a process of the host cannot be accepted: {}; it is tried again", name_, errno_text(failure));
    in_flight_ = true;
    cancelled_ = false;
    return loop_.sleep(kAcceptAgain, ready_);
  }
}

}  // namespace mayfly
