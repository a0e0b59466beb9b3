#include "vmm/boot/pvh_start_info.h"

#include "vmm/boot/layout.h"
#include "vmm/boot/memory_map.h"

namespace mayfly {

void write_pvh_start_info(const GuestMemory& memory, const std::optional<AddressRange>& initrd) {
  PvhStartInfo info{.magic = kPvhMagic,
                    .version = kPvhVersion,
                    .flags = 0,
                    .module_count = initrd ? 1U : 0U,
                    .module_list_address = initrd ? layout::kPvhModuleList.value : 0,
                    .command_line_address = layout::kCommandLine.value,
                    .rsdp_address = layout::kRsdp.value,
                    .memory_map_address = layout::kPvhMemoryMap.value,
                    .memory_map_entries = 0,
                    .reserved = 0};
  bool written = true;
  GuestAddress at = layout::kPvhMemoryMap;
  for (const MemoryMapEntry& entry : memory_map(memory)) {
    written &= memory.store(
        at,
        PvhMemoryMapEntry{
            .start = entry.start, .size = entry.size, .type = static_cast<std::uint32_t>(entry.type), .reserved = 0});
    at.value += sizeof(PvhMemoryMapEntry);
    ++info.memory_map_entries;
  }
  if (initrd)
    written &= memory.store(
        layout::kPvhModuleList,
        PvhModule{.address = initrd->start, .size = initrd->size(), .command_line_address = 0, .reserved = 0});
  written &= memory.store(layout::kPvhStartInfo, info);
  ensure(written, "the PVH start info lies outside guest memory");
}

}  // namespace mayfly
