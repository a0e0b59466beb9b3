#pragma once

#include "vmm/base/error.h"
#include "vmm/base/owned_fd.h"
#include "vmm/memory/guest_memory.h"

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

/// Which pages of a guest's memory a memory file has to hold.
///
///   auto pages = touched_pages(memory);      // a full snapshot: everything that is not just zero
///   auto pages = private_pages(memory);      // what may differ from the file that the memory was mapped from
///   auto pages = pages_of(memory, bitmap);   // what a log says
///   drop_private_pages(memory);              // a machine goes back to its snapshot
///
/// Guest memory lies in the file region after region, without the hole between them.
namespace mayfly {

/// Whole pages, as offsets in the memory file, in bytes.
struct PageRange {
  std::uint64_t offset = 0;
  std::uint64_t length = 0;
  [[nodiscard]] constexpr std::uint64_t end() const noexcept { return offset + length; }
  friend bool operator==(const PageRange&, const PageRange&) = default;
};

/// Ascending; neither overlapping nor adjacent.
using PageRanges = std::vector<PageRange>;

/// Whether the guest, or a device, writes to memory while it is looked at.
enum class MemoryIs {
  Still,
  WrittenTo  ///< A page of zeros may have been another a moment ago.
};

/// Pages that are this process's own: written to by the guest, a device or a loader; on anonymous memory also what was
/// only read. Pages of zeros count, since a diff's base may have data there. `base_data` says where it may; pages of zeros
/// elsewhere are left out, unless memory is written to. Null: anywhere.
/// Costs as much as there are such pages, not as much as there is memory (Linux 6.7 and later; before, a read of 8
/// bytes a page). Errors: the host does not tell.
[[nodiscard]] Result<PageRanges> private_pages(const GuestMemory& memory, const PageRanges* base_data = nullptr,
                                               MemoryIs memory_is = MemoryIs::Still);

/// Every page whose content may be other than zero: private_pages() over a base without data, and what mapped files have
/// data for. Of memory that is written to, also pages of zeros.
[[nodiscard]] Result<PageRanges> touched_pages(const GuestMemory& memory, MemoryIs memory_is = MemoryIs::Still);

/// Whose pages without a file are, in bytes: no other process's, or also a parent's or child's (of fork).
struct PageSharing {
  std::uint64_t own = 0;
  std::uint64_t shared = 0;
};
/// The pages of this process, for sharing_of(). Error: the host does not tell.
[[nodiscard]] Result<OwnedFd> open_pagemap();
/// Reads 8 bytes a page, and no page: of memory that is gone there are none. Any thread. Error: the host does not tell.
[[nodiscard]] Result<PageSharing> sharing_of(const OwnedFd& pagemap, std::span<const std::span<std::byte>> memory);
/// Guest memory from `offset` of its file on, as many pieces as there are regions.
[[nodiscard]] std::vector<std::span<std::byte>> ram_from(const GuestMemory& memory, std::uint64_t offset = 0);

inline constexpr std::size_t kMostDroppedStretches = 1 << 16;

/// Drops private_pages() of memory that is all mapped from files (GuestMemory::is_all_mapped()), so that all of it shows
/// the files again; what was only read stays mapped, but where there are more than `most_stretches` of them: then
/// everything is dropped, which takes a bounded time. The bytes that were private. Errors: the host does not tell; memory
/// may be dropped in part then.
[[nodiscard]] Result<std::uint64_t> drop_private_pages(const GuestMemory& memory,
                                                       std::size_t most_stretches = kMostDroppedStretches);

/// The pages whose bits are set: in the regions' order, each region's from a new word on.
[[nodiscard]] PageRanges pages_of(const GuestMemory& memory, std::span<const std::uint64_t> bitmap);

/// Takes the log of a region's pages into zeroed words, a bit a page, and has the log forget them.
using TakeDirtyLog = std::function<Status(std::uint32_t region, std::span<std::uint64_t> bitmap)>;

/// Adds what `take` tells of each region to `changed`, a bitmap as pages_of() has it (made as large where it is empty).
/// Error: the first of `take`; the logs of the regions before it are in `changed`, since KVM has forgotten them.
[[nodiscard]] Status add_dirty_log(const GuestMemory& memory, const TakeDirtyLog& take,
                                   std::vector<std::uint64_t>& changed);

/// Sorted and joined, as PageRanges are.
[[nodiscard]] PageRanges merged(std::vector<PageRange> ranges);

[[nodiscard]] std::uint64_t bytes_in(std::span<const PageRange> ranges) noexcept;

/// The guest's bytes that lie at `offset` of the file, as many as are contiguous here too, at most `length`.
[[nodiscard]] std::span<std::byte> bytes_at(const GuestMemory& memory, std::uint64_t offset,
                                            std::uint64_t length) noexcept;

/// The file whose byte the memory shows at `offset` where it has not changed. The memory has files.
[[nodiscard]] int file_at(const GuestMemory& memory, std::uint64_t offset) noexcept;

namespace detail {
/// private_pages() as older hosts make it possible: by /proc/self/pagemap, and a look at what is there. For tests.
[[nodiscard]] Result<PageRanges> private_pages_by_pagemap(const GuestMemory& memory,
                                                          const PageRanges* base_data = nullptr,
                                                          MemoryIs memory_is = MemoryIs::Still);
}  // namespace detail

}  // namespace mayfly
