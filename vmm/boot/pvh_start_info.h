#pragma once

#include "vmm/boot/address_range.h"
#include "vmm/memory/guest_memory.h"

#include <cstdint>
#include <optional>

/// What a kernel that is entered by the PVH protocol learns about its machine: the structures of Xen's
/// public/arch-x86/hvm/start_info.h, version 1.
///
///   write_pvh_start_info(memory, initrd);   // then enter with EBX = layout::kPvhStartInfo
namespace mayfly {

inline constexpr std::uint32_t kPvhMagic = 0x336E'C578;
inline constexpr std::uint32_t kPvhVersion = 1;

struct PvhStartInfo {
  std::uint32_t magic;
  std::uint32_t version;
  std::uint32_t flags;
  std::uint32_t module_count;
  std::uint64_t module_list_address;
  std::uint64_t command_line_address;
  std::uint64_t rsdp_address;
  std::uint64_t memory_map_address;
  std::uint32_t memory_map_entries;
  std::uint32_t reserved;
};
static_assert(sizeof(PvhStartInfo) == 56);

struct PvhModule {
  std::uint64_t address;
  std::uint64_t size;
  std::uint64_t command_line_address;
  std::uint64_t reserved;
};
static_assert(sizeof(PvhModule) == 32);

struct PvhMemoryMapEntry {
  std::uint64_t start;
  std::uint64_t size;
  std::uint32_t type;
  std::uint32_t reserved;
};
static_assert(sizeof(PvhMemoryMapEntry) == 24);

/// Writes start info, module list (the initrd alone) and memory map to their places in layout.h. The command line and
/// the RSDP are pointed to at theirs.
void write_pvh_start_info(const GuestMemory& memory, const std::optional<AddressRange>& initrd);

}  // namespace mayfly
