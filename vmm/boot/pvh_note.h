#pragma once

#include "vmm/base/error.h"

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>

/// The note by which a kernel says where it can be entered in 32-bit protected mode without paging:
/// XEN_ELFNOTE_PHYS32_ENTRY (Xen public/elfnote.h and docs/misc/pvh.pandoc).
///
///   auto entry = find_pvh_entry(notes, segment.p_align);
///   if (entry && *entry) start_at(**entry);
namespace mayfly {

/// Looks through the bytes of one PT_NOTE segment, whose notes are padded to `alignment` (4, or 8 where p_align is 8).
/// nullopt: no such note. Errors (InvalidArgument; the caller names the file): a note that leaves the segment, an entry
/// of neither 4 nor 8 bytes, an entry beyond 4 GiB. Pure.
[[nodiscard]] Result<std::optional<std::uint32_t>> find_pvh_entry(std::span<const std::byte> notes,
                                                                  std::uint64_t alignment);

}  // namespace mayfly
