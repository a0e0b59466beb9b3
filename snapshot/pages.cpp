#include "snapshot/pages.h"

#include "vmm/base/owned_fd.h"
#include "vmm/base/zeros.h"

#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <bit>
#include <iterator>
#include <memory>
#include <utility>

namespace mayfly {
namespace {

// PAGEMAP_SCAN (linux/fs.h of 6.7; Debian 12's headers are older).
struct ScanRegion {
  std::uint64_t start = 0;
  std::uint64_t end = 0;
  std::uint64_t categories = 0;
};
struct ScanArguments {
  std::uint64_t size = sizeof(ScanArguments);
  std::uint64_t flags = 0;
  std::uint64_t start = 0;
  std::uint64_t end = 0;
  std::uint64_t walk_end = 0;
  std::uint64_t regions = 0;
  std::uint64_t region_count = 0;
  std::uint64_t max_pages = 0;
  std::uint64_t category_inverted = 0;
  std::uint64_t category_mask = 0;
  std::uint64_t category_anyof_mask = 0;
  std::uint64_t return_mask = 0;
};
static_assert(sizeof(ScanArguments) == 96 && sizeof(ScanRegion) == 24);
constexpr unsigned long kPagemapScan = _IOWR('f', 16, ScanArguments);
constexpr std::uint64_t kIsFile = 1 << 2;
constexpr std::uint64_t kIsPresent = 1 << 3;
constexpr std::uint64_t kIsSwapped = 1 << 4;
constexpr std::uint64_t kIsZeroPage = 1 << 5;

// An entry of /proc/self/pagemap (Documentation/admin-guide/mm/pagemap.rst).
constexpr std::size_t kEntrySize = 8;
constexpr std::uint64_t kEntryPresent = 1ULL << 63;
constexpr std::uint64_t kEntrySwapped = 1ULL << 62;
constexpr std::uint64_t kEntryFile = 1ULL << 61;
constexpr std::uint64_t kEntryMappedOnce = 1ULL << 56;

void add(std::vector<PageRange>& ranges, std::uint64_t offset, std::uint64_t length) {
  if (!ranges.empty() && ranges.back().end() == offset)
    ranges.back().length += length;
  else
    ranges.push_back({offset, length});
}

/// Adds of a range of zeros what counts. `where`: see zeros_count_in().
void add_zeros(PageRanges& found, const PageRange& zeros, const PageRanges* where) {
  if (where == nullptr) return add(found, zeros.offset, zeros.length);
  for (auto each = std::ranges::upper_bound(*where, zeros.offset, {}, &PageRange::end);
       each != where->end() && each->offset < zeros.end(); ++each) {
    const std::uint64_t begin = std::max(each->offset, zeros.offset);
    add(found, begin, std::min(each->end(), zeros.end()) - begin);
  }
}

/// Where pages of zeros count; null: everywhere. The kernel's shared page of zeros does not show that a page was never
/// written to: it also replaces pages that the guest has cleared, where a huge page is split and where KSM merges them.
const PageRanges* zeros_count_in(const PageRanges* base_data, MemoryIs memory_is) {
  return memory_is == MemoryIs::Still ? base_data : nullptr;
}

/// False where the host has no PAGEMAP_SCAN.
Result<bool> scan(int pagemap, std::span<const std::byte> memory, std::uint64_t offset, const PageRanges* zeros_count,
                  PageRanges& found) {
  std::array<ScanRegion, 512> regions;
  const auto begin = reinterpret_cast<std::uintptr_t>(memory.data());
  ScanArguments arguments{.start = begin,
                          .end = begin + memory.size(),
                          .regions = reinterpret_cast<std::uintptr_t>(regions.data()),
                          .region_count = regions.size(),
                          .category_inverted = kIsFile,
                          .category_mask = kIsFile,
                          .category_anyof_mask = kIsPresent | kIsSwapped,
                          .return_mask = kIsZeroPage};
  while (arguments.start < arguments.end) {
    const int count = ::ioctl(pagemap, kPagemapScan, &arguments);
    if (count < 0 && (errno == ENOTTY || errno == EINVAL)) return false;
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return fail_errno(ErrorKind::System, "PAGEMAP_SCAN of guest memory failed");
    for (const ScanRegion& region : std::span{regions}.first(static_cast<std::size_t>(count))) {
      const PageRange range{offset + (region.start - begin), region.end - region.start};
      if ((region.categories & kIsZeroPage) != 0)
        add_zeros(found, range, zeros_count);
      else
        add(found, range.offset, range.length);
    }
    arguments.start = arguments.walk_end;
  }
  return true;
}

/// Tells `each` of every page's entry, and where it is in `bytes`.
template <typename Each>
Status for_entries(int pagemap, std::span<const std::byte> bytes, Each each) {
  std::array<std::uint64_t, 8192> entries;
  const std::uint64_t first_page = reinterpret_cast<std::uintptr_t>(bytes.data()) / kGuestPageSize;
  const std::uint64_t pages = bytes.size() / kGuestPageSize;
  for (std::uint64_t done = 0; done < pages;) {
    const std::size_t wanted = std::min<std::uint64_t>(entries.size(), pages - done);
    const ssize_t count =
        ::pread(pagemap, entries.data(), wanted * kEntrySize, static_cast<off_t>((first_page + done) * kEntrySize));
    if (count <= 0) return fail_errno(ErrorKind::System, "cannot read /proc/self/pagemap");
    for (const std::uint64_t entry : std::span{entries}.first(static_cast<std::size_t>(count) / kEntrySize))
      each(entry, done++ * kGuestPageSize);
  }
  return {};
}

Status read_entries(int pagemap, const GuestMemory::Region& region, std::uint64_t offset, const PageRanges* zeros_count,
                    PageRanges& found) {
  const std::span<const std::byte> bytes = region.mapping.bytes();
  return for_entries(pagemap, bytes, [&](std::uint64_t entry, std::uint64_t at) {
    if ((entry & (kEntryPresent | kEntrySwapped)) == 0 || (entry & kEntryFile) != 0) return;
    // The entry does not tell which pages were only read: those show the kernel's page of zeros.
    if (zeros_count == nullptr || !is_all_zeros(bytes.subspan(at, kGuestPageSize)))
      add(found, offset + at, kGuestPageSize);
    else
      add_zeros(found, {offset + at, kGuestPageSize}, zeros_count);
  });
}

/// What `range`, whose offset in the memory file is `offset`, has in its file.
Status add_file_data(const GuestMemory::FileRange& range, std::uint64_t offset, std::vector<PageRange>& found) {
  if (!range.file) {
    found.push_back({offset, range.length});
    return {};
  }
  const int fd = range.file->get();
  const std::uint64_t end = range.offset + range.length;
  for (std::uint64_t at = range.offset; at < end;) {
    const off_t data = ::lseek(fd, static_cast<off_t>(at), SEEK_DATA);
    if (data < 0 && errno == ENXIO) return {};
    if (data < 0) return fail_errno(ErrorKind::System, "cannot find the holes of the memory file");
    const off_t hole = ::lseek(fd, data, SEEK_HOLE);
    if (hole < 0) return fail_errno(ErrorKind::System, "cannot find the holes of the memory file");
    const std::uint64_t begin = static_cast<std::uint64_t>(data) / kGuestPageSize * kGuestPageSize;
    const std::uint64_t stop =
        std::min(end, (static_cast<std::uint64_t>(hole) + kGuestPageSize - 1) / kGuestPageSize * kGuestPageSize);
    if (begin >= end) return {};
    found.push_back({offset + (std::max(begin, at) - range.offset), stop - std::max(begin, at)});
    at = stop;
  }
  return {};
}

/// Stretches that one call drops.
constexpr std::size_t kDroppedTogether = 512;

// PIDFD_SELF of Linux 6.14 (linux/pidfd.h). For the own process, process_madvise(2) takes this advice from 6.13 on.
constexpr long kOwnProcess = -10000;

/// One call for all of them where the host has it: it flushes what CPUs know of the pages once.
Status drop(std::span<const iovec> stretches) {
  std::size_t done = 0;
  if (stretches.size() > 1) {
    std::uint64_t bytes = 0;
    const long dropped =
        ::syscall(SYS_process_madvise, kOwnProcess, stretches.data(), stretches.size(), MADV_DONTNEED, 0);
    // After a part of them it says how much.
    while (done < stretches.size() && dropped > 0 &&
           bytes + stretches[done].iov_len <= static_cast<std::uint64_t>(dropped))
      bytes += stretches[done++].iov_len;
  }
  for (const iovec& each : stretches.subspan(done))
    if (::madvise(each.iov_base, each.iov_len, MADV_DONTNEED) != 0)
      return fail_errno(ErrorKind::System, "{} bytes of guest memory cannot be dropped", each.iov_len);
  return {};
}

/// Calls `each(region's bytes, its offset in the file)`; stops at a failure.
template <typename Each>
Status for_regions(const GuestMemory& memory, Each each) {
  std::uint64_t offset = 0;
  for (const GuestMemory::Region& region : memory.regions()) {
    if (auto done = each(region, offset); !done) return done;
    offset += region.size();
  }
  return {};
}

}  // namespace

namespace detail {

Result<PageRanges> private_pages_by_pagemap(const GuestMemory& memory, const PageRanges* base_data,
                                            MemoryIs memory_is) {
  auto pagemap = open_pagemap();
  if (!pagemap) return propagate(pagemap);
  PageRanges found;
  auto read = for_regions(memory, [&](const GuestMemory::Region& region, std::uint64_t offset) {
    return read_entries(pagemap->get(), region, offset, zeros_count_in(base_data, memory_is), found);
  });
  if (!read) return propagate(read);
  return found;
}

}  // namespace detail

Result<OwnedFd> open_pagemap() {
  OwnedFd file{::open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC)};
  if (!file)
    return fail_errno(ErrorKind::System, "cannot find out which pages the guest has touched: /proc/self/pagemap");
  return file;
}

