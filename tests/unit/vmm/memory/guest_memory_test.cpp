#include "vmm/memory/guest_memory.h"

#include "vmm/base/owned_fd.h"

#include <sys/mman.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <fstream>
#include <string>

#include <gtest/gtest.h>

namespace mayfly {
namespace {

constexpr std::uint64_t kGiB = 1024 * kMiB;

TEST(GuestMemory, SizesOutOfRangeAreRefused) {
  for (const std::uint64_t size : {std::uint64_t{0}, GuestMemory::kMaximumSizeMib + 1, ~std::uint64_t{0}}) {
    const auto memory = GuestMemory::create({.size_mib = size});
    ASSERT_FALSE(memory);
    EXPECT_NE(memory.error().message.find("mem_size_mib"), std::string::npos) << memory.error().message;
  }
  const auto odd = GuestMemory::create({.size_mib = 3, .pages = HugePages::Explicit2M});
  ASSERT_FALSE(odd);
  EXPECT_NE(odd.error().message.find("even"), std::string::npos);
}

TEST(GuestMemory, RamGoesAroundTheHole) {
  const auto small = GuestMemory::create({.size_mib = 3328});
  ASSERT_TRUE(small);
  EXPECT_EQ(small->regions().size(), 1U);
  const auto large = GuestMemory::create({.size_mib = 5120});
  ASSERT_TRUE(large);
  ASSERT_EQ(large->regions().size(), 2U);
  EXPECT_EQ(large->low_end(), GuestAddress{kMmioHoleStart});
  EXPECT_EQ(large->regions()[1].start, GuestAddress{kMmioHoleEnd});
  EXPECT_EQ(large->size(), 5 * kGiB);
  EXPECT_TRUE(large->bytes(GuestAddress{kMmioHoleStart - 1}, 1));
  EXPECT_FALSE(large->bytes(GuestAddress{kMmioHoleStart}, 1));
  EXPECT_FALSE(large->bytes(GuestAddress{kMmioHoleStart - 1}, 2));
  EXPECT_FALSE(large->bytes(GuestAddress{kMmioHoleEnd - 1}, 1));
  EXPECT_TRUE(large->bytes(GuestAddress{kMmioHoleEnd}, 1));
  EXPECT_FALSE(large->bytes(GuestAddress{kMmioHoleStart - 1}, kGiB)) << "across the hole";
  EXPECT_TRUE(large->bytes(GuestAddress{kMmioHoleEnd}, 5 * kGiB - kMmioHoleStart));
  EXPECT_FALSE(large->bytes(GuestAddress{kMmioHoleEnd}, 5 * kGiB - kMmioHoleStart + 1));
}

TEST(GuestMemory, TransparentHugePagesAgreeWithTheGuestsAddresses) {
  // Several at once: one may lie right by chance.
  std::vector<Result<GuestMemory>> machines;
  for (const std::uint64_t size_mib : {3UL, 128UL, 4097UL, 1UL}) {
    machines.push_back(GuestMemory::create({.size_mib = size_mib, .pages = HugePages::Transparent}));
    ASSERT_TRUE(machines.back()) << machines.back().error().message;
    EXPECT_EQ(machines.back()->size(), size_mib * kMiB);
    for (const GuestMemory::Region& region : machines.back()->regions())
      EXPECT_EQ((reinterpret_cast<std::uintptr_t>(region.mapping.address()) - region.start.value) % (2 * kMiB), 0U);
  }
}

class TwoMib : public ::testing::Test {
 protected:
  static constexpr std::uint64_t kEnd = 2 * kMiB;
  Result<GuestMemory> memory_ = GuestMemory::create({.size_mib = 2});
};

TEST_F(TwoMib, BytesStopAtTheEndAndNeverWrap) {
  EXPECT_EQ(memory_->bytes(GuestAddress{0}, kEnd)->size(), kEnd);
  EXPECT_FALSE(memory_->bytes(GuestAddress{0}, kEnd + 1));
  EXPECT_FALSE(memory_->bytes(GuestAddress{1}, kEnd));
  EXPECT_TRUE(memory_->bytes(GuestAddress{kEnd - 1}, 1));
  EXPECT_FALSE(memory_->bytes(GuestAddress{kEnd}, 1));
  for (const std::uint64_t length : {~0ULL, ~0ULL - 4095, 1ULL << 63}) {
    EXPECT_FALSE(memory_->bytes(GuestAddress{4096}, length)) << length;
    EXPECT_FALSE(memory_->bytes(GuestAddress{length}, 4096)) << length;
    EXPECT_FALSE(memory_->bytes(GuestAddress{length}, length)) << length;
  }
}

TEST_F(TwoMib, NoBytesAreInRamAndAtItsEndAlone) {
  EXPECT_TRUE(memory_->bytes(GuestAddress{0}, 0));
  EXPECT_TRUE(memory_->bytes(GuestAddress{kEnd}, 0));
  EXPECT_FALSE(memory_->bytes(GuestAddress{kEnd + 1}, 0));
  EXPECT_FALSE(memory_->bytes(GuestAddress{~0ULL}, 0));
  EXPECT_TRUE(memory_->write(GuestAddress{kEnd}, {}));
}

TEST_F(TwoMib, StoreAndLoadAreWholeOrNothing) {
  const std::uint64_t value = 0x1122'3344'5566'7788;
  ASSERT_TRUE(memory_->store(GuestAddress{kEnd - 8}, value));
  EXPECT_EQ(memory_->load<std::uint64_t>(GuestAddress{kEnd - 8}), value);
  EXPECT_FALSE(memory_->store(GuestAddress{kEnd - 7}, ~value));
  EXPECT_FALSE(memory_->write(GuestAddress{kEnd - 7}, std::as_bytes(std::span{&value, 1})));
  EXPECT_EQ(memory_->load<std::uint64_t>(GuestAddress{kEnd - 8}), value) << "nothing was written";
  EXPECT_FALSE(memory_->load<std::uint64_t>(GuestAddress{kEnd - 7}));
  EXPECT_FALSE(memory_->load<std::uint64_t>(GuestAddress{~0ULL - 3}));
  EXPECT_TRUE(memory_->store(GuestAddress{3}, value)) << "alignment does not matter";
  EXPECT_EQ(memory_->load<std::uint64_t>(GuestAddress{3}), value);
}

/// By what the host says of itself.
bool host_has_huge_pages() {
  std::ifstream setting{"/sys/kernel/mm/transparent_hugepage/enabled"};
  std::string text;
  return std::getline(setting, text) && text.find("[never]") == std::string::npos;
}

class PlaceFile : public TwoMib {
 protected:
  PlaceFile() : file_(::memfd_create("image", MFD_CLOEXEC)), content_(5 * kGuestPageSize + 123) {
    for (std::size_t at = 0; at < content_.size(); ++at) content_[at] = static_cast<std::byte>(at * 31 + at / 256 + 1);
    EXPECT_EQ(::pwrite(file_.get(), content_.data(), content_.size(), 0), static_cast<ssize_t>(content_.size()));
  }
  /// Whether guest memory has these bytes of the file at `at`, and zero around them.
  [[nodiscard]] bool placed(std::uint64_t offset, std::uint64_t at, std::uint64_t length) const {
    const auto ram = *memory_->bytes(GuestAddress{0}, kEnd);
    const auto zero = [](std::byte byte) { return byte == std::byte{0}; };
    return std::ranges::all_of(ram.first(at), zero) && std::ranges::all_of(ram.subspan(at + length), zero) &&
           std::ranges::equal(ram.subspan(at, length), std::span{content_}.subspan(offset, length));
  }

