#include "virtio/block/block_device.h"

#include "tests/support/files.h"
#include "tests/unit/virtio/block/block_fixture.h"
#include "vmm/base/clock.h"

#include <linux/virtio_ids.h>
#include <sys/mman.h>
#include <sys/resource.h>

#include <csignal>
#include <cstring>
#include <random>

namespace mayfly {
namespace {

using namespace mayfly::testing;

constexpr std::uint64_t bit(unsigned feature) { return 1ULL << feature; }

bool is_zero(const Bytes& bytes) {
  return std::ranges::all_of(bytes, [](std::byte byte) { return byte == std::byte{0}; });
}

// --- What it is ------------------------------------------------------------------------------------------------------

TEST(BlockDevice, OffersWhatItsConfigurationAllows) {
  constexpr std::uint64_t kAlways = bit(VIRTIO_BLK_F_SEG_MAX) | bit(VIRTIO_BLK_F_BLK_SIZE) | bit(VIRTIO_BLK_F_TOPOLOGY);
  constexpr std::uint64_t kHoles = bit(VIRTIO_BLK_F_DISCARD) | bit(VIRTIO_BLK_F_WRITE_ZEROES);
  EXPECT_EQ(BlockFixture{}.device->features(), kAlways | kHoles | bit(VIRTIO_BLK_F_FLUSH));
  EXPECT_EQ(BlockFixture({.cache_type = CacheType::Unsafe}).device->features(), kAlways | kHoles);
  EXPECT_EQ(BlockFixture({.discard = Discard::Ignore}).device->features(),
            kAlways | bit(VIRTIO_BLK_F_WRITE_ZEROES) | bit(VIRTIO_BLK_F_FLUSH));
  EXPECT_EQ(BlockFixture({.read_only = true}).device->features(),
            kAlways | bit(VIRTIO_BLK_F_RO) | bit(VIRTIO_BLK_F_FLUSH));
  EXPECT_EQ(BlockFixture{}.device->type(), std::uint32_t{VIRTIO_ID_BLOCK});
  EXPECT_EQ(BlockFixture{}.device->name(), "drive rootfs");
}

TEST(BlockDevice, DescribesItselfInItsConfigurationSpace) {
  const BlockFixture drive{{.sectors = 77}};
  const virtio_blk_config config = drive.device_config();
  EXPECT_EQ(config.capacity, 77U);
  EXPECT_EQ(config.seg_max, 254U);
  EXPECT_EQ(config.blk_size, 512U);
  EXPECT_EQ(512U << config.physical_block_exp, config.min_io_size * 512U);
  EXPECT_EQ(config.max_discard_seg, kMaximumBlockRanges);
  EXPECT_EQ(config.max_write_zeroes_sectors, kMaximumRangeSectors);
  // Any width, any place, and zeroes behind the end.
  std::uint32_t high = 1;
  drive.device->read_config(4, std::as_writable_bytes(std::span{&high, 1}));
  EXPECT_EQ(high, 0U);
  std::uint64_t beyond = ~0ULL;
  drive.device->read_config(sizeof config - 4, std::as_writable_bytes(std::span{&beyond, 1}));
  EXPECT_EQ(beyond, 0U);
  drive.device->read_config(~0ULL - 3, std::as_writable_bytes(std::span{&beyond, 1}));
  EXPECT_EQ(beyond, 0U);
}

// --- Requests --------------------------------------------------------------------------------------------------------

TEST(BlockDevice, ReadsWhatIsInTheImage) {
  BlockFixture drive;
  const Bytes content = drive.on_disk();
  EXPECT_EQ(drive.read(0, 1), sectors_of(content, 0, 1));
  EXPECT_EQ(drive.read(63, 1), sectors_of(content, 63, 1));
  EXPECT_EQ(drive.read(0, 64), content);
  EXPECT_EQ(drive.metrics.block.read_count.value(), 3U);
  EXPECT_EQ(drive.metrics.block.read_bytes.value(), 66 * 512U);
}

TEST(BlockDevice, WritesToTheImage) {
  BlockFixture drive;
  Bytes content = drive.on_disk();
  const Bytes bytes = BlockFixture::pattern(5, 99);
  EXPECT_EQ(drive.write(7, bytes), VIRTIO_BLK_S_OK);
  std::ranges::copy(bytes, content.begin() + 7 * 512);
  EXPECT_EQ(drive.on_disk(), content);
  EXPECT_EQ(drive.metrics.block.write_count.value(), 1U);
  EXPECT_EQ(drive.metrics.block.write_bytes.value(), bytes.size());
}

TEST(BlockDevice, AnEmptyImageHasNoSectorToReadOrWrite) {
  BlockFixture drive{{.sectors = 0}};
  EXPECT_EQ(drive.device_config().capacity, 0U);
  EXPECT_EQ(drive.write(0, Bytes(512)), VIRTIO_BLK_S_IOERR);
  EXPECT_EQ(drive.transact({drive.header(VIRTIO_BLK_T_IN, 0), drive.to_fill(512), drive.status()}).status,
            VIRTIO_BLK_S_IOERR);
}

TEST(BlockDevice, AWriteUsesTheStatusByteAlone) {
  BlockFixture drive;
  EXPECT_EQ(drive.transact({drive.header(VIRTIO_BLK_T_OUT, 0), drive.holding(Bytes(512)), drive.status()}).used, 1U);
}

TEST(BlockDevice, ServesHeadersAndDataThatAreCutAnywhere) {
  BlockFixture drive;
  const GuestAddress header = drive.header(VIRTIO_BLK_T_IN, 2).at;
  const FakeBuffer room = drive.to_fill(1025);
  const auto part = [&](std::uint64_t from, std::uint32_t length) {
    return FakeBuffer{{room.at.value + from}, length, true};
  };
  // The header in three pieces, one of them empty; data at odd addresses; the status at the end of the last piece.
  const BlockAnswer answer = drive.transact({{header, 3, false},
                                             {{header.value + 3}, 0, false},
                                             {{header.value + 3}, 13, false},
                                             part(0, 1),
                                             part(1, 700),
                                             part(701, 324)});
  EXPECT_EQ(answer.status, VIRTIO_BLK_S_OK);
  EXPECT_EQ(answer.used, 1025U);
  Bytes data = drive.filled(room);
  data.pop_back();
  EXPECT_EQ(data, sectors_of(drive.on_disk(), 2, 2));
}

TEST(BlockDevice, FlushesAndFlushesNothingWhereUnsafe) {
  BlockFixture drive;
  EXPECT_EQ(drive.transact({drive.header(VIRTIO_BLK_T_FLUSH, 0), drive.status()}).status, VIRTIO_BLK_S_OK);
  EXPECT_EQ(drive.metrics.block.flush_count.value(), 1U);
  BlockFixture unsafe{{.cache_type = CacheType::Unsafe}};
  EXPECT_EQ(unsafe.transact({unsafe.header(VIRTIO_BLK_T_FLUSH, 0), unsafe.status()}).status, VIRTIO_BLK_S_OK);
}

TEST(BlockDevice, WritesThroughForADriverThatDoesNotFlush) {
  BlockFixture drive{{.features = ~bit(VIRTIO_BLK_F_FLUSH)}};
  EXPECT_EQ(drive.write(0, Bytes(1024)), VIRTIO_BLK_S_OK);
  EXPECT_EQ(drive.ranges(VIRTIO_BLK_T_DISCARD, {{8, 8, 0}}), VIRTIO_BLK_S_OK);
  EXPECT_TRUE(is_zero(sectors_of(drive.on_disk(), 0, 2)));
}

TEST(BlockDevice, DiscardsAndWritesZeroesInEveryRange) {
  for (const bool unmap : {false, true}) {
    BlockFixture drive;
    const Bytes before = drive.on_disk();
    const std::uint32_t flags = unmap ? VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP : 0;
    EXPECT_EQ(drive.ranges(VIRTIO_BLK_T_WRITE_ZEROES, {{0, 8, flags}, {9, 0, flags}, {63, 1, flags}}), VIRTIO_BLK_S_OK);
    EXPECT_EQ(drive.ranges(VIRTIO_BLK_T_DISCARD, {{16, 8, 0}, {32, 8, 0}}), VIRTIO_BLK_S_OK);
    const Bytes after = drive.on_disk();
    EXPECT_EQ(after.size(), before.size());
    for (const auto& [sector, count] : {std::pair{0, 8}, {63, 1}, {16, 8}, {32, 8}})
      EXPECT_TRUE(is_zero(sectors_of(after, static_cast<unsigned>(sector), static_cast<unsigned>(count)))) << sector;
    EXPECT_EQ(sectors_of(after, 8, 8), sectors_of(before, 8, 8));
    EXPECT_EQ(drive.metrics.block.discard_count.value(), 1U);
    EXPECT_EQ(drive.metrics.block.write_zeroes_count.value(), 1U);
  }
}

TEST(BlockDevice, WithoutDiscardTheImageKeepsItsSpace) {
  BlockFixture drive{{.discard = Discard::Ignore}};
  const auto space = [&] {
    struct stat status = {};
    EXPECT_EQ(::stat(drive.config.path_on_host.c_str(), &status), 0);
    return status.st_blocks;
  };
  const auto before = space();
  const virtio_blk_config config = drive.device_config();
  EXPECT_EQ(config.max_discard_sectors, 0U);
  EXPECT_EQ(config.max_discard_seg, 0U);
  EXPECT_EQ(config.write_zeroes_may_unmap, 0U);
  EXPECT_EQ(config.max_write_zeroes_sectors, kMaximumRangeSectors);
  EXPECT_EQ(drive.ranges(VIRTIO_BLK_T_DISCARD, {{0, 64, 0}}), VIRTIO_BLK_S_UNSUPP);
  EXPECT_EQ(drive.on_disk(), BlockFixture::pattern(64));
  EXPECT_EQ(drive.ranges(VIRTIO_BLK_T_WRITE_ZEROES, {{0, 64, VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP}}), VIRTIO_BLK_S_OK);
  EXPECT_TRUE(is_zero(drive.on_disk()));
  EXPECT_EQ(space(), before);
}

TEST(BlockDevice, SaysUnsupportedWhereTheFileSystemCannotMakeZeroes) {
  const OwnedFd file{::memfd_create("disk", MFD_CLOEXEC)};  // tmpfs: holes, but no FALLOC_FL_ZERO_RANGE
  ASSERT_EQ(::ftruncate(file.get(), 64 * 512), 0);
  BlockFixture drive{{.path = fmt::format("/proc/self/fd/{}", file.get())}};
  EXPECT_EQ(drive.ranges(VIRTIO_BLK_T_WRITE_ZEROES, {{0, 8, 0}}), VIRTIO_BLK_S_UNSUPP);
  EXPECT_EQ(drive.ranges(VIRTIO_BLK_T_WRITE_ZEROES, {{0, 8, 1}}), VIRTIO_BLK_S_OK);
  EXPECT_EQ(drive.ranges(VIRTIO_BLK_T_DISCARD, {{0, 8, 0}}), VIRTIO_BLK_S_OK);
  EXPECT_EQ(drive.metrics.block.execute_fails.value(), 0U);
}

TEST(BlockDevice, TellsItsIdPaddedOrCutToTwentyBytes) {
  BlockFixture drive;
  const FakeBuffer room = drive.to_fill(20);
  const BlockAnswer answer = drive.transact({drive.header(VIRTIO_BLK_T_GET_ID, 0), room, drive.status()});
  EXPECT_EQ(answer.status, VIRTIO_BLK_S_OK);
  EXPECT_EQ(answer.used, 21U);
  std::string id(20, '\0');
  std::memcpy(id.data(), drive.filled(room).data(), 20);
  EXPECT_EQ(id, std::string("rootfs") + std::string(14, '\0'));
  const FakeBuffer small = drive.to_fill(4);
  EXPECT_EQ(drive.transact({drive.header(VIRTIO_BLK_T_GET_ID, 0), small, drive.status()}).used, 5U);
}

TEST(BlockDevice, AReadOnlyDriveIsNotWritten) {
  BlockFixture drive{{.read_only = true}};
  const Bytes before = drive.on_disk();
  EXPECT_EQ(drive.write(0, Bytes(512)), VIRTIO_BLK_S_IOERR);
  EXPECT_EQ(drive.ranges(VIRTIO_BLK_T_DISCARD, {{0, 8, 0}}), VIRTIO_BLK_S_IOERR);
  EXPECT_EQ(drive.read(0, 64), before);
}

/// Random requests, each in a part of the drive of its own, so that those in flight together do not overlap; and what
/// the drive should hold.
class RandomTraffic {
 public:
  static constexpr std::uint64_t kParts = 32;
  static constexpr std::uint64_t kPart = 16;  // sectors

