#include "vmm/io/signals.h"

#include <poll.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>

namespace mayfly {
namespace {

sigset_t stop_signals() {
  sigset_t set;
  ::sigemptyset(&set);
  ::sigaddset(&set, SIGTERM);
  ::sigaddset(&set, SIGINT);
  return set;
}

}  // namespace

Status StopSignals::block() {
  const sigset_t set = stop_signals();
  errno = ::pthread_sigmask(SIG_BLOCK, &set, nullptr);
  // A reader that goes away, and a file that may not grow, are errors of the write that meets them. Whoever started us may
  // ignore SIGCHLD, and we inherit that: the kernel would then reap our children, and tell nobody how they ended.
  if (errno != 0 || ::signal(SIGPIPE, SIG_IGN) == SIG_ERR || ::signal(SIGXFSZ, SIG_IGN) == SIG_ERR ||
      ::signal(SIGCHLD, SIG_DFL) == SIG_ERR)
    return fail_errno(ErrorKind::System, "cannot set the signal mask");
  return {};
}

Result<std::unique_ptr<StopSignals>> StopSignals::watch(EventLoop& loop, std::function<void(int)> on_signal) {
  const sigset_t set = stop_signals();
  OwnedFd fd{::signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK)};
  if (!fd) return fail_errno(ErrorKind::System, "cannot make a signal descriptor");
  std::unique_ptr<StopSignals> signals{new StopSignals{loop, std::move(fd), std::move(on_signal)}};
  loop.poll(signals->fd_.get(), POLLIN, signals->operation_);
  return signals;
}

StopSignals::StopSignals(EventLoop& loop, OwnedFd fd, std::function<void(int)> on_signal)
    : loop_(loop),
      fd_(std::move(fd)),
      on_signal_(std::move(on_signal)),
      operation_([this](int result, bool more) { on_ready(result, more); }) {}

void StopSignals::on_ready(int result, bool more) {
  if (result < 0) return;
  if (!more) loop_.poll(fd_.get(), POLLIN, operation_);
  // The end of the machine waits for its vCPUs, and a vCPU may wait for another completion of this batch.
  loop_.post([this] { look(); });
}

void StopSignals::look() {
  signalfd_siginfo info{};
  while (::read(fd_.get(), &info, sizeof info) == sizeof info) on_signal_(static_cast<int>(info.ssi_signo));
}

}  // namespace mayfly
