#pragma once

#include <linux/capability.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace mayfly::testing {

/// While it lives, the modes of files hold for this thread, as they do for whoever is not root.
class NoOverride {
 public:
  NoOverride() {
    (void)::syscall(SYS_capget, &header_, &before_[0]);
    __user_cap_data_struct less[2] = {before_[0], before_[1]};
    less[0].effective &= ~((1U << CAP_DAC_OVERRIDE) | (1U << CAP_DAC_READ_SEARCH));
    (void)::syscall(SYS_capset, &header_, &less[0]);
  }
  NoOverride(const NoOverride&) = delete;
  NoOverride& operator=(const NoOverride&) = delete;
  ~NoOverride() { (void)::syscall(SYS_capset, &header_, &before_[0]); }

 private:
  __user_cap_header_struct header_{.version = _LINUX_CAPABILITY_VERSION_3, .pid = 0};
  __user_cap_data_struct before_[2]{};
};

}  // namespace mayfly::testing
