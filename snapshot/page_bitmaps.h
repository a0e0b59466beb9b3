#pragma once

#include "snapshot/pages.h"

#include <cstdint>
#include <span>
#include <stop_token>
#include <vector>

/// Guest memory for a process that reads it from outside (process_vm_readv(2)): where it is, and which pages are worth it.
///
///   auto places = mappings_of(memory);
///   auto pages = look_at_pages(memory, MemoryIs::Still, stop);   // pages.resident without pages.empty: what to copy
///
/// A bitmap has a bit a page of page_size_of(), the lowest bit of a word first. Pages are numbered as they lie in a memory
/// file: region after region, without the hole between them.
namespace mayfly {

/// A region of guest memory in this process.
struct MemoryMapping {
  std::uint64_t host_address = 0;
  std::uint64_t size = 0;
  std::uint64_t offset = 0;  ///< In a memory file.
  std::uint64_t page_size = 0;
  friend bool operator==(const MemoryMapping&, const MemoryMapping&) = default;
};

using PageBitmap = std::vector<std::uint64_t>;

/// What whoever reads the memory takes for a page: 2 MiB for pages of the host's pool, else 4 KiB.
[[nodiscard]] std::uint64_t page_size_of(const GuestMemory& memory) noexcept;

[[nodiscard]] std::vector<MemoryMapping> mappings_of(const GuestMemory& memory);

/// The bits of pages that `ranges` have a part of.
[[nodiscard]] PageBitmap bitmap_of(const GuestMemory& memory, std::span<const PageRange> ranges);

struct LookedAtPages {
  PageBitmap resident;
  PageBitmap empty;  ///< Of the resident ones, those of zeros.
};

/// Reads all resident pages. A page is resident if it may be other than zero (touched_pages()). Where somebody gives the
/// pages (GuestMemory::is_served()), it is resident once it is here: this asks for none. Any thread. Errors: the host
/// does not tell; a stop.
[[nodiscard]] Result<LookedAtPages> look_at_pages(const GuestMemory& memory, MemoryIs memory_is,
                                                  const std::stop_token& stop);

}  // namespace mayfly
