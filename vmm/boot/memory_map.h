#pragma once

#include "vmm/memory/guest_memory.h"

#include <cstdint>
#include <vector>

/// What a guest is told about its address space, as e820 lists it.
///
///   for (const MemoryMapEntry& entry : memory_map(memory)) zero_page.e820_table[count++] = ...
namespace mayfly {

/// Address range types (ACPI 6.5, table 15.3); e820 and PVH use the same numbers.
enum class MemoryType : std::uint32_t { Ram = 1, Reserved = 2 };

struct MemoryMapEntry {
  std::uint64_t start;
  std::uint64_t size;
  MemoryType type;
};

/// At most this many entries come out of memory_map().
inline constexpr std::size_t kMaximumMemoryMapEntries = 4;

/// Low RAM, the reserved area below 1 MiB, RAM from 1 MiB to the hole, RAM beyond 4 GiB: ascending, none empty.
/// Needs at least 1 MiB of RAM, as GuestMemory always has.
[[nodiscard]] std::vector<MemoryMapEntry> memory_map(const GuestMemory& memory);

}  // namespace mayfly