Result<PageSharing> sharing_of(const OwnedFd& pagemap, std::span<const std::span<std::byte>> memory) {
  PageSharing sharing;
  for (const std::span<std::byte>& each : memory) {
    auto read = for_entries(pagemap.get(), each, [&](std::uint64_t entry, std::uint64_t) {
      if ((entry & kEntryPresent) == 0 || (entry & kEntryFile) != 0) return;
      ((entry & kEntryMappedOnce) != 0 ? sharing.own : sharing.shared) += kGuestPageSize;
    });
    if (!read) return propagate(read);
  }
  return sharing;
}

std::vector<std::span<std::byte>> ram_from(const GuestMemory& memory, std::uint64_t offset) {
  std::vector<std::span<std::byte>> pieces;
  for (const GuestMemory::Region& region : memory.regions()) {
    const std::uint64_t skipped = std::min(offset, region.size());
    offset -= skipped;
    if (skipped < region.size()) pieces.push_back(region.mapping.bytes().subspan(skipped));
  }
  return pieces;
}

Result<PageRanges> private_pages(const GuestMemory& memory, const PageRanges* base_data, MemoryIs memory_is) {
  auto pagemap = open_pagemap();
  if (!pagemap) return propagate(pagemap);
  PageRanges found;
  bool scanned = true;
  auto done = for_regions(memory, [&](const GuestMemory::Region& region, std::uint64_t offset) -> Status {
    auto one = scan(pagemap->get(), region.mapping.bytes(), offset, zeros_count_in(base_data, memory_is), found);
    if (!one) return propagate(one);
    scanned = scanned && *one;
    return {};
  });
  if (!done) return propagate(done);
  if (!scanned) return detail::private_pages_by_pagemap(memory, base_data, memory_is);
  return found;
}

