#include "vmm/boot/pvh_note.h"

#include "vmm/boot/address_range.h"

#include <elf.h>

#include <algorithm>
#include <cstring>
#include <string_view>

namespace mayfly {
namespace {

using namespace std::string_view_literals;

constexpr std::uint32_t kXenElfnotePhys32Entry = 18;
constexpr auto kXenName = "Xen\0"sv;

Result<std::uint32_t> entry_of(std::span<const std::byte> descriptor) {
  std::uint64_t entry = 0;
  if (descriptor.size() != 4 && descriptor.size() != 8)
    return fail(ErrorKind::InvalidArgument, "its PVH note has {} bytes instead of 4 or 8", descriptor.size());
  std::memcpy(&entry, descriptor.data(), descriptor.size());
  if (entry > UINT32_MAX)
    return fail(ErrorKind::InvalidArgument, "its PVH entry point {:#x} is not below 4 GiB", entry);
  return static_cast<std::uint32_t>(entry);
}

}  // namespace

Result<std::optional<std::uint32_t>> find_pvh_entry(std::span<const std::byte> notes, std::uint64_t alignment) {
  const std::uint64_t padding = alignment == 8 ? 8 : 4;
  std::uint64_t at = 0;
  // Every turn takes at least a header's bytes; a tail too short for one is padding.
  while (notes.size() - at >= sizeof(Elf64_Nhdr)) {
    Elf64_Nhdr header;
    std::memcpy(&header, notes.data() + at, sizeof(header));
    const std::uint64_t name_at = at + sizeof(header);
    // The sizes are 32 bits wide and the offset is below the segment's size: no sum here can wrap.
    const std::uint64_t descriptor_at = at + *align_up(sizeof(header) + header.n_namesz, padding);
    if (descriptor_at > notes.size() || header.n_descsz > notes.size() - descriptor_at)
      return fail(ErrorKind::InvalidArgument, "the note at offset {:#x} of its PT_NOTE segment leaves the segment", at);
    const auto name = notes.subspan(name_at, header.n_namesz);
    if (header.n_type == kXenElfnotePhys32Entry && std::ranges::equal(name, std::as_bytes(std::span{kXenName}))) {
      auto entry = entry_of(notes.subspan(descriptor_at, header.n_descsz));
      if (!entry) return propagate(entry);
      return *entry;
    }
    at = std::min<std::uint64_t>(*align_up(descriptor_at + header.n_descsz, padding), notes.size());
  }
  return std::nullopt;
}

}  // namespace mayfly
