#pragma once

#include "vmm/boot/command_line.h"
#include "vmm/memory/guest_memory.h"

#include <span>

/// The ACPI tables (ACPI 6.5, chapter 5), by which distribution kernels find processors, interrupt lines and devices.
///
///   write_acpi_tables(memory, 2, windows);
///
/// Hardware-reduced: no fixed hardware but the sleep registers and the reset register. For Linux that means no 8259, no
/// PIT and no SCI: timers must come from the LAPIC (TSC deadline) and the clock from CPUID or kvm-clock.
namespace mayfly {

/// Writes RSDP to layout::kRsdp and XSDT, FADT, MADT and DSDT after it. vcpu_count is 1 to kMaximumVcpus; the windows
/// lie below 4 GiB, each with a line of its own.
///
/// DSDT: one LNRO0005 a window, COM1, an i8042 keyboard, pvpanic, the VM generation id with the event device that says
/// when it changed, and _S5.
void write_acpi_tables(const GuestMemory& memory, unsigned vcpu_count, std::span<const VirtioMmioWindow> windows);

}  // namespace mayfly
