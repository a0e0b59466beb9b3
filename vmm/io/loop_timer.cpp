#include "vmm/io/loop_timer.h"

#include <poll.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include <ctime>
#include <utility>

namespace mayfly {

LoopTimer::LoopTimer(EventLoop& loop, OwnedFd fd, std::move_only_function<void()> fire) noexcept
    : loop_(loop),
      fd_(std::move(fd)),
      fire_(std::move(fire)),
      operation_([this](int result, bool more) { on_ready(result, more); }) {}

void LoopTimer::on_ready(int result, bool more) noexcept {
  if (result < 0) return;
  if (!more) loop_.poll(fd_.get(), POLLIN, operation_);  // the kernel may end a multishot poll at any time
  std::uint64_t expirations = 0;
  // Nothing to read: cancelled or armed again between the expiry and now.
  if (::read(fd_.get(), &expirations, sizeof expirations) == sizeof expirations) fire_();
}

Result<std::unique_ptr<LoopTimer>> LoopTimer::create(EventLoop& loop, std::move_only_function<void()> fire) {
  OwnedFd fd{::timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK)};
  if (!fd) return fail_errno(ErrorKind::System, "cannot make a timer descriptor");
  return std::unique_ptr<LoopTimer>{new LoopTimer{loop, std::move(fd), std::move(fire)}};
}

void LoopTimer::listen() {
  if (!std::exchange(listening_, true)) loop_.poll(fd_.get(), POLLIN, operation_);
}

void LoopTimer::arm(std::uint64_t deadline_ns) noexcept {
  const std::uint64_t at = deadline_ns == 0 ? 1 : deadline_ns;  // 0 would disarm
  itimerspec when{};
  when.it_value.tv_sec = static_cast<time_t>(at / 1'000'000'000);
  when.it_value.tv_nsec = static_cast<long>(at % 1'000'000'000);
  ensure(::timerfd_settime(fd_.get(), TFD_TIMER_ABSTIME, &when, nullptr) == 0, "timerfd_settime refused a deadline");
}

void LoopTimer::cancel() noexcept {
  const itimerspec never{};
  ensure(::timerfd_settime(fd_.get(), 0, &never, nullptr) == 0, "timerfd_settime refused to disarm");
}

}  // namespace mayfly
