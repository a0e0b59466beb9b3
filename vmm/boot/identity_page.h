#pragma once

#include "vmm/base/error.h"
#include "vmm/memory/guest_memory.h"

#include <cstdint>

/// What tells a guest that it is a copy of another one, in one page, which costs a clone one copy of a page and a page
/// server one answer. The guest finds both parts through ACPI (dsdt.h):
///
///   layout::kVmClock        struct VmClock: its clocks have been disturbed, and it is another machine now
///   layout::kGenerationId   128 random bits (Microsoft, "Virtual Machine Generation ID"), which reseed its random numbers
///
///   renew_identity(memory);           // in a restored clone, before its vCPUs run;
///   event_irq.raise();                // then the line layout::kEventGsi, so that the guest looks
namespace mayfly {

/// UAPI.13, "VMClock", version 1; little-endian. Without a reading of the time: a guest has kvm-clock for that.
struct VmClock {
  static constexpr std::uint32_t kMagic = 0x4B4C'4356;  // "VCLK"
  static constexpr std::uint8_t kNoCounter = 0xFF;
  static constexpr std::uint8_t kTai = 1;
  static constexpr std::uint64_t kHasGeneration = 1U << 7;
  static constexpr std::uint64_t kNotifies = 1U << 8;

  std::uint32_t magic = kMagic;
  std::uint32_t size = kGuestPageSize;
  std::uint16_t version = 1;
  std::uint8_t counter_id = kNoCounter;
  std::uint8_t time_type = kTai;
  std::uint32_t seq_count = 0;  ///< Even; odd only while what follows changes, which no running vCPU sees.
  std::uint64_t disruption_marker = 0;
  std::uint64_t flags = kHasGeneration | kNotifies;
  std::uint8_t unused_clock[0x48] = {};  ///< Status "unknown", and no parameters of a clock.
  std::uint64_t vm_generation_count = 0;
};
static_assert(offsetof(VmClock, disruption_marker) == 0x10 && offsetof(VmClock, vm_generation_count) == 0x68);

/// Writes the page of a machine that boots, with an id of its own. Errors: the host has no random numbers.
[[nodiscard]] Status write_identity(const GuestMemory& memory);

/// Another id, and other counts in the VMClock. No vCPU may be running. A guest whose tables were written by a Mayfly
/// that had no VMClock keeps its id in the same page, where they say. Errors: the host has no random numbers.
[[nodiscard]] Status renew_identity(const GuestMemory& memory);

}  // namespace mayfly
