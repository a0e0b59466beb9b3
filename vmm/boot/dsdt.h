#pragma once

#include "vmm/boot/command_line.h"
#include "vmm/boot/table_bytes.h"

#include <span>

/// The devices of the machine as a kernel with ACPI sees them, in ASL's words:
///
///   Name (_S5, Package () {5, 5})
///   Scope (\_SB) { Device (V000) {...} ... Device (COM1) {...} Device (KBD0) {...} Device (PVPC) {...}
///                  Device (VGEN) {...} Device (GED0) {...} }
namespace mayfly {

/// At most this many windows: the IOAPIC's pins are fewer.
inline constexpr std::size_t kMaximumWindows = 24;

/// The body of the DSDT, behind its header. The windows lie below 4 GiB. Pure.
[[nodiscard]] TableBytes dsdt_body(std::span<const VirtioMmioWindow> windows);

}  // namespace mayfly