  OwnedFd file_;
  std::vector<std::byte> content_;
};

TEST_F(PlaceFile, PutsTheSameBytesThereWhateverTheAlignment) {
  const std::uint64_t page = kGuestPageSize;
  struct Case {
    std::uint64_t offset;
    std::uint64_t at;
    std::uint64_t length;
  };
  for (const Case& each :
       {Case{0, 0x10000, 5 * page + 123}, Case{0, 0x10000, 2 * page}, Case{page, 0x10000, page + 1},
        Case{100, 0x10000 + 100, 3 * page}, Case{100, 0x10000 + 100, 50}, Case{100, 0x10000 + 100, page - 100},
        Case{100, 0x10000, 3 * page}, Case{0, 0x10001, 4 * page}, Case{5 * page, 0x10000, 123}, Case{3, kEnd - 7, 7},
        Case{page, kEnd - page, page}}) {
    memory_ = GuestMemory::create({.size_mib = 2});
    const auto done = memory_->place_file(file_.get(), each.offset, GuestAddress{each.at}, each.length);
    ASSERT_TRUE(done) << done.error().message;
    EXPECT_TRUE(placed(each.offset, each.at, each.length)) << each.offset << ' ' << each.at << ' ' << each.length;
  }
}

TEST_F(PlaceFile, IsReadWhereAMappingWouldBreakAHugePage) {
  ASSERT_TRUE(memory_->place_file(file_.get(), 0, GuestAddress{0}, 2 * kGuestPageSize));
  EXPECT_EQ(memory_->file_ranges().size(), 1U);
  memory_ = GuestMemory::create({.size_mib = 2, .pages = HugePages::Transparent});
  ASSERT_TRUE(memory_->place_file(file_.get(), 0, GuestAddress{0}, 2 * kGuestPageSize));
  EXPECT_TRUE(placed(0, 0, 2 * kGuestPageSize));
  EXPECT_EQ(memory_->file_ranges().empty(), host_has_huge_pages());
}

TEST_F(PlaceFile, IsMappedWhereTheHostRefusesHugePages) {
  ASSERT_EQ(::prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0), 0);
  memory_ = GuestMemory::create({.size_mib = 2, .pages = HugePages::Transparent});
  ASSERT_TRUE(memory_->place_file(file_.get(), 0, GuestAddress{0}, 2 * kGuestPageSize));
  ASSERT_EQ(::prctl(PR_SET_THP_DISABLE, 0, 0, 0, 0), 0);
  EXPECT_TRUE(placed(0, 0, 2 * kGuestPageSize));
  EXPECT_EQ(memory_->file_ranges().size(), 1U);
}

TEST_F(PlaceFile, IsMappedWhereMemoryIsTooSmallForAHugePage) {
  memory_ = GuestMemory::create({.size_mib = 1, .pages = HugePages::Transparent});
  ASSERT_TRUE(memory_->place_file(file_.get(), 0, GuestAddress{0}, 2 * kGuestPageSize));
  EXPECT_EQ(memory_->file_ranges().size(), 1U);
}

TEST_F(PlaceFile, WhatTheGuestWritesDoesNotReachTheFile) {
  ASSERT_TRUE(memory_->place_file(file_.get(), 0, GuestAddress{0}, 2 * kGuestPageSize));
  ASSERT_TRUE(memory_->store(GuestAddress{0}, ~0ULL));
  std::uint64_t first = 0;
  ASSERT_EQ(::pread(file_.get(), &first, sizeof(first), 0), 8);
  EXPECT_EQ(std::memcmp(&first, content_.data(), sizeof(first)), 0);
}

TEST_F(PlaceFile, RefusesWhatIsNotInTheFileOrNotInRamAndWritesNothing) {
  const std::uint64_t size = content_.size();
  EXPECT_FALSE(memory_->place_file(file_.get(), 0, GuestAddress{0}, size + 1));
  EXPECT_FALSE(memory_->place_file(file_.get(), size + 1, GuestAddress{0}, 1));
  EXPECT_FALSE(memory_->place_file(file_.get(), ~0ULL, GuestAddress{0}, 1));
  EXPECT_FALSE(memory_->place_file(file_.get(), 0, GuestAddress{kEnd - size + 1}, size));
  EXPECT_FALSE(memory_->place_file(file_.get(), 0, GuestAddress{~0ULL - 10}, size));
  EXPECT_FALSE(memory_->place_file(file_.get(), 0, GuestAddress{0}, ~0ULL));
  EXPECT_FALSE(memory_->place_file(-1, 0, GuestAddress{0}, 1));
  EXPECT_TRUE(placed(0, 0, 0));
}

TEST_F(PlaceFile, NothingToPlaceIsNoError) {
  EXPECT_TRUE(memory_->place_file(file_.get(), 0, GuestAddress{kEnd}, 0));
  EXPECT_FALSE(memory_->place_file(file_.get(), 0, GuestAddress{kEnd + 1}, 0));
}

// --- A file's content ------------------------------------------------------------------------------------------------

OwnedFd sparse_file(std::uint64_t size) {
  OwnedFd file{::memfd_create("memory", MFD_CLOEXEC)};
  EXPECT_EQ(::ftruncate(file.get(), static_cast<off_t>(size)), 0);
  return file;
}

TEST(GuestMemoryOfAFile, ShowsTheFileAndKeepsWritesToItself) {
  OwnedFd file = sparse_file(kMiB);
  const OwnedFd same{::dup(file.get())};
  ASSERT_EQ(::pwrite(same.get(), "file", 4, 8192), 4);
  const auto memory = GuestMemory::map({.size_mib = 1}, std::move(file));
  ASSERT_TRUE(memory) << memory.error().message;
  EXPECT_EQ(memory->load<char>(GuestAddress{8193}), 'i');
  EXPECT_EQ(memory->load<char>(GuestAddress{0}), 0);
  ASSERT_TRUE(memory->store(GuestAddress{8192}, 'F'));
  char byte = 0;
  ASSERT_EQ(::pread(same.get(), &byte, 1, 8192), 1);
  EXPECT_EQ(byte, 'f');
  ASSERT_EQ(memory->file_ranges().size(), 1U);
  EXPECT_EQ(memory->file_ranges()[0].length, kMiB);
  EXPECT_TRUE(memory->file_ranges()[0].file);
}

TEST(GuestMemoryOfAFile, GoesAroundTheHoleWithoutAHoleInTheFile) {
  OwnedFd file = sparse_file(5 * kGiB);
  ASSERT_EQ(::pwrite(file.get(), "a", 1, kMmioHoleStart - 1), 1);
  ASSERT_EQ(::pwrite(file.get(), "b", 1, kMmioHoleStart), 1);
  const auto memory = GuestMemory::map({.size_mib = 5120}, std::move(file));
  ASSERT_TRUE(memory);
  EXPECT_EQ(memory->load<char>(GuestAddress{kMmioHoleStart - 1}), 'a');
  EXPECT_EQ(memory->load<char>(GuestAddress{kMmioHoleEnd}), 'b');
  ASSERT_EQ(memory->file_ranges().size(), 2U);
  EXPECT_EQ(memory->file_ranges()[1].offset, kMmioHoleStart);
}

TEST(GuestMemoryOfAFile, AFileThatIsTooShortIsRefused) {
  const auto memory = GuestMemory::map({.size_mib = 2}, sparse_file(2 * kMiB - 1));
  ASSERT_FALSE(memory);
  EXPECT_EQ(memory.error().message, "the memory file has 2097151 bytes, and 2 MiB of memory need more");
  EXPECT_FALSE(GuestMemory::map({.size_mib = 2}, OwnedFd{}));
  EXPECT_FALSE(GuestMemory::map({.size_mib = 0}, sparse_file(kMiB)));
}

// --- Memory of several files -----------------------------------------------------------------------------------------

/// A base of zeros and a file of ones over it, with the pages [first, end) of each part.
MemoryLayers zeros_and_ones(std::uint64_t size, std::vector<MemoryLayers::Part> parts) {
  OwnedFd ones = sparse_file(size);
  for (const MemoryLayers::Part& part : parts)
    for (std::uint64_t at = part.offset; at < part.end(); ++at)
      EXPECT_EQ(::pwrite(ones.get(), "1", 1, static_cast<off_t>(at)), 1);
  return {.files = {std::make_shared<OwnedFd>(sparse_file(size)), std::make_shared<OwnedFd>(std::move(ones))},
          .parts = std::move(parts)};
}

TEST(GuestMemoryOfLayers, ShowsTheUpperFileWhereItHasParts) {
  const MemoryLayers layers = zeros_and_ones(kMiB, {{4096, 8192, 1}, {kMiB - 4096, 4096, 1}});
  const auto memory = GuestMemory::map({.size_mib = 1}, layers);
  ASSERT_TRUE(memory) << memory.error().message;
  EXPECT_EQ(memory->load<char>(GuestAddress{4095}), 0);
  EXPECT_EQ(memory->load<char>(GuestAddress{4096}), '1');
  EXPECT_EQ(memory->load<char>(GuestAddress{12287}), '1');
  EXPECT_EQ(memory->load<char>(GuestAddress{12288}), 0);
  EXPECT_EQ(memory->load<char>(GuestAddress{kMiB - 1}), '1');
  const auto& ranges = memory->file_ranges();
  ASSERT_EQ(ranges.size(), 4U);
  EXPECT_EQ(ranges[0].file, layers.files[0]);
  EXPECT_EQ(ranges[1].file, layers.files[1]);
  EXPECT_EQ(ranges[1].start, GuestAddress{4096});
  EXPECT_EQ(ranges[2].offset, 12288U);
  EXPECT_EQ(ranges[2].length, kMiB - 16384);
  EXPECT_EQ(ranges[3].file, layers.files[1]);
}

TEST(GuestMemoryOfLayers, APartMayLieAcrossTheHoleOfTheGuest) {
  const MemoryLayers layers = zeros_and_ones(5 * kGiB, {{kMmioHoleStart - 4096, 8192, 1}});
  const auto memory = GuestMemory::map({.size_mib = 5120}, layers);
  ASSERT_TRUE(memory) << memory.error().message;
  EXPECT_EQ(memory->load<char>(GuestAddress{kMmioHoleStart - 1}), '1');
  EXPECT_EQ(memory->load<char>(GuestAddress{kMmioHoleEnd}), '1');
  EXPECT_EQ(memory->load<char>(GuestAddress{kMmioHoleEnd + 4096}), 0);
  EXPECT_EQ(memory->file_ranges().size(), 4U);
}

TEST(GuestMemoryOfLayers, TheShortestPartsAreCopiedWhereThereAreTooMany) {
  const std::vector<MemoryLayers::Part> parts = {{0, 4096, 1}, {8192, 12288, 1}, {40960, 8192, 1}, {81920, 8192, 1}};
  const auto mapped = [&](std::size_t most) {
    MappedParts chosen{parts, most};
    std::string which;
    for (const MemoryLayers::Part& part : parts) which += chosen.includes_next(part) ? 'm' : 'c';
    return which;
  };
  EXPECT_EQ(mapped(4), "mmmm");
  EXPECT_EQ(mapped(3), "cmmm");
  EXPECT_EQ(mapped(2), "cmmc");
  EXPECT_EQ(mapped(1), "cmcc");
  EXPECT_EQ(mapped(0), "cccc");
  const MemoryLayers layers = zeros_and_ones(kMiB, parts);
  const auto memory = GuestMemory::map({.size_mib = 1}, layers, 1);
  ASSERT_TRUE(memory);
  for (const MemoryLayers::Part& part : parts) EXPECT_EQ(memory->load<char>(GuestAddress{part.offset}), '1');
  EXPECT_EQ(memory->load<char>(GuestAddress{4096}), 0);
  EXPECT_EQ(memory->file_ranges().size(), 3U) << "the copies are no file's";
  EXPECT_EQ(memory->memory_files(), layers.files);
}

TEST(GuestMemoryOfLayers, AShortUpperFileIsRefused) {
  MemoryLayers layers = zeros_and_ones(2 * kMiB, {{0, 4096, 1}});
  layers.files[1] = std::make_shared<OwnedFd>(sparse_file(kMiB));
  EXPECT_FALSE(GuestMemory::map({.size_mib = 2}, layers));
}

TEST(GuestMemoryOfAFile, ServedMemoryIsAFileThatIsNotThere) {
  auto memory = GuestMemory::create({.size_mib = 5120});
  ASSERT_TRUE(memory);
  memory->set_served();
  ASSERT_EQ(memory->file_ranges().size(), 2U);
  EXPECT_EQ(memory->file_ranges()[1].start, GuestAddress{kMmioHoleEnd});
  EXPECT_FALSE(memory->file_ranges()[0].file);
}

// --- What devices write ----------------------------------------------------------------------------------------------

TEST(GuestMemoryWrites, AreForgottenUnlessSomebodyWantsThem) {
  auto memory = GuestMemory::create({.size_mib = 1});
  ASSERT_TRUE(memory->store(GuestAddress{4096}, 1));
  EXPECT_TRUE(memory->take_written().empty());
}

TEST(GuestMemoryWrites, AreABitAPageAndTakenOnce) {
  auto memory = GuestMemory::create({.size_mib = 1});
  memory->track_writes();
  ASSERT_TRUE(memory->store(GuestAddress{0}, 1));
  ASSERT_TRUE(memory->store(GuestAddress{3 * 4096 - 2}, 1));  // over a page's end
  const std::array<std::byte, 2 * 4096> two{};
  ASSERT_TRUE(memory->write(GuestAddress{64 * 4096 + 1}, two));
  ASSERT_TRUE(memory->write(GuestAddress{kMiB}, {}));
  memory->note_write(memory->bytes(GuestAddress{kMiB - 1}, 1)->data(), 1);
  memory->note_write(memory->bytes(GuestAddress{200 * 4096}, 0)->data(), 0);
  EXPECT_EQ(memory->take_written(), (std::vector<std::uint64_t>{0b1101, 0b111, 0, 1ULL << 63}));
  EXPECT_EQ(memory->take_written(), std::vector<std::uint64_t>(4));
}

TEST(GuestMemoryWrites, EachRegionBeginsWithAWordOfItsOwn) {
  auto memory = GuestMemory::create({.size_mib = 5120});
  memory->track_writes();
  ASSERT_TRUE(memory->store(GuestAddress{kMmioHoleStart - 4}, 1));
  ASSERT_TRUE(memory->store(GuestAddress{kMmioHoleEnd + 4096}, 1));
  const auto written = memory->take_written();
  const std::size_t low_words = kMmioHoleStart / 4096 / 64;
  ASSERT_EQ(written.size(), 5 * kGiB / 4096 / 64);
  EXPECT_EQ(written[low_words - 1], 1ULL << 63);
  EXPECT_EQ(written[low_words], 2U);
  EXPECT_EQ(std::ranges::count(written, 0U), static_cast<std::ptrdiff_t>(written.size() - 2));
}

}  // namespace
}  // namespace mayfly
