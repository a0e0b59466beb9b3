#include "tests/host-agent/pid_namespace.h"

#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>

namespace mayfly::host_agent {
namespace {

/// The namespace's first process: system calls and nothing else, since other threads were in the heap at the fork. It
/// ends when nobody has the pipe's other end any more, whatever ended us.
[[noreturn]] void live_as_first(int life) {
  ::prctl(PR_SET_NAME, "clones-init");
  ::signal(SIGCHLD, SIG_IGN);  // whose parents have ended are its children, and nobody asks for their exit codes
  // Nothing of ours stays open by it: clients, the listener, TAPs.
  if (::dup2(life, 0) != 0 || ::syscall(SYS_close_range, 1U, ~0U, 0U) != 0) ::_exit(1);
  char nothing = 0;
  while (::read(0, &nothing, 1) < 0 && errno == EINTR) {
  }
  ::_exit(0);
}

/// Where the calling thread is itself, which a thread that makes a second one must go back to.
Status leave_for_own() {
  const OwnedFd own{::open("/proc/thread-self/ns/pid", O_RDONLY | O_CLOEXEC)};
  if (!own || ::setns(own.get(), CLONE_NEWPID) != 0)
    return fail_errno(ErrorKind::Permission, "cannot leave a PID namespace");
  return {};
}

}  // namespace

Result<PidNamespace> PidNamespace::enter() {
  if (auto left = leave_for_own(); !left) return propagate(left);
  std::array<int, 2> ends{};
  if (::pipe2(ends.data(), O_CLOEXEC) != 0) return fail_errno(ErrorKind::System, "cannot make a pipe");
  const OwnedFd waits{ends[0]};
  OwnedFd life{ends[1]};
  if (::unshare(CLONE_NEWPID) != 0)
    return fail_errno(ErrorKind::Permission, "cannot make a PID namespace; run as root");
  const pid_t first = ::fork();
  if (first < 0) return fail_errno(ErrorKind::System, "cannot make a PID namespace's first process");
  if (first == 0) live_as_first(waits.get());
  return PidNamespace{first, std::move(life)};
}

PidNamespace::~PidNamespace() {
  if (!life_) return;  // moved from
  life_.reset();
  while (::waitpid(first_, nullptr, 0) < 0 && errno == EINTR) {
  }
}

bool PidNamespace::has_ended() const {
  siginfo_t end{};
  return ::waitid(P_PID, static_cast<id_t>(first_), &end, WEXITED | WNOHANG | WNOWAIT) != 0 || end.si_pid != 0;
}

}  // namespace mayfly::host_agent