  explicit RandomTraffic(BlockFixture& drive) : drive_(drive), model_(drive.on_disk()) {}
  [[nodiscard]] const Bytes& model() const noexcept { return model_; }

  void batch() {
    expected_.clear();
    for (std::uint64_t part = 0; part < kParts; ++part) {
      offer_one(part);
      if (below(4) == 0) drive_.kick();
    }
    drive_.kick();
    for (const auto& [head, answer] : drive_.collect(kParts)) {
      ASSERT_EQ(answer.status, VIRTIO_BLK_S_OK);
      const Expected& wanted = expected_.at(head);
      ASSERT_EQ(drive_.filled(wanted.room), wanted.content);
    }
  }

 private:
  struct Expected {
    FakeBuffer room;
    Bytes content;
  };
  std::uint64_t below(std::uint64_t limit) { return std::uint64_t{random_()} % limit; }
  std::span<std::byte> held(std::uint64_t sector, std::uint64_t count) {
    return std::span{model_}.subspan(sector * kSectorSize, count * kSectorSize);
  }

  void offer_one(std::uint64_t part) {
    const std::uint64_t first = below(kPart);
    const std::uint64_t count = below(kPart - first) + 1;
    const std::uint64_t sector = part * kPart + first;
    Expected expected{.room = {drive_.ram.room(1), 0, true}, .content = {}};
    std::vector<FakeBuffer> chain;
    switch (below(4)) {
      case 0:
        chain = write(sector, count);
        break;
      case 1:
        chain = write_zeroes(sector, count);
        break;
      default:
        expected.room = drive_.to_fill(count * kSectorSize, std::uint64_t{1} << below(13));
        expected.content = {held(sector, count).begin(), held(sector, count).end()};
        chain = {drive_.header(VIRTIO_BLK_T_IN, sector), expected.room};
        break;
    }
    chain.push_back(drive_.status());
    expected_.emplace(drive_.offer(chain), expected);
  }
  /// From any address, in two pieces.
  std::vector<FakeBuffer> write(std::uint64_t sector, std::uint64_t count) {
    const Bytes content = BlockFixture::pattern(count, static_cast<unsigned>(below(256)));
    std::ranges::copy(content, held(sector, count).begin());
    const GuestAddress at{drive_.ram.room(content.size() + 16).value + below(16)};
    std::ranges::copy(content, drive_.ram.bytes(at, content.size()).begin());
    const auto cut = static_cast<std::uint32_t>(below(content.size()));
    return {drive_.header(VIRTIO_BLK_T_OUT, sector),
            {at, cut, false},
            {{at.value + cut}, static_cast<std::uint32_t>(content.size()) - cut, false}};
  }
  std::vector<FakeBuffer> write_zeroes(std::uint64_t sector, std::uint64_t count) {
    std::ranges::fill(held(sector, count), std::byte{0});
    const virtio_blk_discard_write_zeroes range{
        .sector = sector, .num_sectors = static_cast<std::uint32_t>(count), .flags = 0};
    return {drive_.header(VIRTIO_BLK_T_WRITE_ZEROES, 0), drive_.holding(std::as_bytes(std::span{&range, 1}))};
  }

