// A drive whose driver breaks the rules, or whose life is interrupted: it may spoil its own data, and nothing else.

#include "tests/support/files.h"
#include "tests/unit/virtio/block/overlay_fixture.h"
#include "virtio/block/block_device.h"
#include "vmm/base/clock.h"

namespace mayfly {
namespace {

using namespace mayfly::testing;

/// Of a plain image, and of an overlay over that image, which stays as it was.
enum class Kind { Plain, Layered };

class EitherDrive : public ::testing::TestWithParam<Kind> {
 protected:
  static BlockFixtureOptions over(BlockFixtureOptions options) {
    options.layered = GetParam() == Kind::Layered;
    return options;
  }
  static Bytes stored(const BlockFixture& drive) {
    if (GetParam() == Kind::Plain) return drive.on_disk();
    EXPECT_EQ(drive.on_disk(drive.config.base_paths.front()), BlockFixture::pattern(64));
    return stored_in_layers(drive, After::Kill);
  }
};
using HostileBlockDriver = EitherDrive;
using BlockDeviceLife = EitherDrive;

std::string name_of(const ::testing::TestParamInfo<Kind>& info) {
  return info.param == Kind::Plain ? "plain" : "layered";
}
INSTANTIATE_TEST_SUITE_P(EachKind, HostileBlockDriver, ::testing::Values(Kind::Plain, Kind::Layered), name_of);
INSTANTIATE_TEST_SUITE_P(EachKind, BlockDeviceLife, ::testing::Values(Kind::Plain, Kind::Layered), name_of);

// --- Wrong requests --------------------------------------------------------------------------------------------------

TEST_P(HostileBlockDriver, WithoutAStatusByteGetsItsChainBackUntouched) {
  BlockFixture drive{over({})};
  const BlockAnswer answer = drive.transact({drive.header(VIRTIO_BLK_T_OUT, 0), drive.holding(Bytes(512))});
  EXPECT_EQ(answer.used, 0U);
  EXPECT_EQ(drive.metrics.block.invalid_reqs_count.value(), 1U);
  EXPECT_EQ(stored(drive), BlockFixture::pattern(64));
  EXPECT_TRUE(drive.host->faults.empty());
}

TEST_P(HostileBlockDriver, WithABufferInTheWrongDirectionGetsAnError) {
  BlockFixture drive{over({})};
  const FakeBuffer header = drive.header(VIRTIO_BLK_T_IN, 0);
  // A header that the device may only write; a read without room; data that the device may only write.
  EXPECT_EQ(drive.transact({{header.at, 16, true}, drive.to_fill(512), drive.status()}).status, VIRTIO_BLK_S_IOERR);
  EXPECT_EQ(drive.transact({header, drive.holding(Bytes(512)), drive.status()}).status, VIRTIO_BLK_S_OK);
  const FakeBuffer room = drive.to_fill(512);
  EXPECT_EQ(drive.transact({drive.header(VIRTIO_BLK_T_OUT, 0), room, drive.status()}).status, VIRTIO_BLK_S_OK);
  EXPECT_EQ(stored(drive), BlockFixture::pattern(64)) << "a write of nothing";
  EXPECT_EQ(drive.filled(room), Bytes(512));
}

TEST_P(HostileBlockDriver, WithPlacesBeyondTheEndGetsAnErrorAndNoData) {
  BlockFixture drive{over({})};
  for (const std::uint64_t sector : {std::uint64_t{64}, std::uint64_t{63}, UINT64_MAX, UINT64_MAX / 512,
                                     UINT64_MAX / 512 + 1, std::uint64_t{1} << 55}) {
    const FakeBuffer room = drive.to_fill(1024);
    const BlockAnswer answer = drive.transact({drive.header(VIRTIO_BLK_T_IN, sector), room, drive.status()});
    EXPECT_EQ(answer.status, VIRTIO_BLK_S_IOERR) << sector;
    EXPECT_EQ(answer.used, 1U);
    EXPECT_EQ(drive.filled(room), Bytes(1024));
    EXPECT_EQ(drive.write(sector, Bytes(1024)), VIRTIO_BLK_S_IOERR) << sector;
  }
  EXPECT_EQ(stored(drive), BlockFixture::pattern(64));
  EXPECT_EQ(drive.metrics.block.execute_fails.value(), 0U) << "none of them reached the host";
}

TEST_P(HostileBlockDriver, MaySendAnyLength) {
  BlockFixture drive{over({})};
  const FakeBuffer header = drive.header(VIRTIO_BLK_T_IN, 0);
  EXPECT_EQ(drive.transact({header, {{drive.ram.room(1)}, 0, true}, drive.status()}).status, VIRTIO_BLK_S_OK);
  EXPECT_EQ(drive.transact({header, drive.to_fill(511), drive.status()}).status, VIRTIO_BLK_S_IOERR);
  // Nearly all of memory, over and over: beyond the drive, long before it is beyond 4 GiB.
  const auto most = static_cast<std::uint32_t>(drive.ram.end() - 512);
  EXPECT_EQ(drive.transact({header, {{0x200}, most, true}, {{0x200}, most, true}, drive.status()}).status,
            VIRTIO_BLK_S_IOERR);
  EXPECT_TRUE(drive.host->faults.empty());
}

TEST_P(HostileBlockDriver, WithLengthsOf4GiBIsStopped) {
  BlockFixture drive{over({})};
  drive.driver->offer({drive.header(VIRTIO_BLK_T_IN, 0), {{0x1000}, UINT32_MAX, true}, drive.status()});
  drive.kick();
  ASSERT_EQ(drive.host->faults.size(), 1U);
  EXPECT_EQ(drive.host->faults.front(), "a buffer outside memory");
  drive.host->reset();
  drive.start();
  EXPECT_EQ(drive.read(0, 64), BlockFixture::pattern(64)) << "a reset makes it whole";
}

TEST_P(HostileBlockDriver, MayUseAsManySegmentsAsWasSaidAndNotMore) {
  BlockFixture drive{over({.sectors = 254})};
  const FakeBuffer header = drive.header(VIRTIO_BLK_T_IN, 0);
  const FakeBuffer room = drive.to_fill(255 * 512);
  std::vector<FakeBuffer> chain{header};
  for (std::uint64_t i = 0; i < BlockDevice::kMaximumDataSegments; ++i)
    chain.push_back({{room.at.value + 512 * i}, 512, true});
  chain.push_back(drive.status());
  EXPECT_EQ(drive.transact(chain).status, VIRTIO_BLK_S_OK);
  Bytes data = drive.filled(room);
  data.resize(254 * 512);
  EXPECT_EQ(data, BlockFixture::pattern(254));

  chain.insert(chain.begin() + 1, drive.to_fill(512));
  drive.driver->offer_indirect(chain);
  drive.kick();
  EXPECT_EQ(drive.host->faults.size(), 1U);
}

TEST_P(HostileBlockDriver, ThatChangesItsHeaderAfterTheKickGetsWhatItFirstAsked) {
  BlockFixture drive{over({})};
  std::vector<FakeBuffer> headers;
  for (std::uint64_t i = 0; i < 4; ++i) {
    headers.push_back(drive.header(VIRTIO_BLK_T_OUT, 2 * i));
    drive.offer({headers.back(), drive.holding(BlockFixture::pattern(1, 50)), drive.status()});
  }
  drive.kick();
  for (const FakeBuffer& header : headers) std::ranges::fill(drive.ram.bytes(header.at, 16), std::byte{0xFF});
  for (const auto& [head, answer] : drive.collect(4)) EXPECT_EQ(answer.status, VIRTIO_BLK_S_OK);
  Bytes wanted = BlockFixture::pattern(64);
  for (std::ptrdiff_t i = 0; i < 4; ++i) std::ranges::copy(BlockFixture::pattern(1, 50), wanted.begin() + 2 * i * 512);
  EXPECT_EQ(stored(drive), wanted);
}

TEST_P(HostileBlockDriver, MayOfferOneChainOverAndOver) {
  BlockFixture drive{over({})};
  const std::uint16_t head = drive.offer({drive.header(VIRTIO_BLK_T_IN, 0), drive.to_fill(4096), drive.status()});
  for (int i = 1; i < 256; ++i) drive.driver->offer_head(head);
  drive.kick();
  // All slots are busy with it; there is more than the queue holds.
  for (int i = 0; i < 200; ++i) drive.driver->offer_head(head);
  drive.kick();
  drive.host->serve_until([&] { return drive.driver->used_index() == 456; });
  EXPECT_TRUE(drive.host->faults.empty());
  EXPECT_EQ(drive.metrics.block.read_count.value(), 456U);
}

TEST_P(HostileBlockDriver, ThatOffersForEverGetsItsTurnAndNotTheWholeLoop) {
  BlockFixture drive{over({})};
  const std::uint16_t head = drive.offer({drive.header(99, 0), drive.status()});
  for (std::uint16_t i = 1; i < BlockDevice::kQueueSize; ++i) drive.driver->offer_head(head);
  drive.kick();
  // Its turn is over; what it offers now is taken in the next round, though no kick comes.
  drive.driver->offer_head(head);
  EXPECT_EQ(drive.metrics.block.invalid_reqs_count.value(), BlockDevice::kQueueSize);
  drive.host->serve_until([&] { return drive.driver->used_index() == BlockDevice::kQueueSize + 1; });
  EXPECT_EQ(drive.metrics.block.invalid_reqs_count.value(), BlockDevice::kQueueSize + 1U);
}

// --- Interrupted lives -----------------------------------------------------------------------------------------------

TEST_P(BlockDeviceLife, QuiescingWaitsForWhatIsInFlightAndTakesNothingMore) {
  BlockFixture drive{over({})};
  for (int i = 0; i < 8; ++i) drive.offer({drive.header(VIRTIO_BLK_T_IN, 0), drive.to_fill(4096), drive.status()});
  drive.kick();
  drive.host->begin_drain();
  EXPECT_FALSE(drive.host->is_drained());
  drive.offer({drive.header(VIRTIO_BLK_T_IN, 0), drive.to_fill(4096), drive.status()});
  drive.kick();
  drive.host->serve_until([&] { return drive.host->is_drained(); });
  EXPECT_EQ(drive.collect(8).size(), 8U);
  drive.host->undrain();
  drive.kick();
  EXPECT_EQ(drive.collect(1).size(), 1U);
}

TEST_P(BlockDeviceLife, AnIdleDriveIsQuietAtOnce) {
  BlockFixture drive{over({})};
  drive.host->begin_drain();
  EXPECT_TRUE(drive.host->is_drained());
}

TEST_P(BlockDeviceLife, WhatTheLimiterHoldsBackIsNotInFlight) {
  BlockFixture drive{
      over({.rate_limiter = RateLimiterConfig{.ops = TokenBucketConfig{.size = 1, .refill_time_ms = 3'600'000}}})};
  for (int i = 0; i < 3; ++i) drive.offer({drive.header(VIRTIO_BLK_T_IN, 0), drive.to_fill(512), drive.status()});
  drive.kick();
  drive.host->drain();
  EXPECT_EQ(drive.collect(1).size(), 1U);
  EXPECT_EQ(drive.host->queues().front().state().next_available, 1U);
}

TEST_P(BlockDeviceLife, SurvivesResetsWithRequestsInFlight) {
  BlockFixture drive{over({})};
  for (int round = 0; round < 20; ++round) {
    for (int i = 0; i < 30; ++i) drive.offer({drive.header(VIRTIO_BLK_T_IN, 0), drive.to_fill(4096), drive.status()});
    drive.offer({drive.header(VIRTIO_BLK_T_OUT, 0), drive.holding(BlockFixture::pattern(64)), drive.status()});
    drive.offer({drive.header(VIRTIO_BLK_T_FLUSH, 0), drive.status()});
    drive.kick();
    drive.host->reset();
    drive.kick();  // of a device without a driver: nothing
    drive.start();
  }
  EXPECT_EQ(drive.read(0, 64), BlockFixture::pattern(64));
}

TEST_P(BlockDeviceLife, ALimiterThatCallsAfterAResetFindsNothingToDo) {
  BlockFixture drive{
      over({.rate_limiter = RateLimiterConfig{.ops = TokenBucketConfig{.size = 1, .refill_time_ms = 20}}})};
  for (int i = 0; i < 2; ++i) drive.offer({drive.header(VIRTIO_BLK_T_IN, 0), drive.to_fill(512), drive.status()});
  drive.kick();
  drive.host->reset();
  const std::uint64_t deadline = monotonic_ns() + 40'000'000;
  auto timer = BlockFixture::must(LoopTimer::create(*drive.loop, [] {}));
  timer->listen();
  timer->arm(deadline);
  drive.host->serve_until([&] { return monotonic_ns() >= deadline; });
  drive.start();
  EXPECT_EQ(drive.read(0, 1), BlockFixture::pattern(1));
}

TEST(BlockDeviceFiles, ResetsAndReplacementsKeepNoDescriptors) {
  BlockFixture drive;
  const std::string other = drive.make_image("other", BlockFixture::pattern(64));
  const std::size_t before = open_descriptors();
  for (int i = 0; i < 100; ++i) {
    for (int j = 0; j < 3; ++j) drive.offer({drive.header(VIRTIO_BLK_T_IN, 0), drive.to_fill(512), drive.status()});
    drive.kick();
    ASSERT_TRUE(drive.device->replace_path(i % 2 == 0 ? other : drive.config.path_on_host));
    drive.host->reset();
    drive.start();
  }
  EXPECT_EQ(open_descriptors(), before);
}

}  // namespace
}  // namespace mayfly
