#include "snapshot/pages.h"

#include "tests/unit/snapshot/page_ranges.h"
#include "vmm/base/owned_fd.h"

#include <sys/mman.h>
#include <unistd.h>

#include <gtest/gtest.h>

namespace mayfly {

void PrintTo(const PageRange& range, std::ostream* out) {
  *out << "pages " << range.offset / kGuestPageSize << " to " << range.end() / kGuestPageSize;
}

namespace {

GuestMemory anonymous(std::uint64_t size_mib) {
  auto memory = GuestMemory::create({.size_mib = size_mib});
  EXPECT_TRUE(memory) << memory.error().message;
  return std::move(*memory);
}

void touch(const GuestMemory& memory, std::uint64_t page, std::uint8_t value = 0xA5) {
  ASSERT_TRUE(memory.store(GuestAddress{page * kPage + 17}, value));
}

/// Reads a page: on anonymous memory, that shows the kernel's page of zeros.
void look_at(const GuestMemory& memory, std::uint64_t page) {
  const auto bytes = memory.bytes(GuestAddress{page * kPage}, 1);
  ASSERT_TRUE(bytes);
  (void)*static_cast<const volatile std::byte*>(bytes->data());
}

void clear(const GuestMemory& memory, std::uint64_t page) {
  const std::vector<std::byte> zeros(kPage);
  ASSERT_TRUE(memory.write(GuestAddress{page * kPage}, zeros));
}

/// Both ways to find out, which must agree.
PageRanges own_pages(const GuestMemory& memory, const PageRanges* base_data = nullptr,
                     MemoryIs memory_is = MemoryIs::Still) {
  const auto found = private_pages(memory, base_data, memory_is);
  EXPECT_TRUE(found) << found.error().message;
  const auto slowly = detail::private_pages_by_pagemap(memory, base_data, memory_is);
  EXPECT_TRUE(slowly) << slowly.error().message;
  EXPECT_EQ(*found, *slowly);
  return *found;
}

PageRanges touched(const GuestMemory& memory) {
  const auto found = touched_pages(memory);
  EXPECT_TRUE(found) << found.error().message;
  return *found;
}

/// A file of so many pages, all holes.
OwnedFd sparse_file(std::uint64_t page_count) {
  OwnedFd file{::memfd_create("pages", MFD_CLOEXEC)};
  EXPECT_EQ(::ftruncate(file.get(), static_cast<off_t>(page_count * kPage)), 0);
  return file;
}

void fill_page(const OwnedFd& file, std::uint64_t page, char value = 'f') {
  const std::string content(kPage, value);
  ASSERT_EQ(::pwrite(file.get(), content.data(), kPage, static_cast<off_t>(page * kPage)), static_cast<ssize_t>(kPage));
}

TEST(Pages, UntouchedMemoryHasNone) {
  const GuestMemory memory = anonymous(64);
  EXPECT_EQ(own_pages(memory), PageRanges{});
  EXPECT_EQ(touched(memory), PageRanges{});
}

const PageRanges kNoData;

TEST(Pages, WhatWasWrittenCountsAndWhatWasOnlyReadDoesNot) {
  const GuestMemory memory = anonymous(64);
  for (const std::uint64_t page : {0ULL, 1ULL, 2ULL, 700ULL, 16'383ULL}) touch(memory, page);
  for (const std::uint64_t page : {3ULL, 800ULL}) look_at(memory, page);
  EXPECT_EQ(touched(memory), (PageRanges{pages(0, 3), pages(700), pages(16'383)}));
  EXPECT_EQ(own_pages(memory, &kNoData), touched(memory));
}

TEST(Pages, WhatWasOnlyReadCountsWhereABaseMayHaveData) {
  const GuestMemory memory = anonymous(64);
  touch(memory, 1);
  for (std::uint64_t page = 3; page < 20; ++page) look_at(memory, page);
  EXPECT_EQ(own_pages(memory), (PageRanges{pages(1), pages(3, 17)})) << "anywhere";
  const PageRanges base{pages(0, 5), pages(7, 2), pages(10), pages(18, 100)};
  EXPECT_EQ(own_pages(memory, &base), (PageRanges{pages(1), pages(3, 2), pages(7, 2), pages(10), pages(18, 2)}));
}

TEST(Pages, ZerosWrittenOverDataOfABaseAreAChange) {
  const GuestMemory memory = anonymous(64);
  for (const std::uint64_t page : {5ULL, 6ULL, 7ULL}) touch(memory, page);
  const PageRanges base = touched(memory);
  clear(memory, 5);
  clear(memory, 7);
  EXPECT_EQ(own_pages(memory, &base), PageRanges{pages(5, 3)});
  EXPECT_EQ(own_pages(memory), PageRanges{pages(5, 3)});
}

TEST(Pages, ZerosCountWhereverMemoryIsWrittenTo) {
  const GuestMemory memory = anonymous(64);
  touch(memory, 4);
  look_at(memory, 9);
  EXPECT_EQ(own_pages(memory, &kNoData, MemoryIs::WrittenTo), (PageRanges{pages(4), pages(9)}));
  const auto all = touched_pages(memory, MemoryIs::WrittenTo);
  ASSERT_TRUE(all);
  EXPECT_EQ(*all, (PageRanges{pages(4), pages(9)}));
}

/// The kernel gives back pages of zeros of a huge page that it splits, here since a part of it is said to be cold.
TEST(Pages, ZerosOfASplitHugePageAreAChange) {
  auto memory = GuestMemory::create({.size_mib = 8, .pages = HugePages::Transparent});
  ASSERT_TRUE(memory) << memory.error().message;
  const std::uint64_t count = memory->size() / kPage;
  for (std::uint64_t page = 0; page < count; ++page) touch(*memory, page);
  const PageRanges base = touched(*memory);
  for (std::uint64_t page = 1; page < count; page += 2) clear(*memory, page);
  for (std::uint64_t page = 100; page < count; page += 512)
    ASSERT_EQ(::madvise(memory->bytes(GuestAddress{page * kPage}, kPage)->data(), kPage, MADV_COLD), 0);
  if (touched(*memory) == base) GTEST_SKIP() << "this host has no huge pages, or gives back none of their zeros";
  EXPECT_EQ(own_pages(*memory, &base), PageRanges{pages(0, count)});
  EXPECT_EQ(own_pages(*memory), PageRanges{pages(0, count)});
}

TEST(Pages, MoreRangesThanOneScanReturnsAreAllFound) {
  const GuestMemory memory = anonymous(64);
  PageRanges expected;
  for (std::uint64_t page = 0; page < 4000; page += 2) {
    touch(memory, page);
    expected.push_back(pages(page));
  }
  EXPECT_EQ(own_pages(memory), expected);
}

TEST(Pages, TheRegionBehindTheHoleFollowsTheFirstInTheFile) {
  const GuestMemory memory = anonymous(5 * 1024);
  touch(memory, kMmioHoleStart / kPage - 1);
  touch(memory, kMmioHoleEnd / kPage);
  touch(memory, kMmioHoleEnd / kPage + 9);
  EXPECT_EQ(own_pages(memory), (PageRanges{pages(kMmioHoleStart / kPage - 1, 2), pages(kMmioHoleStart / kPage + 9)}));
}

TEST(Pages, AMappedMemoryFileGivesItsDataAndWhatWasWrittenOverIt) {
  OwnedFd file = sparse_file(256);
  for (const std::uint64_t page : {10ULL, 11ULL, 40ULL}) fill_page(file, page);
  const auto memory = GuestMemory::map({.size_mib = 1}, std::move(file));
  ASSERT_TRUE(memory) << memory.error().message;
  EXPECT_EQ(own_pages(*memory), PageRanges{});
  EXPECT_EQ(touched(*memory), (PageRanges{pages(10, 2), pages(40)}));
  touch(*memory, 12);
  touch(*memory, 40, 0);  // a page of the file is now its own
  look_at(*memory, 10);   // not at a hole: on tmpfs, that makes a page of the file
  EXPECT_EQ(own_pages(*memory), (PageRanges{pages(12), pages(40)}));
  EXPECT_EQ(touched(*memory), (PageRanges{pages(10, 3), pages(40)}));
}

TEST(Pages, ZerosWrittenOverAFileAreAChange) {
  OwnedFd file = sparse_file(256);
  fill_page(file, 5);
  const auto memory = GuestMemory::map({.size_mib = 1}, std::move(file));
  ASSERT_TRUE(memory);
  clear(*memory, 5);
  EXPECT_EQ(own_pages(*memory), PageRanges{pages(5)});
}

TEST(Pages, WhatFollowsTheMemoryInItsFileDoesNotCount) {
  OwnedFd file = sparse_file(256);
  fill_page(file, 255);
  fill_page(file, 256);
  fill_page(file, 257);
  const auto memory = GuestMemory::map({.size_mib = 1}, std::move(file));
  ASSERT_TRUE(memory);
  EXPECT_EQ(touched(*memory), PageRanges{pages(255)});
}

TEST(Pages, AMappedFileOfTwoRegionsIsCountedAsOne) {
  const std::uint64_t low = kMmioHoleStart / kPage;
  OwnedFd file = sparse_file(5 * 1024 * kMiB / kPage);
  fill_page(file, low - 1);
  fill_page(file, low);
  fill_page(file, low + 3);
  const auto memory = GuestMemory::map({.size_mib = 5 * 1024}, std::move(file));
  ASSERT_TRUE(memory);
  EXPECT_EQ(touched(*memory), (PageRanges{pages(low - 1, 2), pages(low + 3)}));
  EXPECT_EQ(memory->load<char>(GuestAddress{kMmioHoleEnd + 3 * kPage}), 'f');
}

TEST(Pages, APlacedFileIsDataWhereverItLies) {
  OwnedFd file = sparse_file(8);
  fill_page(file, 2);
  auto memory = anonymous(1);
  ASSERT_TRUE(memory.place_file(file.get(), 0, GuestAddress{100 * kPage}, 8 * kPage));
  EXPECT_EQ(own_pages(memory), PageRanges{});
  EXPECT_EQ(touched(memory), PageRanges{pages(100, 8)});
  touch(memory, 108);
  touch(memory, 103);
  EXPECT_EQ(own_pages(memory), (PageRanges{pages(103), pages(108)}));
  EXPECT_EQ(touched(memory), PageRanges{pages(100, 9)});
}

TEST(Pages, ServedMemoryIsAllData) {
  auto memory = anonymous(2);
  memory.set_served();
  EXPECT_EQ(touched(memory), PageRanges{pages(0, 512)});
}

TEST(Pages, WhatIsDroppedShowsTheFilesAgain) {
  constexpr std::uint64_t kPages = 256 * 8;
  OwnedFd file = sparse_file(kPages);
  for (std::uint64_t page = 0; page < kPages; ++page)
    ASSERT_EQ(::pwrite(file.get(), &page, sizeof page, static_cast<off_t>(page * kPage)), 8);
  const auto made = GuestMemory::map({.size_mib = 8}, std::move(file));
  ASSERT_TRUE(made);
  const GuestMemory& memory = *made;
  EXPECT_TRUE(memory.is_all_mapped());
  EXPECT_EQ(drop_private_pages(memory), 0U);
  for (const std::size_t most : {kMostDroppedStretches, kMostDroppedStretches, std::size_t{100}}) {
    look_at(memory, 1901);
    // More single pages than one call takes, and a stretch.
    std::uint64_t dirtied = 0;
    for (std::uint64_t page = 0; page < kPages - 2; page += page < 100 ? 1 : 2, ++dirtied) touch(memory, page, 0xFF);
    EXPECT_EQ(drop_private_pages(memory, most), dirtied * kPage);
    EXPECT_EQ(own_pages(memory), PageRanges{});
    for (std::uint64_t page = 0; page < kPages; ++page) {
      ASSERT_EQ(memory.load<std::uint64_t>(GuestAddress{page * kPage}), page);
      ASSERT_EQ(memory.load<std::uint8_t>(GuestAddress{page * kPage + 17}), 0);
    }
  }
}

TEST(Pages, MemoryIsAllMappedWhereNoneOfItIsReadOrCopied) {
  EXPECT_FALSE(anonymous(4).is_all_mapped());
  const auto layers = [] {
    MemoryLayers two{
        .files = {std::make_shared<OwnedFd>(sparse_file(1024)), std::make_shared<OwnedFd>(sparse_file(1024))}};
    for (const std::uint64_t page : {3ULL, 9ULL})
      two.parts.push_back({.offset = page * kPage, .length = kPage, .file = 1});
    return two;
  };
  EXPECT_TRUE(GuestMemory::map({.size_mib = 4}, layers())->is_all_mapped());
  EXPECT_FALSE(GuestMemory::map({.size_mib = 4}, layers(), 1)->is_all_mapped()) << "one part is a copy";
}

TEST(Pages, ABitmapNamesPagesRegionByRegion) {
  const GuestMemory memory = anonymous(5 * 1024);
  const std::size_t low_words = kMmioHoleStart / kPage / 64;
  std::vector<std::uint64_t> bitmap(5 * 1024 * kMiB / kPage / 64);
  EXPECT_EQ(pages_of(memory, bitmap), PageRanges{});
  bitmap[0] = 0b1011;
  bitmap[1] = 1ULL << 63;
  bitmap[2] = 1;
  bitmap[low_words] = 1;
  EXPECT_EQ(pages_of(memory, bitmap),
            (PageRanges{pages(0, 2), pages(3), pages(127, 2), pages(kMmioHoleStart / kPage)}));
}

TEST(Pages, ADirtyLogOfOneRegionIsKeptWhenThatOfTheNextCannotBeHad) {
  const GuestMemory memory = anonymous(5 * 1024);
  ASSERT_EQ(memory.regions().size(), 2U);
  const std::size_t low_words = kMmioHoleStart / kPage / 64;
  std::vector<std::uint64_t> changed;
  bool broken = true;
  // As KVM: a log that was told is forgotten.
  std::vector<std::uint64_t> logs{0b101, 0b10};
  const TakeDirtyLog take = [&](std::uint32_t region, std::span<std::uint64_t> bitmap) -> Status {
    EXPECT_EQ(bitmap.size(), memory.regions()[region].size() / kPage / 64);
    if (region == 1 && broken) return fail(ErrorKind::Kvm, "no log");
    bitmap[0] = std::exchange(logs[region], 0);
    return {};
  };
  const auto failed = add_dirty_log(memory, take, changed);
  ASSERT_FALSE(failed);
  EXPECT_EQ(failed.error().message, "no log");
  EXPECT_EQ(pages_of(memory, changed), (PageRanges{pages(0), pages(2)}));
  broken = false;
  ASSERT_TRUE(add_dirty_log(memory, take, changed));
  EXPECT_EQ(changed[low_words], 0b10U);
  EXPECT_EQ(pages_of(memory, changed), (PageRanges{pages(0), pages(2), pages(kMmioHoleStart / kPage + 1)}));
}

TEST(Pages, RangesAreSortedAndJoined) {
  EXPECT_EQ(merged({}), PageRanges{});
  EXPECT_EQ(merged({pages(9), pages(1, 3), pages(4), pages(2), pages(20, 0), pages(8, 2), pages(30)}),
            (PageRanges{pages(1, 4), pages(8, 2), pages(30)}));
  EXPECT_EQ(merged({pages(1, 10), pages(3, 2), pages(11)}), PageRanges{pages(1, 11)});
  const PageRanges two{pages(1, 4), pages(8, 2)};
  EXPECT_EQ(bytes_in(two), 6 * kPage);
  EXPECT_EQ(bytes_in({}), 0U);
}

TEST(Pages, BytesAreFoundByTheirPlaceInTheFile) {
  const GuestMemory memory = anonymous(5 * 1024);
  EXPECT_EQ(bytes_at(memory, kMmioHoleStart - kPage, 3 * kPage).size(), kPage) << "contiguous here too";
  const auto high = bytes_at(memory, kMmioHoleStart + kPage, 3 * kPage);
  EXPECT_EQ(high.size(), 3 * kPage);
  EXPECT_EQ(high.data(), memory.bytes(GuestAddress{kMmioHoleEnd + kPage}, 1)->data());
  EXPECT_EQ(bytes_at(memory, 5 * 1024 * kMiB - kPage, 3 * kPage).size(), kPage);
  EXPECT_TRUE(bytes_at(memory, 5 * 1024 * kMiB, kPage).empty());
  EXPECT_TRUE(bytes_at(memory, ~0ULL, kPage).empty());
}

}  // namespace
}  // namespace mayfly