  BlockFixture& drive_;
  Bytes model_;
  std::mt19937 random_{42};
  std::map<std::uint16_t, Expected> expected_;
};

void match_a_model(BlockFixture& drive) {
  RandomTraffic traffic{drive};
  for (int batch = 0; batch < 60 && !::testing::Test::HasFailure(); ++batch) traffic.batch();
  EXPECT_EQ(drive.on_disk(), traffic.model());
}

TEST(BlockDevice, RandomRequestsDoToTheImageWhatTheyDoToAModel) {
  BlockFixture drive{{.sectors = RandomTraffic::kParts * RandomTraffic::kPart}};
  match_a_model(drive);
}

TEST(BlockDevice, DirectAccessDoesNotHangOnTheGuestsAlignment) {
  BlockFixture plain{{.sectors = RandomTraffic::kParts * RandomTraffic::kPart}};
  DriveConfig config = plain.config;
  config.path_on_host = plain.make_image("probe", Bytes(4096));
  config.direct = true;
  if (auto probe = DiskImage::open(config); !probe) GTEST_SKIP() << probe.error().message;
  BlockFixture drive{{.sectors = RandomTraffic::kParts * RandomTraffic::kPart, .direct = true}};
  match_a_model(drive);
}

// --- The host's failures ---------------------------------------------------------------------------------------------

TEST(BlockDevice, AFileThatWasMadeShorterFailsWhatLiesBehindItsEnd) {
  BlockFixture drive;
  const Bytes before = drive.on_disk();
  ASSERT_EQ(::truncate(drive.config.path_on_host.c_str(), 10 * 512), 0);
  const FakeBuffer room = drive.to_fill(4 * 512);
  EXPECT_EQ(drive.transact({drive.header(VIRTIO_BLK_T_IN, 20), room, drive.status()}).status, VIRTIO_BLK_S_IOERR);
  const BlockAnswer half = drive.transact({drive.header(VIRTIO_BLK_T_IN, 8), room, drive.status()});
  EXPECT_EQ(half.status, VIRTIO_BLK_S_IOERR);
  EXPECT_EQ(half.used, 2 * 512U + 1);
  EXPECT_EQ(drive.metrics.block.execute_fails.value(), 2U);
  EXPECT_EQ(drive.read(6, 4), sectors_of(before, 6, 4));
}

TEST(BlockDevice, AFullHostIsAnErrorOfTheRequestAlone) {
  BlockFixture drive;
  ASSERT_NE(std::signal(SIGXFSZ, SIG_IGN), SIG_ERR);
  rlimit before{};
  ASSERT_EQ(::getrlimit(RLIMIT_FSIZE, &before), 0);
  const rlimit small{.rlim_cur = 16 * 512, .rlim_max = before.rlim_max};
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &small), 0);
  const int beyond = drive.write(32, Bytes(512));
  const int across = drive.write(12, Bytes(8 * 512));
  const int within = drive.write(0, Bytes(512));
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &before), 0);
  EXPECT_EQ(beyond, VIRTIO_BLK_S_IOERR);
  EXPECT_EQ(across, VIRTIO_BLK_S_IOERR);
  EXPECT_EQ(within, VIRTIO_BLK_S_OK);
  EXPECT_EQ(drive.write(32, Bytes(512)), VIRTIO_BLK_S_OK);
  EXPECT_EQ(drive.metrics.block.execute_fails.value(), 2U);
}