Result<PageRanges> touched_pages(const GuestMemory& memory, MemoryIs memory_is) {
  // Where a file has data, its range is added below, whatever is there now.
  const PageRanges no_data;
  auto found = private_pages(memory, &no_data, memory_is);
  if (!found) return found;
  auto added = for_regions(memory, [&](const GuestMemory::Region& region, std::uint64_t offset) -> Status {
    for (const GuestMemory::FileRange& range : memory.file_ranges()) {
      if (range.start < region.start || range.start.value >= region.end()) continue;
      if (auto data = add_file_data(range, offset + (range.start.value - region.start.value), *found); !data)
        return data;
    }
    return {};
  });
  if (!added) return propagate(added);
  return merged(std::move(*found));
}

Result<std::uint64_t> drop_private_pages(const GuestMemory& memory, std::size_t most_stretches) {
  ensure(memory.is_all_mapped(), "memory that is not all a file's cannot be dropped");
  auto changed = private_pages(memory);
  if (!changed) return propagate(changed);
  if (changed->size() > most_stretches) {
    for (const GuestMemory::Region& region : memory.regions())
      if (::madvise(region.mapping.address(), region.size(), MADV_DONTNEED) != 0)
        return fail_errno(ErrorKind::System, "{} bytes of guest memory cannot be dropped", region.size());
    return bytes_in(*changed);
  }
  std::array<iovec, kDroppedTogether> stretches;
  std::size_t count = 0;
  for (PageRange range : *changed)
    while (range.length != 0) {
      const std::span<std::byte> here = bytes_at(memory, range.offset, range.length);
      stretches[count++] = {.iov_base = here.data(), .iov_len = here.size()};
      range = {range.offset + here.size(), range.length - here.size()};
      if (count < stretches.size()) continue;
      if (auto dropped = drop(std::span{stretches}.first(std::exchange(count, 0))); !dropped) return propagate(dropped);
    }
  if (auto dropped = drop(std::span{stretches}.first(count)); !dropped) return propagate(dropped);
  return bytes_in(*changed);
}

