#pragma once

#include "vmm/boot/address_range.h"
#include "vmm/memory/guest_memory.h"

#include <asm/bootparam.h>

#include <optional>

/// The zero page (struct boot_params): what a kernel that is entered by the Linux protocol learns about its machine.
/// Linux Documentation/arch/x86/zero-page.rst and boot.rst.
///
///   write_zero_page(memory, {.header = elf_setup_header(), .initrd = range});
namespace mayfly {

struct ZeroPageOptions {
  setup_header header{};  ///< The bzImage's own, or elf_setup_header().
  std::optional<AddressRange> initrd;
};

/// The header for an ELF kernel, which carries none.
[[nodiscard]] setup_header elf_setup_header() noexcept;

/// Writes the page to layout::kZeroPage: the header with the loader's fields filled in, memory map, command line at
/// layout::kCommandLine, initrd, RSDP at layout::kRsdp; all else zero.
void write_zero_page(const GuestMemory& memory, const ZeroPageOptions& options);

}  // namespace mayfly