// --- Limits ----------------------------------------------------------------------------------------------------------

/// Milliseconds that `requests` reads of 4 KiB take.
double read_for_ms(BlockFixture& drive, unsigned requests) {
  const std::uint64_t begin = monotonic_ns();
  for (unsigned i = 0; i < requests; ++i)
    drive.offer({drive.header(VIRTIO_BLK_T_IN, 8 * (i % 8)), drive.to_fill(4096), drive.status()});
  drive.kick();
  for (const auto& [head, answer] : drive.collect(requests)) EXPECT_EQ(answer.status, VIRTIO_BLK_S_OK);
  return static_cast<double>(monotonic_ns() - begin) / 1e6;
}

TEST(BlockDevice, BytesAreLimitedToTheirRate) {
  // 8 requests at once, then one every 5 ms: 40 more take 200 ms.
  BlockFixture drive{
      {.rate_limiter = RateLimiterConfig{.bandwidth = TokenBucketConfig{.size = 8 * 4096, .refill_time_ms = 40}}}};
  EXPECT_GE(read_for_ms(drive, 48), 200 * 0.98);
  EXPECT_GE(drive.metrics.block.rate_limiter_throttled_events.value(), 1U);
}

TEST(BlockDevice, OperationsAreLimitedToTheirRate) {
  BlockFixture drive{{.rate_limiter = RateLimiterConfig{.ops = TokenBucketConfig{.size = 10, .refill_time_ms = 50}}}};
  EXPECT_GE(read_for_ms(drive, 50), 200 * 0.98);
}

