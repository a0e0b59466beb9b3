#include "rootfs-tools/agent/host/forwarded_signals.h"

#include <pthread.h>
#include <sys/signalfd.h>
#include <unistd.h>

namespace mayfly::agent {

ForwardedSignals::ForwardedSignals() {
  sigset_t wanted{};
  ::sigemptyset(&wanted);
  for (const int number : {SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2, SIGWINCH}) {
    struct sigaction action{};
    if (::sigaction(number, nullptr, &action) == 0 && action.sa_handler != SIG_IGN) ::sigaddset(&wanted, number);
  }
  ::pthread_sigmask(SIG_BLOCK, &wanted, &before_);
  signals_ = OwnedFd{::signalfd(-1, &wanted, SFD_CLOEXEC | SFD_NONBLOCK)};
}

ForwardedSignals::~ForwardedSignals() { ::pthread_sigmask(SIG_SETMASK, &before_, nullptr); }

std::optional<int> ForwardedSignals::next() const {
  signalfd_siginfo info{};
  if (::read(signals_.get(), &info, sizeof info) != static_cast<ssize_t>(sizeof info)) return std::nullopt;
  return static_cast<int>(info.ssi_signo);
}

}  // namespace mayfly::agent
