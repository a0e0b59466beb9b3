#include "virtio/block/overlay_format.h"

#include <cstring>

#include <gtest/gtest.h>

namespace mayfly {
namespace {

OverlayHeader header_of(std::uint64_t drive_size = 1 << 20) {
  OverlayHeader header;
  header.block_size = kOverlayBlockSize;
  header.drive_size = header.below.size_bytes = drive_size;
  header.id.fill(std::byte{7});
  header.sequence = 3;
  header.epoch = 1;
  seal(header);
  return header;
}

std::span<const std::byte> bytes_of(const OverlayHeader& header) { return std::as_bytes(std::span{&header, 1}); }

std::string refusal(const OverlayHeader& header) {
  const auto read = decode_overlay_header(bytes_of(header), {}, "it");
  return read ? "" : read.error().message;
}

TEST(OverlayFormat, PlacesMapsAndBlocksWithoutOverlap) {
  for (const std::uint64_t size : {std::uint64_t{0}, std::uint64_t{512}, std::uint64_t{4096}, std::uint64_t{1} << 24,
                                   (std::uint64_t{1} << 32) + 512, kLargestLayeredDrive})
    for (const std::uint32_t block : {4096U, 16384U, kLargestOverlayBlock}) {
      const OverlayLayout layout = lay_out_overlay(size, block);
      EXPECT_GE(layout.block_count * block, size);
      EXPECT_LT(layout.block_count * block, size + block);
      EXPECT_GE(layout.volatile_length * 8, layout.block_count);
      EXPECT_GE(layout.sector_count * MapSector::kBlocks, layout.block_count);
      EXPECT_EQ(layout.volatile_offset, 2 * kOverlayHeaderRoom);
      EXPECT_GE(layout.sectors_offset[0], layout.volatile_offset + layout.volatile_length);
      EXPECT_GE(layout.sectors_offset[1], layout.sectors_offset[0] + layout.sector_count * sizeof(MapSector));
      EXPECT_GE(layout.data_offset, layout.sectors_offset[1] + layout.sector_count * sizeof(MapSector));
      EXPECT_EQ(layout.data_offset % kLargestOverlayBlock, 0U);
      EXPECT_EQ(layout.file_size, layout.data_offset + layout.block_count * block);
    }
}

TEST(OverlayFormat, TheLaterHeaderCounts) {
  OverlayHeader first = header_of();
  OverlayHeader second = header_of();
  second.sequence = 4;
  second.epoch = 9;
  seal(second);
  EXPECT_EQ(decode_overlay_header(bytes_of(first), bytes_of(second), "it")->epoch, 9U);
  EXPECT_EQ(decode_overlay_header(bytes_of(second), bytes_of(first), "it")->epoch, 9U);
  second.epoch = 10;  // torn: its checksum is another's
  EXPECT_EQ(decode_overlay_header(bytes_of(first), bytes_of(second), "it")->epoch, 1U);
}

TEST(OverlayFormat, EveryFlippedBitOfAHeaderIsFound) {
  const OverlayHeader good = header_of();
  EXPECT_EQ(refusal(good), "");
  for (std::size_t bit = 0; bit < 8 * sizeof good; ++bit) {
    OverlayHeader bad = good;
    auto* byte = reinterpret_cast<unsigned char*>(&bad) + bit / 8;
    *byte = static_cast<unsigned char>(*byte ^ 1U << bit % 8);
    EXPECT_NE(refusal(bad), "") << bit;
  }
}

TEST(OverlayFormat, SaysWhatAForeignFileIs) {
  OverlayHeader header = header_of();
  header.magic[0] = 'x';
  EXPECT_EQ(
      refusal(header),
      "it is no overlay; give the path of one, or of a file that does not exist yet, or leave base_path out for a "
      "raw image");
  header = header_of();
  header.checksum ^= 1;
  EXPECT_EQ(refusal(header),
            "it is an overlay whose header is damaged; delete it, and what the guest wrote with it, or give a copy");
  for (const std::uint32_t block : {0U, 512U, 4097U, 2 * kLargestOverlayBlock}) {
    header = header_of();
    header.block_size = block;
    seal(header);
    EXPECT_NE(refusal(header), "") << block;
  }
  header = header_of();
  header.below.size_bytes += 512;
  seal(header);
  EXPECT_EQ(refusal(header), "it is an overlay of a drive of 1048576 bytes in blocks of 4096, which none is");
  header = header_of();
  header.sequence = ~std::uint64_t{0};
  seal(header);
  EXPECT_NE(refusal(header), "") << "the next one would count less";
  header = header_of();
  header.epoch = ~0U;
  seal(header);
  EXPECT_NE(refusal(header), "");
  for (const std::uint64_t size : {std::uint64_t{511}, kLargestLayeredDrive + 512, ~std::uint64_t{511}}) {
    header = header_of(size);
    EXPECT_NE(refusal(header), "") << size;
  }
}

TEST(OverlayFormat, TheSectorOfTheHigherGenerationCounts) {
  const OverlayHeader header = header_of();
  const auto sector = [&](std::uint64_t generation, unsigned fill, std::uint32_t epoch = 1) {
    MapSector made;
    made.generation = generation;
    made.epoch = epoch;
    made.bitmap.fill(static_cast<std::byte>(fill));
    seal(made, header.id, 5);
    return made;
  };
  const auto fill_of = [&](const MapSector& first, const MapSector& second) {
    const auto chosen = choose_sector(first, second, header, 5);
    return chosen ? std::to_integer<int>(chosen->bitmap.front()) : -1;
  };
  MapSector torn = sector(3, 3);
  torn.bitmap[400] = std::byte{0};
  EXPECT_EQ(fill_of({}, {}), 0);
  EXPECT_EQ(fill_of(sector(2, 2), sector(1, 1)), 2);
  EXPECT_EQ(fill_of(sector(2, 2), sector(3, 3)), 3);
  EXPECT_EQ(fill_of(sector(2, 2), torn), 2);
  EXPECT_EQ(fill_of({}, torn), 0) << "the first write of a sector was torn";
  EXPECT_EQ(fill_of(torn, torn), -1);
  EXPECT_EQ(fill_of(sector(~std::uint64_t{0}, 9), sector(2, 2)), -1) << "the next one would count less";
  // Of another epoch: nothing, but its generation was used.
  EXPECT_EQ(fill_of(sector(8, 8, 0), sector(7, 7, 0)), 0);
  EXPECT_EQ(choose_sector(sector(8, 8, 0), sector(7, 7, 0), header, 5)->generation, 8U);
  EXPECT_EQ(fill_of(sector(8, 8, 0), sector(9, 9)), 9);
  EXPECT_EQ(fill_of(sector(9, 9, 2), sector(8, 8)), -1) << "of an epoch whose header is lost";
  EXPECT_EQ(fill_of(sector(8, 8), sector(9, 9, 2)), -1);
  // Of another place, or another overlay.
  EXPECT_FALSE(choose_sector(sector(1, 1), sector(2, 2), header, 6));
  OverlayHeader other = header;
  other.id.front() = std::byte{8};
  EXPECT_FALSE(choose_sector(sector(1, 1), sector(2, 2), other, 5));
}

TEST(OverlayFormat, TheHostHasABootId) {
  const auto id = read_boot_id();
  ASSERT_TRUE(id) << id.error().message;
  EXPECT_EQ(*id, *read_boot_id());
  EXPECT_NE(*id, kNoBoot);
}

}  // namespace
}  // namespace mayfly