TEST(BlockDevice, ARequestLargerThanTheBucketIsServed) {
  BlockFixture drive{
      {.rate_limiter = RateLimiterConfig{.bandwidth = TokenBucketConfig{.size = 512, .refill_time_ms = 1}}}};
  EXPECT_EQ(drive.read(0, 64).size(), 64 * 512U);
}

/// A drive with a bucket of `bytes` that is filled once a day.
BlockFixtureOptions with_bytes(std::uint64_t bytes) {
  return {.rate_limiter =
              RateLimiterConfig{.bandwidth = TokenBucketConfig{.size = bytes, .refill_time_ms = 86'400'000}}};
}
/// Whether the bucket has a sector's bytes no more.
bool is_throttled(BlockFixture& drive) {
  drive.offer({drive.header(VIRTIO_BLK_T_IN, 0), drive.to_fill(512), drive.status()});
  drive.kick();
  return drive.metrics.block.rate_limiter_throttled_events.value() > 0;
}

TEST(BlockDevice, WritingZeroesTakesItsLengthFromTheBucket) {
  for (const std::uint32_t flags : {0U, 1U}) {
    BlockFixture drive{with_bytes(20 * 512)};
    EXPECT_EQ(drive.ranges(VIRTIO_BLK_T_WRITE_ZEROES, {{0, 8, flags}, {16, 11, flags}}), VIRTIO_BLK_S_OK);
    EXPECT_FALSE(is_throttled(drive));
    EXPECT_TRUE(is_throttled(drive));
  }
}