PageRanges pages_of(const GuestMemory& memory, std::span<const std::uint64_t> bitmap) {
  PageRanges found;
  (void)for_regions(memory, [&](const GuestMemory::Region& region, std::uint64_t offset) -> Status {
    const std::uint64_t pages = region.size() / kGuestPageSize;
    const std::size_t words = (pages + 63) / 64;
    for (std::size_t i = 0; i < words; ++i)
      for (std::uint64_t word = bitmap[i]; word != 0; word &= word - 1)
        add(found, offset + (i * 64 + static_cast<unsigned>(std::countr_zero(word))) * kGuestPageSize, kGuestPageSize);
    bitmap = bitmap.subspan(words);
    return {};
  });
  return found;
}

Status add_dirty_log(const GuestMemory& memory, const TakeDirtyLog& take, std::vector<std::uint64_t>& changed) {
  const auto words_of = [](const GuestMemory::Region& region) { return (region.size() / kGuestPageSize + 63) / 64; };
  std::size_t words = 0;
  for (const GuestMemory::Region& each : memory.regions()) words += words_of(each);
  changed.resize(words);
  std::span<std::uint64_t> left = changed;
  std::uint32_t region = 0;
  for (const GuestMemory::Region& each : memory.regions()) {
    std::vector<std::uint64_t> log(words_of(each));
    if (auto taken = take(region++, log); !taken) return taken;
    for (std::size_t i = 0; i < log.size(); ++i) left[i] |= log[i];
    left = left.subspan(log.size());
  }
  return {};
}

PageRanges merged(std::vector<PageRange> ranges) {
  std::ranges::sort(ranges, {}, &PageRange::offset);
  PageRanges joined;
  for (const PageRange& range : ranges) {
    if (range.length == 0) continue;
    if (!joined.empty() && range.offset <= joined.back().end())
      joined.back().length = std::max(joined.back().end(), range.end()) - joined.back().offset;
    else
      joined.push_back(range);
  }
  return joined;
}

std::uint64_t bytes_in(std::span<const PageRange> ranges) noexcept {
  std::uint64_t sum = 0;
  for (const PageRange& range : ranges) sum += range.length;
  return sum;
}

int file_at(const GuestMemory& memory, std::uint64_t offset) noexcept {
  const auto& ranges = memory.file_ranges();  // as ascending in the file as in memory
  return std::prev(std::ranges::upper_bound(ranges, offset, {}, &GuestMemory::FileRange::offset))->file->get();
}

std::span<std::byte> bytes_at(const GuestMemory& memory, std::uint64_t offset, std::uint64_t length) noexcept {
  for (const GuestMemory::Region& region : memory.regions()) {
    if (offset < region.size()) return region.mapping.bytes().subspan(offset, std::min(length, region.size() - offset));
    offset -= region.size();
  }
  return {};
}

}  // namespace mayfly
