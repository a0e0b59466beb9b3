#include "vmm/base/held_signals.h"

#include <pthread.h>
#include <sys/signalfd.h>

namespace mayfly {

HeldSignals::HeldSignals(std::initializer_list<int> numbers) noexcept {
  ::sigemptyset(&held_);
  for (const int number : numbers) {
    struct sigaction action{};
    if (::sigaction(number, nullptr, &action) == 0 && action.sa_handler != SIG_IGN) ::sigaddset(&held_, number);
  }
  hold();
}

int HeldSignals::waiting() const noexcept {
  sigset_t pending{};
  ::sigpending(&pending);
  for (int number = 1; number < SIGRTMIN; ++number)
    if (::sigismember(&held_, number) == 1 && ::sigismember(&pending, number) == 1) return number;
  return 0;
}

OwnedFd HeldSignals::watch() const noexcept { return OwnedFd{::signalfd(-1, &held_, SFD_CLOEXEC | SFD_NONBLOCK)}; }

void HeldSignals::let_through() noexcept { ::pthread_sigmask(SIG_SETMASK, &before_, nullptr); }

void HeldSignals::hold() noexcept { ::pthread_sigmask(SIG_BLOCK, &held_, &before_); }

}  // namespace mayfly