TEST(BlockDevice, AFlushAndEachRangeOfADiscardTakeAFixedSumFromTheBucket) {
  BlockFixture flushed{with_bytes(2 * BlockDevice::kFixedCharge)};
  for (int i = 0; i < 2; ++i)
    EXPECT_EQ(flushed.transact({flushed.header(VIRTIO_BLK_T_FLUSH, 0), flushed.status()}).status, VIRTIO_BLK_S_OK);
  EXPECT_TRUE(is_throttled(flushed));
  BlockFixture discarded{with_bytes(2 * BlockDevice::kFixedCharge)};
  EXPECT_EQ(discarded.ranges(VIRTIO_BLK_T_DISCARD, {{0, 8, 0}, {16, 40, 0}}), VIRTIO_BLK_S_OK);
  EXPECT_TRUE(is_throttled(discarded));
  // What does nothing costs nothing.
  BlockFixtureOptions unsafe = with_bytes(512);
  unsafe.cache_type = CacheType::Unsafe;
  BlockFixture idle{unsafe};
  EXPECT_EQ(idle.transact({idle.header(VIRTIO_BLK_T_FLUSH, 0), idle.status()}).status, VIRTIO_BLK_S_OK);
  EXPECT_FALSE(is_throttled(idle));
}

TEST(BlockDevice, WhatTheHostCannotDoIsGivenBackToTheBucket) {
  const OwnedFd file{::memfd_create("disk", MFD_CLOEXEC)};  // tmpfs has no FALLOC_FL_ZERO_RANGE
  ASSERT_EQ(::ftruncate(file.get(), 64 * 512), 0);
  BlockFixtureOptions options = with_bytes(9 * 512);
  options.path = fmt::format("/proc/self/fd/{}", file.get());
  BlockFixture drive{options};
  // Larger than the bucket: what is given back pays the debt, too.
  EXPECT_EQ(drive.ranges(VIRTIO_BLK_T_WRITE_ZEROES, {{0, 64, 0}}), VIRTIO_BLK_S_UNSUPP);
  EXPECT_FALSE(is_throttled(drive)) << "the driver will write these zeroes itself";
}

/// A drive on tmpfs, which punches holes and has no FALLOC_FL_ZERO_RANGE.
class DriveWithoutZeroing : public ::testing::Test {
 protected:
  static constexpr std::uint64_t kBudget = 1'000'000;
  static constexpr std::uint64_t kBurst = 20 * 512;

  BlockFixture& drive() {
    if (drive_) return *drive_;
    EXPECT_EQ(::ftruncate(file_.get(), 64 * 512), 0);
    drive_.emplace(BlockFixtureOptions{
        .discard = Discard::Unmap,
        .rate_limiter = RateLimiterConfig{.bandwidth = TokenBucketConfig{.size = kBudget,
                                                                         .refill_time_ms = 86'400'000'000,
                                                                         .one_time_burst = kBurst}},
        .path = fmt::format("/proc/self/fd/{}", file_.get())});
    return *drive_;
  }
  TokenBucketState bucket() { return drive().device->state().rate_limiter.bandwidth.value(); }

 private:
  const OwnedFd file_{::memfd_create("disk", MFD_CLOEXEC)};
  std::optional<BlockFixture> drive_;
};

