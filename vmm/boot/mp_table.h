#pragma once

#include "vmm/memory/guest_memory.h"

#include <cstdint>

/// The MP table (Intel MultiProcessor Specification 1.4): processors and interrupt wiring for kernels without ACPI.
///
///   write_mp_table(memory, 2);
namespace mayfly {

/// The IOAPIC's id: the first after those of the processors, whose APIC ids are 0 to vcpu_count - 1.
[[nodiscard]] constexpr std::uint8_t io_apic_id(unsigned vcpu_count) noexcept {
  return static_cast<std::uint8_t>(vcpu_count);
}

/// Writes floating pointer and configuration table to layout::kMpTable: vcpu_count (1 to kMaximumVcpus) processors, the
/// first of them the boot processor, one ISA bus, one IOAPIC, line n to pin n but for the timer's line 0, which goes to
/// pin 2 as ACPI's tables say too; every line active-high and edge-triggered.
void write_mp_table(const GuestMemory& memory, unsigned vcpu_count);

}  // namespace mayfly
