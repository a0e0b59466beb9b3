#include "snapshot/page_bitmaps.h"

#include "vmm/base/try.h"
#include "vmm/base/zeros.h"

#include <algorithm>

namespace mayfly {
namespace {

constexpr std::uint64_t kPagesABitmapWord = 64;

void set_bit(PageBitmap& bitmap, std::uint64_t page) {
  bitmap[page / kPagesABitmapWord] |= std::uint64_t{1} << page % kPagesABitmapWord;
}

PageBitmap no_pages(const GuestMemory& memory) {
  const std::uint64_t pages = memory.size() / page_size_of(memory);
  return PageBitmap((pages + kPagesABitmapWord - 1) / kPagesABitmapWord);
}

}  // namespace

std::uint64_t page_size_of(const GuestMemory& memory) noexcept {
  return memory.pages() == HugePages::Explicit2M ? 2 * kMiB : kGuestPageSize;
}

std::vector<MemoryMapping> mappings_of(const GuestMemory& memory) {
  std::vector<MemoryMapping> mappings;
  std::uint64_t offset = 0;
  for (const GuestMemory::Region& region : memory.regions()) {
    mappings.push_back({.host_address = reinterpret_cast<std::uintptr_t>(region.mapping.address()),
                        .size = region.size(),
                        .offset = offset,
                        .page_size = page_size_of(memory)});
    offset += region.size();
  }
  return mappings;
}

PageBitmap bitmap_of(const GuestMemory& memory, std::span<const PageRange> ranges) {
  const std::uint64_t page_size = page_size_of(memory);
  PageBitmap bitmap = no_pages(memory);
  for (const PageRange& range : ranges)
    for (std::uint64_t page = range.offset / page_size; page * page_size < range.end(); ++page) set_bit(bitmap, page);
  return bitmap;
}

Result<LookedAtPages> look_at_pages(const GuestMemory& memory, MemoryIs memory_is, const std::stop_token& stop) {
  const std::uint64_t page_size = page_size_of(memory);
  const PageRanges here = TRY(memory.is_served() ? private_pages(memory) : touched_pages(memory, memory_is));
  LookedAtPages found{.resident = bitmap_of(memory, here), .empty = no_pages(memory)};
  for (const PageRange& range : here) {
    for (std::uint64_t page = range.offset / page_size; page * page_size < range.end(); ++page) {
      if (stop.stop_requested()) return fail(ErrorKind::State, "the machine has ended");
      if (is_all_zeros(bytes_at(memory, page * page_size, page_size))) set_bit(found.empty, page);
    }
  }
  return found;
}

}  // namespace mayfly
