#pragma once

#include "vmm/base/error.h"
#include "vmm/memory/guest_memory.h"

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

/// The kernel command line: what the user gave, and what the monitor adds for its devices.
///
///   std::vector<std::string> additions{"root=/dev/vda", "ro"};
///   for (const auto& window : windows) additions.push_back(virtio_mmio_argument(window));
///   auto line = compose_command_line(boot_args, additions);
namespace mayfly {

/// The registers and the interrupt line of one virtio-mmio device.
struct VirtioMmioWindow {
  GuestAddress base;
  std::uint64_t size = kGuestPageSize;
  unsigned gsi = 0;
};

/// "virtio_mmio.device=4K@0xd0000000:5" (Linux Documentation/admin-guide/kernel-parameters.txt), for kernels without
/// ACPI. One with both takes the device from ACPI and refuses the second sight of it with a message.
[[nodiscard]] std::string virtio_mmio_argument(const VirtioMmioWindow& window);

/// `boot_args` with `additions` after the kernel's own arguments: before a " -- ", behind which all is for init.
/// Errors: as for check_command_line().
[[nodiscard]] Result<std::string> compose_command_line(std::string_view boot_args,
                                                       std::span<const std::string> additions);

/// Errors: over kMaximumCommandLine bytes (TooLarge), a NUL byte in it (InvalidArgument).
[[nodiscard]] Status check_command_line(std::string_view line);

/// Writes the line and its NUL to layout::kCommandLine.
/// Errors: as for check_command_line().
[[nodiscard]] Status write_command_line(const GuestMemory& memory, std::string_view line);

}  // namespace mayfly
