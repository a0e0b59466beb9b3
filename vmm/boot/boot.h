#pragma once

#include "vmm/base/error.h"
#include "vmm/boot/command_line.h"
#include "vmm/boot/entry_state.h"
#include "vmm/boot/image_file.h"
#include "vmm/memory/guest_memory.h"

#include <optional>
#include <string>
#include <vector>

/// Fills a guest's memory with all that a kernel needs before its first instruction, and says where that is.
///
///   auto kernel = open_boot_file(path, BootFileRole::Kernel);
///   auto entry = prepare_boot(memory, {.kernel_fd = kernel->get(), .kernel_path = path, .command_line = line,
///                                      .vcpu_count = 2, .windows = windows});
///   set_entry_registers(*entry, special, general);   // of the boot processor
///
/// What is written, and where: layout.h. How the image decides the protocol: an ELF kernel with a PVH note is entered
/// by PVH, another ELF kernel and a bzImage by the Linux 64-bit protocol.
namespace mayfly {

struct BootOptions {
  int kernel_fd = -1;
  std::string kernel_path;  ///< For messages alone.
  std::optional<int> initrd_fd = std::nullopt;
  std::string initrd_path = "";  ///< For messages alone.
  std::string command_line;      ///< Complete: see compose_command_line().
  unsigned vcpu_count = 1;       ///< 1 to kMaximumVcpus; APIC ids are 0 to vcpu_count - 1.
  std::vector<VirtioMmioWindow> windows;
};

/// Checks everything first, then writes; the memory must be fresh. The files may be closed afterwards, but must not be
/// written to while the machine lives: their pages are mapped, not copied (see GuestMemory::place_file).
/// Setting up, any thread, no vCPU running. Errors, each naming what to change: an image that is none or is damaged,
/// too little memory for kernel or initrd, a command line that is too long, windows that clash with each other or the
/// machine. After an error the memory is unspecified only where a file could not be read in spite of the checks.
[[nodiscard]] Result<BootEntry> prepare_boot(GuestMemory& memory, const BootOptions& options);

}  // namespace mayfly
