#pragma once

#include "vmm/base/owned_fd.h"

#include <sys/syscall.h>
#include <sys/types.h>
#include <unistd.h>

/// Descriptors of processes: pidfd_open(2). <sys/pidfd.h> of Debian 12 cannot be linked to from C++.
namespace mayfly {

/// None, with errno, where there is no such process and where no descriptor is left.
[[nodiscard]] inline OwnedFd open_process(pid_t process) noexcept {
  return OwnedFd{static_cast<int>(::syscall(SYS_pidfd_open, process, 0))};
}

/// False, with errno, where the process has been waited for (ESRCH), or is not ours to signal (EPERM).
[[nodiscard]] inline bool signal_process(const OwnedFd& process, int number) noexcept {
  return ::syscall(SYS_pidfd_send_signal, process.get(), number, nullptr, 0) == 0;
}

}  // namespace mayfly
