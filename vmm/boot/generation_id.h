#pragma once

#include "vmm/base/error.h"
#include "vmm/memory/guest_memory.h"

/// The 128-bit number by which a guest learns that it is a copy (Microsoft, "Virtual Machine Generation ID"). The guest
/// finds its address through ACPI (acpi_tables.h) and reseeds its random numbers when it changes.
///
///   renew_generation_id(memory);      // in a restored clone, before its vCPUs run;
///   event_irq.raise();                // then the line layout::kEventGsi, so that the guest looks
namespace mayfly {

/// Writes a fresh random number to layout::kGenerationId. No vCPU may be running. prepare_boot() does this too.
/// Errors: the host has no random numbers.
[[nodiscard]] Status renew_generation_id(const GuestMemory& memory);

}  // namespace mayfly
