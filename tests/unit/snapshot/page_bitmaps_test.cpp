#include "snapshot/page_bitmaps.h"

#include "tests/unit/snapshot/page_ranges.h"

#include <sys/mman.h>
#include <unistd.h>

#include <gtest/gtest.h>

namespace mayfly {
namespace {

GuestMemory untouched_memory(std::uint64_t size_mib) {
  auto memory = GuestMemory::create({.size_mib = size_mib});
  EXPECT_TRUE(memory) << memory.error().message;
  return std::move(*memory);
}

void put_byte(const GuestMemory& memory, std::uint64_t address, std::uint8_t value) {
  ASSERT_TRUE(memory.store(GuestAddress{address}, value));
}

/// The numbers of the bits that are set.
std::vector<std::uint64_t> set_bits(const PageBitmap& bitmap) {
  std::vector<std::uint64_t> bits;
  for (std::uint64_t bit = 0; bit < bitmap.size() * 64; ++bit)
    if ((bitmap[bit / 64] >> bit % 64 & 1) != 0) bits.push_back(bit);
  return bits;
}

using Bits = std::vector<std::uint64_t>;

LookedAtPages looked_at(const GuestMemory& memory) {
  auto pages = look_at_pages(memory, MemoryIs::Still, {});
  EXPECT_TRUE(pages) << pages.error().message;
  return std::move(*pages);
}

TEST(PageBitmaps, ARegionIsWhereItsBytesAre) {
  const GuestMemory memory = untouched_memory(3330);
  const auto mappings = mappings_of(memory);
  ASSERT_EQ(mappings.size(), 2U);
  EXPECT_EQ(mappings[0].offset, 0U);
  EXPECT_EQ(mappings[0].size, kMmioHoleStart);
  EXPECT_EQ(mappings[1].offset, kMmioHoleStart);
  EXPECT_EQ(mappings[1].size, 2 * kMiB);
  EXPECT_EQ(mappings[1].page_size, kGuestPageSize);
  put_byte(memory, kMmioHoleEnd + 5, 7);
  EXPECT_EQ(*reinterpret_cast<const std::uint8_t*>(mappings[1].host_address + 5),
            7);  // NOLINT(performance-no-int-to-ptr)
}

TEST(PageBitmaps, PagesAreNumberedOverTheHole) {
  const GuestMemory memory = untouched_memory(3330);
  const std::uint64_t low = kMmioHoleStart / kPage;
  put_byte(memory, kMmioHoleStart - 1, 1);
  put_byte(memory, kMmioHoleEnd, 1);
  const LookedAtPages found = looked_at(memory);
  EXPECT_EQ(found.resident.size(), 3330 * 256 / 64);
  EXPECT_EQ(found.empty.size(), found.resident.size());
  EXPECT_EQ(set_bits(found.resident), (Bits{low - 1, low}));
  EXPECT_EQ(set_bits(found.empty), Bits{});
}

TEST(PageBitmaps, ZerosInAnyPlaceButOneAreNoEmptyPage) {
  const GuestMemory memory = untouched_memory(1);
  for (const std::uint64_t page : {3ULL, 63ULL, 64ULL, 65ULL}) put_byte(memory, page * kPage, 0);
  put_byte(memory, 63 * kPage, 1);              // the first byte
  put_byte(memory, 64 * kPage + kPage - 1, 1);  // the last one
  put_byte(memory, 65 * kPage + 8, 1);
  const LookedAtPages found = looked_at(memory);
  EXPECT_EQ(set_bits(found.resident), (Bits{3, 63, 64, 65}));
  EXPECT_EQ(set_bits(found.empty), Bits{3});
}

TEST(PageBitmaps, AMappedFilesPagesAreResidentBeforeAnybodyHasTouchedThem) {
  OwnedFd file{::memfd_create("pages", MFD_CLOEXEC)};
  ASSERT_EQ(::ftruncate(file.get(), 4 * kPage), 0);
  ASSERT_EQ(::pwrite(file.get(), "x", 1, 2 * kPage), 1);
  auto memory = untouched_memory(1);
  ASSERT_TRUE(memory.place_file(file.get(), 0, GuestAddress{16 * kPage}, 4 * kPage));
  const LookedAtPages found = looked_at(memory);
  EXPECT_EQ(set_bits(found.resident), (Bits{16, 17, 18, 19}));
  EXPECT_EQ(set_bits(found.empty), (Bits{16, 17, 19}));
}

TEST(PageBitmaps, OfServedMemoryOnlyWhatIsHereIsLookedAt) {
  GuestMemory memory = untouched_memory(1);
  memory.set_served();
  put_byte(memory, 5 * kPage, 9);
  EXPECT_EQ(set_bits(looked_at(memory).resident), Bits{5});
}

TEST(PageBitmaps, APartOfAPageCountsAsThePage) {
  const GuestMemory memory = untouched_memory(1);
  const PageRanges ranges{{.offset = 0, .length = 1}, {.offset = 2 * kPage, .length = 2 * kPage}};
  EXPECT_EQ(set_bits(bitmap_of(memory, ranges)), (Bits{0, 2, 3}));
}

TEST(PageBitmaps, AStopEndsTheLook) {
  const GuestMemory memory = untouched_memory(1);
  put_byte(memory, 0, 1);
  std::stop_source stop;
  stop.request_stop();
  const auto pages = look_at_pages(memory, MemoryIs::Still, stop.get_token());
  ASSERT_FALSE(pages);
  EXPECT_EQ(pages.error().message, "the machine has ended");
}

}  // namespace
}  // namespace mayfly
