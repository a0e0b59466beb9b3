#pragma once

#include "vmm/machine/board.h"
#include "vmm/machine/prepared_vm.h"

#include <optional>
#include <string>

namespace mayfly {

/// A machine to boot. The files are open, and borrowed for the call: what was checked is what is booted.
struct BootPlan {
  PreparedVm prepared;  ///< Which has learnt the CPUID. Taken when the guest's memory is ready.
  MachineConfig machine;
  CpuConfig cpu;
  int kernel_fd = -1;
  std::string kernel_path;
  std::optional<int> initrd_fd;
  std::string initrd_path;
  std::string command_line;  ///< Complete.
  DevicePlans devices;
  ConsoleOptions console;
  bool boot_timer = false;
};

/// Puts a machine together before a kernel's first instruction, vCPUs parked. Loop's thread. Errors: KVM's, a kernel or
/// initrd that cannot be loaded, a device's; nothing is left behind then.
[[nodiscard]] Result<std::unique_ptr<Board>> boot(BootPlan plan, MachineContext context);

}  // namespace mayfly
