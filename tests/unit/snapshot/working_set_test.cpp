#include "snapshot/working_set.h"

#include "snapshot/checksum.h"
#include "tests/support/child_process.h"
#include "tests/support/files.h"
#include "tests/unit/snapshot/page_ranges.h"

#include <cstring>
#include <filesystem>

#include <gtest/gtest.h>

namespace mayfly {
namespace {

WorkingSet some_set() {
  WorkingSet set{.snapshot = {},
                 .memory_size = 4 * kMiB,
                 .ranges = {pages(7, 3), pages(0), pages(1000, 24)},
                 .written = {pages(8), pages(1001, 2)}};
  set.snapshot.fill(9);
  return set;
}

std::string refusal(std::span<const std::byte> bytes) {
  const auto set = decode_working_set(bytes);
  return set ? "" : set.error().message;
}

TEST(WorkingSet, JoinsPagesAndKeepsTheOrderOfTheirFirstTouch) {
  EXPECT_TRUE(ranges_in_order({}).empty());
  const std::uint64_t touched[] = {50 * kPage, 9 * kPage, 51 * kPage, 3 * kPage, 8 * kPage, 49 * kPage};
  EXPECT_EQ(ranges_in_order(touched), (std::vector<PageRange>{pages(49, 3), pages(8, 2), pages(3)}));
}

TEST(WorkingSet, CountsAPageOnceHoweverOftenItIsTouched) {
  const std::uint64_t touched[] = {5 * kPage, 5 * kPage, 4 * kPage, 5 * kPage, 4 * kPage};
  EXPECT_EQ(ranges_in_order(touched), std::vector<PageRange>{pages(4, 2)});
}

TEST(WorkingSet, ComesBackAsItWasWritten) {
  const auto again = decode_working_set(encode_working_set(some_set()));
  ASSERT_TRUE(again.has_value()) << again.error().message;
  EXPECT_EQ(*again, some_set());
  const WorkingSet empty{.memory_size = kMiB};
  const auto nothing = decode_working_set(encode_working_set(empty));
  ASSERT_TRUE(nothing.has_value());
  EXPECT_EQ(*nothing, empty);
}

TEST(WorkingSet, RefusesEveryTruncationAndEveryFlippedBit) {
  const std::vector<std::byte> good = encode_working_set(some_set());
  for (std::size_t length = 0; length < good.size(); ++length)
    EXPECT_NE(refusal(std::span{good}.first(length)), "") << length;
  for (std::size_t bit = 0; bit < good.size() * 8; ++bit) {
    std::vector<std::byte> bad = good;
    bad[bit / 8] ^= std::byte{1} << bit % 8;
    EXPECT_NE(refusal(bad), "") << "bit " << bit;
  }
  std::vector<std::byte> longer = good;
  longer.push_back(std::byte{0});
  EXPECT_NE(refusal(longer).find("length"), std::string::npos) << refusal(longer);
}

TEST(WorkingSet, RefusesRangesThatNoRecordingHas) {
  const auto with = [](std::vector<PageRange> ranges) {
    return refusal(encode_working_set({.snapshot = {}, .memory_size = 4 * kMiB, .ranges = std::move(ranges)}));
  };
  EXPECT_EQ(with({pages(0, 1024)}), "");
  EXPECT_NE(with({pages(0, 1025)}).find("outside the memory"), std::string::npos);
  EXPECT_NE(with({pages(1024)}).find("outside the memory"), std::string::npos);
  EXPECT_NE(with({{0, ~std::uint64_t{0} << 12}}).find("outside the memory"), std::string::npos);
  EXPECT_NE(with({{~std::uint64_t{0} << 12, 2 * kPage}}).find("outside the memory"), std::string::npos);
  EXPECT_NE(with({{0, 0}}).find("whole pages"), std::string::npos);
  EXPECT_NE(with({{1, kPage}}).find("whole pages"), std::string::npos);
  EXPECT_NE(with({{0, kPage + 1}}).find("whole pages"), std::string::npos);
  EXPECT_NE(with({pages(4, 2), pages(0), pages(5)}).find("overlap"), std::string::npos);
}

TEST(WorkingSet, SaysThatANewerVersionIsOne) {
  std::vector<std::byte> newer = encode_working_set(some_set());
  newer[8] = std::byte{3};
  EXPECT_NE(refusal(newer).find("version 3"), std::string::npos) << refusal(newer);
}

TEST(WorkingSet, OfTheFirstVersionDoesNotTellWhatWasChanged) {
  WorkingSet set = some_set();
  set.written.clear();
  std::vector<std::byte> older = encode_working_set(set);
  older[8] = std::byte{1};
  constexpr std::size_t kBeforeChecksum = 56;
  const std::uint64_t sum = checksum(std::span{older}.first(kBeforeChecksum));
  std::memcpy(&older[kBeforeChecksum], &sum, sizeof sum);
  const auto read = decode_working_set(older);
  ASSERT_TRUE(read.has_value()) << read.error().message;
  EXPECT_EQ(*read, set);
}

TEST(WorkingSet, RefusesChangedRangesThatNoRecordingHas) {
  const auto with = [](std::vector<PageRange> written) {
    return refusal(
        encode_working_set({.memory_size = 4 * kMiB, .ranges = {pages(0, 1024)}, .written = std::move(written)}));
  };
  EXPECT_EQ(with({pages(3), pages(4), pages(1023)}), "");
  EXPECT_NE(with({pages(4), pages(3)}).find("overlap"), std::string::npos);
  EXPECT_NE(with({pages(3, 2), pages(4)}).find("overlap"), std::string::npos);
  EXPECT_NE(with({pages(1024)}).find("outside the memory"), std::string::npos);
  const auto of = [](PageRange recorded, PageRange changed) {
    return refusal(encode_working_set({.memory_size = 64 * kMiB, .ranges = {recorded}, .written = {changed}}));
  };
  EXPECT_EQ(of(pages(1, 4096), pages(1, 4096)), "");
  EXPECT_NE(of(pages(1, 4096), pages(0)).find("not recorded"), std::string::npos);
  EXPECT_NE(of(pages(1, 4096), pages(4096, 2)).find("not recorded"), std::string::npos);
  EXPECT_NE(of(pages(1, 5000), pages(1, 4097)).find("more changed pages"), std::string::npos);
}

TEST(WorkingSet, DoesNotTellMoreChangedPagesThanAReplayCopies) {
  const testing::ScratchDirectory scratch;
  auto file = open_for_reading(testing::make_file(scratch.file("memory"), std::string(32 * kMiB, 'm')));
  ASSERT_TRUE(file.has_value());
  auto memory = GuestMemory::map({.size_mib = 32}, std::move(*file));
  ASSERT_TRUE(memory.has_value());
  std::vector<std::uint64_t> touched;
  for (std::uint64_t page = 0; page < kMostCopiedAhead / kPage; ++page) {
    memory->bytes(GuestAddress{page * kPage}, 1)->front() = std::byte{'!'};
    touched.push_back(page * kPage);
  }
  EXPECT_EQ(bytes_in(changed_pages(*memory, touched, {})), kMostCopiedAhead);
  memory->bytes(GuestAddress{kMostCopiedAhead}, 1)->front() = std::byte{'!'};
  touched.push_back(kMostCopiedAhead);
  EXPECT_EQ(changed_pages(*memory, touched, {}), PageRanges{});
}

TEST(WorkingSet, HasThePagesThatDifferFromTheirFile) {
  const testing::ScratchDirectory scratch;
  auto file = open_for_reading(testing::make_file(scratch.file("memory"), std::string(kMiB, 'm')));
  ASSERT_TRUE(file.has_value());
  auto memory = GuestMemory::map({.size_mib = 1}, std::move(*file));
  ASSERT_TRUE(memory.has_value());
  for (const std::uint64_t page : {200U, 3U, 4U, 100U})
    memory->bytes(GuestAddress{page * kPage + 9}, 1)->front() = std::byte{'!'};
  memory->bytes(GuestAddress{4 * kPage + 9}, 1)->front() = std::byte{'m'};  // as it was
  const std::uint64_t touched[] = {200 * kPage, 4 * kPage, 3 * kPage, 7 * kPage};
  EXPECT_EQ(changed_pages(*memory, touched, {}), (PageRanges{pages(3), pages(200)}));
}

TEST(WorkingSet, IsReadForItsOwnSnapshotAlone) {
  const testing::ScratchDirectory scratch;
  const WorkingSet set = some_set();
  const std::vector<std::byte> bytes = encode_working_set(set);
  const std::string path =
      testing::make_file(scratch.file("set"), {reinterpret_cast<const char*>(bytes.data()), bytes.size()});
  const auto error = [&](const std::string& file, const SnapshotId& id, std::uint64_t size) {
    const auto read = read_working_set(file, id, size);
    return read ? "" : read.error().message;
  };
  EXPECT_EQ(error(path, set.snapshot, set.memory_size), "");
  const std::string other = error(path, SnapshotId{}, set.memory_size);
  EXPECT_NE(other.find("working_set.path " + path), std::string::npos) << other;
  EXPECT_NE(other.find(format_snapshot_id(set.snapshot)), std::string::npos) << other;
  EXPECT_NE(error(path, set.snapshot, 8 * kMiB).find("4 MiB"), std::string::npos);
  EXPECT_NE(error(scratch.file("none"), set.snapshot, set.memory_size).find("cannot be opened"), std::string::npos);
  EXPECT_NE(error(scratch.file("."), set.snapshot, set.memory_size).find("not a regular file"), std::string::npos);
  const std::string text = testing::make_file(scratch.file("text"), "something else");
  EXPECT_NE(error(text, set.snapshot, set.memory_size).find("not a working set"), std::string::npos);
  const std::string huge = testing::make_file(scratch.file("huge"), "");
  std::filesystem::resize_file(huge, 1 << 30);
  EXPECT_NE(error(huge, set.snapshot, set.memory_size).find("is it the memory file?"), std::string::npos);
}

}  // namespace
}  // namespace mayfly
