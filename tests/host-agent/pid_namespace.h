#pragma once

#include "vmm/base/error.h"
#include "vmm/base/owned_fd.h"

#include <sys/types.h>

#include <utility>

/// A PID namespace, so that processes that are no children of ours end with us.
///
/// The problem: a machine that was branched off is its parent's child. It gets no signal when we are killed
/// (PR_SET_PDEATHSIG is not inherited by fork), and it outlives its parent by design. The kernel ends all processes of a
/// PID namespace with the namespace's first process; so that one is a process of ours, which ends when we do.
///
///   auto space = PidNamespace::enter();           // processes that this thread starts from now on live there
///   auto parent = MonitorProcess::start(...);     // and so do those that it makes by fork
namespace mayfly::host_agent {

class PidNamespace {
 public:
  /// The calling thread can start no threads afterwards. Errors: no right to (it takes root).
  [[nodiscard]] static Result<PidNamespace> enter();

  PidNamespace(PidNamespace&&) noexcept = default;
  PidNamespace& operator=(PidNamespace&&) = delete;
  PidNamespace(const PidNamespace&) = delete;
  PidNamespace& operator=(const PidNamespace&) = delete;
  /// Kills all processes there, and waits for them. Who started some has waited for those already: the kernel keeps a
  /// namespace until they are gone.
  ~PidNamespace();

  /// Whether somebody has killed its first process, and with it all others.
  [[nodiscard]] bool has_ended() const;

 private:
  PidNamespace(pid_t first, OwnedFd life) : first_(first), life_(std::move(life)) {}

  pid_t first_;
  OwnedFd life_;  // a pipe's end that we alone have; the first process waits at the other
};

}  // namespace mayfly::host_agent