TEST_F(DriveWithoutZeroing, WhatABurstHasPaidForGoesBackToIt) {
  EXPECT_EQ(drive().ranges(VIRTIO_BLK_T_WRITE_ZEROES, {{0, 64, 0}}), VIRTIO_BLK_S_UNSUPP);
  EXPECT_EQ(bucket().burst, kBurst);
  EXPECT_EQ(bucket().budget, kBudget);
}

TEST_F(DriveWithoutZeroing, RangesThatWereDoneBeforeTheOneThatFailsAreNotGivenBack) {
  constexpr std::uint32_t kUnmap = VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP;
  EXPECT_EQ(drive().ranges(VIRTIO_BLK_T_WRITE_ZEROES, {{0, 16, kUnmap}, {16, 40, 0}, {56, 8, kUnmap}}),
            VIRTIO_BLK_S_UNSUPP);
  EXPECT_EQ(bucket().burst, kBurst - 16 * 512) << "as if the guest had asked for the first alone";
  EXPECT_EQ(bucket().budget, kBudget);
  EXPECT_EQ(drive().ranges(VIRTIO_BLK_T_WRITE_ZEROES, {{0, 16, kUnmap}, {16, 40, 0}}), VIRTIO_BLK_S_UNSUPP);
  EXPECT_EQ(bucket().burst, 0U);
  EXPECT_EQ(bucket().budget, kBudget - 12 * 512);
}

