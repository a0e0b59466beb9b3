#include "virtio/block/overlay_map.h"

#include "tests/unit/virtio/block/overlay_fixture.h"

#include <random>
#include <set>

#include <gtest/gtest.h>

namespace mayfly {
namespace {

using testing::BlockFixture;
using testing::Bytes;

/// Three sectors of the durable map, the last of them short.
constexpr std::uint64_t kBlocks = 2 * MapSector::kBlocks + 37;

OverlayHeader header_of_blocks() {
  OverlayHeader header;
  header.block_size = kOverlayBlockSize;
  header.drive_size = kBlocks * kOverlayBlockSize;
  header.epoch = 1;
  return header;
}
OverlayMap make_map() { return BlockFixture::must(OverlayMap::make(header_of_blocks())); }

TEST(OverlayMap, ABlockIsThereOnceItIsPublished) {
  OverlayMap map = make_map();
  const auto write = map.record(7, 2);
  EXPECT_FALSE(map.is_present(7)) << "the map is not written yet";
  EXPECT_EQ(write.offset, map.layout().volatile_offset);
  EXPECT_EQ((Bytes{write.bytes.begin(), write.bytes.end()}), (Bytes{std::byte{0x80}, std::byte{1}}));
  map.publish(7, 2);
  EXPECT_FALSE(map.is_present(6));
  EXPECT_TRUE(map.is_present(7));
  EXPECT_TRUE(map.is_present(8));
  EXPECT_FALSE(map.is_present(9));
}

TEST(OverlayMap, WhatIsForgottenLeavesWhatWasThere) {
  OverlayMap map = make_map();
  (void)map.record(10, 1);
  map.publish(10, 1);
  const auto write = map.record(8, 8);
  EXPECT_EQ(write.bytes.front(), std::byte{0xFF});
  map.forget(8, 8);
  EXPECT_EQ(write.bytes.front(), std::byte{1 << 2});
  EXPECT_FALSE(map.is_present(9));
  EXPECT_TRUE(map.is_present(10));
}

TEST(OverlayMap, RunsAreThoseOfAPlainList) {
  OverlayMap map = make_map();
  std::vector<bool> model(kBlocks);
  std::mt19937 random{1};
  for (int round = 0; round < 200; ++round) {
    const std::uint64_t first = random() % kBlocks;
    const std::uint64_t count = std::min<std::uint64_t>(1 + random() % (random() % 2 == 0 ? 5 : 500), kBlocks - first);
    (void)map.record(first, count);
    map.publish(first, count);
    std::fill_n(model.begin() + static_cast<std::ptrdiff_t>(first), count, true);
    const std::uint64_t from = random() % kBlocks;
    const std::uint64_t most = 1 + random() % 2000;
    std::uint64_t wanted = 1;
    while (wanted < most && from + wanted < kBlocks && model[from + wanted] == model[from]) ++wanted;
    ASSERT_EQ(map.run(from, most), wanted) << from;
  }
  EXPECT_EQ(map.present_count(), static_cast<std::uint64_t>(std::ranges::count(model, true)));
}

TEST(OverlayMap, WritesTheSectorsThatChanged) {
  OverlayMap map = make_map();
  EXPECT_TRUE(map.is_durable());
  map.capture();
  EXPECT_FALSE(map.next_piece(0));
  (void)map.record(kBlocks - 1, 1);
  map.publish(kBlocks - 1, 1);
  (void)map.record(0, 1);
  map.publish(0, 1);
  EXPECT_FALSE(map.is_durable());
  map.capture();
  EXPECT_FALSE(map.is_durable()) << "nothing is written yet";
  const auto first = map.next_piece(0);
  ASSERT_TRUE(first);
  EXPECT_EQ(first->write.bytes.size(), sizeof(MapSector));
  EXPECT_EQ(first->write.offset, map.layout().sectors_offset[1]);
  const auto last = map.next_piece(first->next);
  ASSERT_TRUE(last);
  EXPECT_EQ(last->write.offset, map.layout().sectors_offset[1] + 2 * sizeof(MapSector));
  EXPECT_FALSE(map.next_piece(last->next));
  map.captured();
  EXPECT_TRUE(map.is_durable());
  EXPECT_TRUE(map.has_sectors());
}

TEST(OverlayMap, NeighboursOfOneCopyAreOnePiece) {
  OverlayMap map = make_map();
  map.publish(0, kBlocks);
  map.capture();
  const auto all = map.next_piece(0);
  EXPECT_EQ(all->write.bytes.size(), 3 * sizeof(MapSector));
  map.captured();
  map.publish(0, 1);
  map.capture();
  map.captured();
  map.publish(0, kBlocks);
  map.capture();
  EXPECT_EQ(map.next_piece(0)->write.bytes.size(), sizeof(MapSector)) << "it is one generation ahead";
}

TEST(OverlayMap, WhatIsPublishedDuringACaptureIsOfTheNextOne) {
  OverlayMap map = make_map();
  map.publish(3, 1);
  map.capture();
  map.publish(4, 1);
  MapSector written;
  std::memcpy(static_cast<void*>(&written), map.next_piece(0)->write.bytes.data(), sizeof written);
  EXPECT_EQ(written.bitmap.front(), std::byte{1 << 3});
  map.captured();
  EXPECT_FALSE(map.is_durable());
  map.capture();
  std::memcpy(static_cast<void*>(&written), map.next_piece(0)->write.bytes.data(), sizeof written);
  EXPECT_EQ(written.bitmap.front(), std::byte{3 << 3});
}

TEST(OverlayMap, ACaptureThatFailedIsWrittenOverTheSameCopy) {
  OverlayMap map = make_map();
  map.publish(3, 1);
  map.capture();
  const std::uint64_t at = map.next_piece(0)->write.offset;
  map.publish(5, 1);
  map.capture();  // the first one's writing failed, and may have torn this copy
  EXPECT_EQ(map.next_piece(0)->write.offset, at);
  map.captured();
  map.publish(6, 1);
  map.capture();
  EXPECT_NE(map.next_piece(0)->write.offset, at);
}

TEST(OverlayMap, BitsBeyondTheDriveAreNotTakenOver) {
  OverlayMap map = make_map();
  map.load_volatile(kBlocks / 8, Bytes(100, std::byte{0xFF}));
  EXPECT_EQ(map.present_count(), kBlocks % 8);
  MapSector full;
  full.generation = 1;
  full.epoch = 1;
  full.bitmap.fill(std::byte{0xFF});
  seal(full, {}, 2);
  EXPECT_TRUE(map.load(2, full, full));
  EXPECT_EQ(map.present_count(), kBlocks - 2 * MapSector::kBlocks);
}

TEST(OverlayMap, AClearedOneGoesOnCountingGenerations) {
  OverlayMap map = make_map();
  map.publish(0, 9);
  map.capture();
  const std::uint64_t at = map.next_piece(0)->write.offset;
  map.captured();
  map.clear(2);
  EXPECT_EQ(map.present_count(), 0U);
  EXPECT_TRUE(map.is_durable());
  map.publish(1, 1);
  map.capture();
  EXPECT_NE(map.next_piece(0)->write.offset, at);
  MapSector written;
  std::memcpy(static_cast<void*>(&written), map.next_piece(0)->write.bytes.data(), sizeof written);
  EXPECT_EQ(written.epoch, 2U);
  EXPECT_EQ(written.generation, 2U);
  EXPECT_EQ(written.bitmap.front(), std::byte{2});
}

}  // namespace
}  // namespace mayfly
