#include "vmm/boot/memory_map.h"

#include "vmm/boot/layout.h"

namespace mayfly {

std::vector<MemoryMapEntry> memory_map(const GuestMemory& memory) {
  const std::uint64_t reserved = layout::kReservedLow.value;
  const std::uint64_t high = layout::kKernelFloor.value;
  std::vector<MemoryMapEntry> map;
  map.reserve(kMaximumMemoryMapEntries);
  map.push_back({.start = 0, .size = reserved, .type = MemoryType::Ram});
  map.push_back({.start = reserved, .size = high - reserved, .type = MemoryType::Reserved});
  if (memory.low_end().value > high)
    map.push_back({.start = high, .size = memory.low_end().value - high, .type = MemoryType::Ram});
  for (const GuestMemory::Region& region : memory.regions())
    if (region.start.value != 0)
      map.push_back({.start = region.start.value, .size = region.size(), .type = MemoryType::Ram});
  ensure(map.size() <= kMaximumMemoryMapEntries, "guest memory has more regions than the memory map has room for");
  return map;
}

}  // namespace mayfly