TEST_F(DriveWithoutZeroing, ABucketThatIsReplacedBeforeTheAnswerTakesNothingBack) {
  const std::array ranges{virtio_blk_discard_write_zeroes{.sector = 0, .num_sectors = 16, .flags = 0}};
  drive().offer({drive().header(VIRTIO_BLK_T_WRITE_ZEROES, 0), drive().holding(std::as_bytes(std::span{ranges})),
                 drive().status()});
  drive().kick();
  drive().device->update_rate_limiter(
      {.bandwidth = TokenBucketConfig{.size = kBudget, .refill_time_ms = 86'400'000'000, .one_time_burst = 5}});
  EXPECT_EQ(drive().collect(1).begin()->second.status, VIRTIO_BLK_S_UNSUPP);
  EXPECT_EQ(bucket().burst, 5U);
  EXPECT_EQ(bucket().budget, kBudget);
}

TEST(BlockDevice, ZeroesLargerThanTheBucketAreWrittenAndWhatFollowsIsServed) {
  BlockFixture drive{
      {.rate_limiter = RateLimiterConfig{.bandwidth = TokenBucketConfig{.size = 512, .refill_time_ms = 1}}}};
  const std::array ranges{virtio_blk_discard_write_zeroes{.sector = 0, .num_sectors = 16, .flags = 0}};
  for (int i = 0; i < 3; ++i)
    drive.offer(
        {drive.header(VIRTIO_BLK_T_WRITE_ZEROES, 0), drive.holding(std::as_bytes(std::span{ranges})), drive.status()});
  const std::uint64_t begin = monotonic_ns();
  drive.kick();
  for (const auto& [head, answer] : drive.collect(3)) EXPECT_EQ(answer.status, VIRTIO_BLK_S_OK);
  EXPECT_EQ(drive.read(0, 16), Bytes(16 * 512));
  // Each waits until the debt of the one before is paid: 15 sectors, and then the one that it needs.
  EXPECT_GE(static_cast<double>(monotonic_ns() - begin) / 1e6, 3 * 16 * 0.98);
}

TEST(BlockDevice, ALiftedLimitLetsWhatWaitsGoAtOnce) {
  BlockFixture drive{
      {.rate_limiter = RateLimiterConfig{.ops = TokenBucketConfig{.size = 1, .refill_time_ms = 3'600'000}}}};
  for (int i = 0; i < 5; ++i) drive.offer({drive.header(VIRTIO_BLK_T_IN, 0), drive.to_fill(512), drive.status()});
  drive.kick();
  EXPECT_EQ(drive.collect(1).size(), 1U);
  drive.kick();  // a kick brings no tokens
  drive.device->update_rate_limiter({.ops = TokenBucketConfig{}});
  EXPECT_EQ(drive.collect(4).size(), 4U);
  EXPECT_EQ(drive.metrics.block.update_count.value(), 1U);
}

TEST(BlockDevice, AResetDoesNotFillTheBuckets) {
  BlockFixture drive{
      {.rate_limiter = RateLimiterConfig{.ops = TokenBucketConfig{.size = 1, .refill_time_ms = 3'600'000}}}};
  (void)drive.read(0, 1);
  drive.host->reset();
  drive.start();
  drive.offer({drive.header(VIRTIO_BLK_T_IN, 0), drive.to_fill(512), drive.status()});
  drive.kick();
  EXPECT_EQ(drive.metrics.block.rate_limiter_throttled_events.value(), 1U);
}

// --- Snapshot --------------------------------------------------------------------------------------------------------

TEST(BlockDevice, ItsStateIsTakenOverByAnotherOfTheSameKind) {
  const RateLimiterConfig limits{.ops = TokenBucketConfig{.size = 10, .refill_time_ms = 3'600'000}};
  BlockFixture saved{{.rate_limiter = limits}};
  for (int i = 0; i < 7; ++i) (void)saved.read(0, 1);
  saved.host->drain();
  const BlockDeviceState state = saved.device->state();
  EXPECT_EQ(state.features, saved.device->features());
  EXPECT_EQ(state.image.size_bytes, 64 * 512U);
  ASSERT_TRUE(state.rate_limiter.ops);
  EXPECT_EQ(state.rate_limiter.ops->budget, 3U);

  BlockFixture restored{{.rate_limiter = limits}};
  ASSERT_TRUE(restored.device->restore(state, BlockDevice::Images::MayDiffer));
  EXPECT_EQ(restored.device->state().rate_limiter.ops->budget, 3U);
  BlockFixture larger{{.sectors = 65}};
  EXPECT_FALSE(larger.device->restore(state, BlockDevice::Images::MayDiffer));
  // What is accepted and not offered, the transport refuses; here are the words for it.
  BlockFixture read_only{{.read_only = true}};
  EXPECT_EQ(state.features & ~read_only.device->features(), bit(VIRTIO_BLK_F_DISCARD) | bit(VIRTIO_BLK_F_WRITE_ZEROES));
  for (const unsigned feature :
       std::to_array<unsigned>({VIRTIO_BLK_F_RO, VIRTIO_BLK_F_FLUSH, VIRTIO_BLK_F_DISCARD, VIRTIO_BLK_F_WRITE_ZEROES}))
    EXPECT_NE(read_only.device->feature_text(feature).name, "") << feature;
}

/// The state of a drive over an image, and that image's time of change moved by a nanosecond.
BlockDeviceState changed_since(BlockFixture& drive) {
  drive.host->drain();
  BlockDeviceState state = drive.device->state();
  state.image.modified_ns -= 1;
  return state;
}

TEST(BlockDevice, IsRestoredOverTheImageAsItWas) {
  BlockFixture drive;
  drive.host->drain();
  EXPECT_TRUE(drive.device->restore(drive.device->state(), BlockDevice::Images::Unchanged));
}

TEST(BlockDevice, IsNotRestoredOverAWritableImageThatHasChanged) {
  BlockFixture drive;
  const auto refused = drive.device->restore(changed_since(drive), BlockDevice::Images::Unchanged);
  ASSERT_FALSE(refused);
  EXPECT_NE(refused.error().message.find("has changed since the snapshot"), std::string::npos);
  EXPECT_NE(refused.error().message.find("allow_changed_drives"), std::string::npos);
}

TEST(BlockDevice, IsRestoredOverAReadOnlyImageWithAnotherTimeOfChangeAndWarns) {
  BlockFixture drive{{.read_only = true}};
  const BlockDeviceState state = changed_since(drive);
  const std::string path = drive.scratch.file("log");
  ASSERT_TRUE(drive.log.configure({.log_path = path, .level = LogLevel::Warning}));
  EXPECT_TRUE(drive.device->restore(state, BlockDevice::Images::MayDiffer));
  EXPECT_EQ(content_of(path), "") << "it was expected to differ";
  EXPECT_TRUE(drive.device->restore(state, BlockDevice::Images::Unchanged));
  EXPECT_NE(content_of(path).find(drive.config.path_on_host), std::string::npos) << content_of(path);
  BlockDeviceState larger = state;
  larger.image.size_bytes += 512;
  EXPECT_FALSE(drive.device->restore(larger, BlockDevice::Images::Unchanged));
}

}  // namespace
}  // namespace mayfly
