#include "virtio/block/block_request.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <random>
#include <vector>

#include <gtest/gtest.h>

namespace mayfly {
namespace {

/// Bytes cut into buffers at given places, each in memory of its own.
class Pieces {
 public:
  Pieces(std::vector<std::byte> bytes, const std::vector<std::size_t>& lengths) : bytes_(std::move(bytes)) {
    std::size_t at = 0;
    for (const std::size_t length : lengths) {
      buffers_.push_back({.iov_base = bytes_.data() + at, .iov_len = length});
      at += length;
    }
    EXPECT_EQ(at, bytes_.size());
  }
  [[nodiscard]] std::span<iovec> buffers() noexcept { return buffers_; }
  [[nodiscard]] std::vector<std::byte>& bytes() noexcept { return bytes_; }

 private:
  std::vector<std::byte> bytes_;
  std::vector<iovec> buffers_;
};

std::vector<std::byte> header(std::uint32_t type, std::uint64_t sector, std::size_t more = 0) {
  const virtio_blk_outhdr value{.type = type, .ioprio = 0, .sector = sector};
  std::vector<std::byte> bytes(sizeof value + more, std::byte{0x55});
  std::memcpy(bytes.data(), &value, sizeof value);
  return bytes;
}

std::vector<std::byte> with_ranges(std::uint32_t type, const std::vector<virtio_blk_discard_write_zeroes>& ranges) {
  std::vector<std::byte> bytes = header(type, 0, ranges.size() * 16);
  if (!ranges.empty()) std::memcpy(bytes.data() + 16, ranges.data(), ranges.size() * 16);
  return bytes;
}

std::uint64_t total(std::span<const iovec> buffers) {
  std::uint64_t sum = 0;
  for (const iovec& buffer : buffers) sum += buffer.iov_len;
  return sum;
}

struct Parsed {
  BlockRequest request;
  std::array<BlockRange, kMaximumBlockRanges> ranges;
};

constexpr BlockRules kWritable{.sectors = 100, .read_only = false, .discard = true};

Parsed parse(Pieces& readable, Pieces& writable, const BlockRules& rules = kWritable) {
  Parsed parsed;
  parsed.request = parse_block_request(
      {.readable = readable.buffers(), .writable = writable.buffers(), .ranges = parsed.ranges}, rules);
  return parsed;
}

Parsed parse(const std::vector<std::byte>& readable, std::size_t writable, const BlockRules& rules = kWritable) {
  Pieces in{readable, {readable.size()}};
  Pieces out{std::vector<std::byte>(writable), {writable}};
  return parse(in, out, rules);
}

/// Random cuts of `total` bytes into non-empty pieces.
std::vector<std::size_t> cuts(std::size_t total, std::mt19937& random) {
  std::vector<std::size_t> lengths;
  while (total > 0) {
    const std::size_t length = std::uniform_int_distribution<std::size_t>{1, std::min<std::size_t>(total, 40)}(random);
    lengths.push_back(length);
    total -= length;
  }
  return lengths;
}

TEST(BlockRequest, ReadsAndWritesAreParsedHoweverTheirBuffersAreCut) {
  std::mt19937 random{1};
  for (int round = 0; round < 500; ++round) {
    const std::uint64_t sectors = random() % 4 + 1;
    const bool write = round % 2 == 0;
    const auto head = header(write ? VIRTIO_BLK_T_OUT : VIRTIO_BLK_T_IN, 7, write ? sectors * 512 : 0);
    const std::size_t room = write ? 1 : sectors * 512 + 1;
    Pieces readable{head, cuts(head.size(), random)};
    Pieces writable{std::vector<std::byte>(room), cuts(room, random)};
    const auto [request, ranges] = parse(readable, writable);
    ASSERT_EQ(request.refusal, VIRTIO_BLK_S_OK);
    EXPECT_EQ(request.command, write ? BlockCommand::Write : BlockCommand::Read);
    EXPECT_EQ(request.offset, 7 * 512U);
    EXPECT_EQ(request.length, sectors * 512);
    EXPECT_EQ(total(request.data), sectors * 512);
    EXPECT_EQ(request.data.front().iov_base, (write ? readable.bytes().data() + 16 : writable.bytes().data()));
    EXPECT_EQ(request.status, &writable.bytes().back());
  }
}

TEST(BlockRequest, StatusMayShareABufferWithDataOrStandAlone) {
  for (const auto& lengths : {std::vector<std::size_t>{513}, std::vector<std::size_t>{512, 1}}) {
    Pieces readable{header(VIRTIO_BLK_T_IN, 0), {16}};
    Pieces writable{std::vector<std::byte>(513), lengths};
    const auto [request, ranges] = parse(readable, writable);
    ASSERT_EQ(request.data.size(), 1U);
    EXPECT_EQ(request.data.front().iov_len, 512U);
    EXPECT_EQ(request.status, &writable.bytes().back());
  }
}

TEST(BlockRequest, WithoutAWritableByteItCannotBeAnswered) {
  Pieces readable{header(VIRTIO_BLK_T_IN, 0), {16}};
  Pieces writable{{}, {}};
  EXPECT_EQ(parse(readable, writable).request.status, nullptr);
}

TEST(BlockRequest, WithoutAWholeHeaderItIsAnError) {
  Pieces readable{std::vector<std::byte>(15), {15}};
  Pieces writable{std::vector<std::byte>(513), {513}};
  const auto [request, ranges] = parse(readable, writable);
  EXPECT_NE(request.status, nullptr);
  EXPECT_EQ(request.refusal, VIRTIO_BLK_S_IOERR);
}

TEST(BlockRequest, RangesAreHeldAgainstTheCapacityWithoutOverflow) {
  const auto refusal = [](std::uint64_t sector, std::size_t sectors) {
    return parse(header(VIRTIO_BLK_T_IN, sector), sectors * 512 + 1).request.refusal;
  };
  EXPECT_EQ(refusal(0, 100), VIRTIO_BLK_S_OK);
  EXPECT_EQ(refusal(99, 1), VIRTIO_BLK_S_OK);
  EXPECT_EQ(refusal(100, 0), VIRTIO_BLK_S_OK);
  EXPECT_EQ(refusal(99, 2), VIRTIO_BLK_S_IOERR);
  EXPECT_EQ(refusal(100, 1), VIRTIO_BLK_S_IOERR);
  EXPECT_EQ(refusal(101, 0), VIRTIO_BLK_S_IOERR);
  EXPECT_EQ(refusal(UINT64_MAX, 1), VIRTIO_BLK_S_IOERR);
  EXPECT_EQ(refusal(UINT64_MAX / 512 + 1, 1), VIRTIO_BLK_S_IOERR);
}

TEST(BlockRequest, DataIsWholeSectors) {
  EXPECT_EQ(parse(header(VIRTIO_BLK_T_IN, 0), 512).request.refusal, VIRTIO_BLK_S_IOERR);
  EXPECT_EQ(parse(header(VIRTIO_BLK_T_IN, 0), 514).request.refusal, VIRTIO_BLK_S_IOERR);
  EXPECT_EQ(parse(header(VIRTIO_BLK_T_OUT, 0, 511), 1).request.refusal, VIRTIO_BLK_S_IOERR);
  EXPECT_EQ(parse(header(VIRTIO_BLK_T_OUT, 0, 0), 1).request.refusal, VIRTIO_BLK_S_OK);
}

TEST(BlockRequest, AReadOnlyDriveRefusesWhatChangesIt) {
  constexpr BlockRules kReadOnly{.sectors = 100, .read_only = true, .discard = false};
  EXPECT_EQ(parse(header(VIRTIO_BLK_T_OUT, 0, 512), 1, kReadOnly).request.refusal, VIRTIO_BLK_S_IOERR);
  EXPECT_EQ(parse(with_ranges(VIRTIO_BLK_T_DISCARD, {{0, 1, 0}}), 1, kReadOnly).request.refusal, VIRTIO_BLK_S_IOERR);
  EXPECT_EQ(parse(with_ranges(VIRTIO_BLK_T_WRITE_ZEROES, {{0, 1, 0}}), 1, kReadOnly).request.refusal,
            VIRTIO_BLK_S_IOERR);
  EXPECT_EQ(parse(header(VIRTIO_BLK_T_IN, 0), 513, kReadOnly).request.refusal, VIRTIO_BLK_S_OK);
  EXPECT_EQ(parse(header(VIRTIO_BLK_T_FLUSH, 0), 1, kReadOnly).request.refusal, VIRTIO_BLK_S_OK);
}

TEST(BlockRequest, ADiscardIsNotKnownWhereItIsNotOffered) {
  constexpr BlockRules kWithout{.sectors = 100, .read_only = false, .discard = false};
  EXPECT_EQ(parse(with_ranges(VIRTIO_BLK_T_DISCARD, {{0, 1, 0}}), 1, kWithout).request.refusal, VIRTIO_BLK_S_UNSUPP);
  EXPECT_EQ(parse(with_ranges(VIRTIO_BLK_T_WRITE_ZEROES, {{0, 1, 1}}), 1, kWithout).request.refusal, VIRTIO_BLK_S_OK);
}

TEST(BlockRequest, DiscardAndWriteZeroesGiveTheirRangesInBytes) {
  std::mt19937 random{2};
  const auto bytes = with_ranges(VIRTIO_BLK_T_WRITE_ZEROES, {{0, 8, 0}, {90, 10, 1}, {100, 0, 0}});
  for (int round = 0; round < 100; ++round) {
    Pieces readable{bytes, cuts(bytes.size(), random)};
    Pieces writable{std::vector<std::byte>(1), {1}};
    const auto [request, ranges] = parse(readable, writable);
    ASSERT_EQ(request.refusal, VIRTIO_BLK_S_OK);
    ASSERT_EQ(request.range_count, 3U);
    EXPECT_EQ(ranges[0].length, 8 * 512U);
    EXPECT_FALSE(ranges[0].unmap);
    EXPECT_EQ(ranges[1].offset, 90 * 512U);
    EXPECT_TRUE(ranges[1].unmap);
    EXPECT_EQ(ranges[2].length, 0U);
  }
}

TEST(BlockRequest, WrongRangesAreErrorsAndUnknownFlagsUnsupported) {
  const auto refusal = [](std::uint32_t type, const std::vector<virtio_blk_discard_write_zeroes>& ranges,
                          std::uint64_t sectors = 100) {
    return parse(with_ranges(type, ranges), 1, {.sectors = sectors, .discard = true}).request.refusal;
  };
  EXPECT_EQ(refusal(VIRTIO_BLK_T_DISCARD, {{0, 1, 0}}), VIRTIO_BLK_S_OK);
  EXPECT_EQ(refusal(VIRTIO_BLK_T_DISCARD, {{0, 1, 1}}), VIRTIO_BLK_S_UNSUPP);
  EXPECT_EQ(refusal(VIRTIO_BLK_T_WRITE_ZEROES, {{0, 1, 1}}), VIRTIO_BLK_S_OK);
  EXPECT_EQ(refusal(VIRTIO_BLK_T_WRITE_ZEROES, {{0, 1, 0}, {0, 1, 2}}), VIRTIO_BLK_S_UNSUPP);
  EXPECT_EQ(refusal(VIRTIO_BLK_T_DISCARD, {}), VIRTIO_BLK_S_IOERR);
  EXPECT_EQ(refusal(VIRTIO_BLK_T_DISCARD, {{99, 2, 0}}), VIRTIO_BLK_S_IOERR);
  EXPECT_EQ(refusal(VIRTIO_BLK_T_DISCARD, {{UINT64_MAX, 2, 0}}), VIRTIO_BLK_S_IOERR);
  EXPECT_EQ(refusal(VIRTIO_BLK_T_DISCARD, {{0, UINT32_MAX, 0}}), VIRTIO_BLK_S_IOERR);
  EXPECT_EQ(refusal(VIRTIO_BLK_T_DISCARD, {{0, kMaximumRangeSectors, 0}}, 1ULL << 40), VIRTIO_BLK_S_OK);
  EXPECT_EQ(refusal(VIRTIO_BLK_T_DISCARD, {{0, kMaximumRangeSectors + 1, 0}}, 1ULL << 40), VIRTIO_BLK_S_IOERR);
  EXPECT_EQ(refusal(VIRTIO_BLK_T_DISCARD, std::vector<virtio_blk_discard_write_zeroes>(kMaximumBlockRanges)),
            VIRTIO_BLK_S_OK);
  EXPECT_EQ(refusal(VIRTIO_BLK_T_DISCARD, std::vector<virtio_blk_discard_write_zeroes>(kMaximumBlockRanges + 1)),
            VIRTIO_BLK_S_IOERR);
  EXPECT_EQ(parse(header(VIRTIO_BLK_T_DISCARD, 0, 17), 1).request.refusal, VIRTIO_BLK_S_IOERR);
}

TEST(BlockRequest, UnknownTypesAreUnsupported) {
  for (const std::uint32_t type : {2U, 3U, 5U, 7U, 14U, 0x8000'0000U, 0x8000'0001U, 0xFFFF'FFFFU})
    EXPECT_EQ(parse(header(type, 0), 1).request.refusal, VIRTIO_BLK_S_UNSUPP) << type;
}

TEST(BlockRequest, TheHeaderIsNotReadAgain) {
  Pieces readable{header(VIRTIO_BLK_T_IN, 3), {16}};
  Pieces writable{std::vector<std::byte>(513), {513}};
  const auto [request, ranges] = parse(readable, writable);
  std::ranges::fill(readable.bytes(), std::byte{0xFF});
  EXPECT_EQ(request.offset, 3 * 512U);
}

}  // namespace
}  // namespace mayfly
