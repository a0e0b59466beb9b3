#pragma once

#include "vmm/base/owned_fd.h"

#include <fcntl.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace mayfly::testing {

/// Whether this process may have page faults of its own served, asked as the monitor asks.
inline bool user_faults_are_permitted() {
  if (::access("/dev/userfaultfd", R_OK | W_OK) == 0) return true;
  return OwnedFd{static_cast<int>(::syscall(SYS_userfaultfd, O_CLOEXEC))}.get() >= 0;
}

}  // namespace mayfly::testing
