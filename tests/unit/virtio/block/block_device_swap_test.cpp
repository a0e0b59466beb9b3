// A drive that is given another image while it runs.

#include "tests/support/forbidden_call.h"
#include "tests/support/loop_device.h"
#include "tests/unit/virtio/block/block_fixture.h"
#include "virtio/block/block_device.h"
#include "vmm/base/clock.h"

#include <fcntl.h>
#include <linux/virtio_blk.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <thread>

namespace mayfly {
namespace {

using namespace mayfly::testing;

TEST(BlockDevice, RequestsInFlightEndOnTheImageTheyBeganOn) {
  BlockFixture drive;
  const Bytes old_content = drive.on_disk();
  const Bytes new_content = BlockFixture::pattern(128, 3);
  const std::string new_path = drive.make_image("other", new_content);
  std::map<std::uint16_t, FakeBuffer> rooms;
  for (int i = 0; i < 8; ++i) {
    const FakeBuffer room = drive.to_fill(64 * 512);
    rooms.emplace(drive.offer({drive.header(VIRTIO_BLK_T_IN, 0), room, drive.status()}), room);
  }
  drive.kick();
  const auto replaced = drive.device->replace_path(new_path);
  ASSERT_TRUE(replaced) << replaced.error().message;
  EXPECT_EQ(drive.host->config_changes, 1);
  EXPECT_EQ(drive.device_config().capacity, 128U);
  for (const auto& [head, answer] : drive.collect(8)) {
    EXPECT_EQ(answer.status, VIRTIO_BLK_S_OK);
    EXPECT_EQ(drive.filled(rooms.at(head)), old_content);
  }
  EXPECT_EQ(drive.read(0, 128), new_content);
  EXPECT_TRUE(DiskImage::open(drive.config)) << "the old image is unlocked with its last request";
  EXPECT_EQ(drive.metrics.block.update_count.value(), 1U);
}

TEST(BlockDevice, ItsOwnImageCanBeGivenAgainAfterItHasGrown) {
  BlockFixture drive;
  ASSERT_EQ(::truncate(drive.config.path_on_host.c_str(), 100 * 512), 0);
  const auto replaced = drive.device->replace_path(drive.config.path_on_host);
  ASSERT_TRUE(replaced) << replaced.error().message;
  EXPECT_EQ(drive.device_config().capacity, 100U);
  EXPECT_EQ(drive.write(99, Bytes(512)), VIRTIO_BLK_S_OK);
  EXPECT_FALSE(DiskImage::open(drive.config)) << "it is still locked";
}

TEST(BlockDevice, ARefusedImageChangesNothing) {
  BlockFixture drive;
  const Bytes content = drive.on_disk();
  const auto missing = drive.device->replace_path(drive.scratch.file("gone"));
  ASSERT_FALSE(missing);
  EXPECT_EQ(missing.error().kind, ErrorKind::NotFound);
  DriveConfig config = drive.config;
  config.path_on_host = drive.make_image("other", Bytes(1024));
  config.is_read_only = true;
  const auto read_only = drive.device->replace_image(BlockFixture::must(DiskImage::open(config)));
  ASSERT_FALSE(read_only);
  EXPECT_NE(read_only.error().message.find("read-only"), std::string::npos);
  EXPECT_EQ(drive.host->config_changes, 0);
  EXPECT_EQ(drive.metrics.block.update_fails.value(), 2U);
  EXPECT_EQ(drive.read(0, 64), content);
}

// --- Stable storage --------------------------------------------------------------------------------------------------

/// Pages of a file that are not on stable storage (cachestat(2), Linux 6.5); none where the kernel does not tell.
std::optional<std::uint64_t> unstable_pages(const std::string& path) {
  constexpr long kCachestat = 451;
  struct {
    std::uint64_t offset, length;
  } range{};  // length 0: to the end
  struct {
    std::uint64_t cached, dirty, in_writeback, evicted, recently_evicted;
  } pages{};
  const OwnedFd file{::open(path.c_str(), O_RDONLY | O_CLOEXEC)};
  if (::syscall(kCachestat, file.get(), &range, &pages, 0) != 0) return std::nullopt;
  return pages.dirty + pages.in_writeback;
}

class SwappedDrive : public ::testing::Test {
 protected:
  /// Large enough for its sync to take longer than that of a file without changes.
  static constexpr std::uint64_t kSectors = 8 * 2048;
  static constexpr std::uint64_t kPart = 128;  // sectors a request

  void SetUp() override {
    if (!tells_dirty_pages()) GTEST_SKIP() << "this kernel or file system does not tell dirty pages";
    for (const std::string& path : {old_path_, new_path_}) stabilize(path);
  }
  /// Tried again where somebody else's sync was faster: a journal's commit takes all files along.
  bool tells_dirty_pages() {
    constexpr int kTries = 1000;
    for (int i = 0; i < kTries; ++i) {
      fill(old_path_);
      const auto unstable = unstable_pages(old_path_);
      if (!unstable) return false;
      if (*unstable > 0) return true;
    }
    return false;
  }
  void fill(const std::string& path) { drive_.make_image(path.substr(path.rfind('/') + 1), Bytes(kSectors * 512)); }
  static void stabilize(const std::string& path) {
    const OwnedFd file{::open(path.c_str(), O_RDWR | O_CLOEXEC)};
    ASSERT_EQ(::fsync(file.get()), 0);
  }
  /// Writes to the whole drive, without waiting.
  void offer_writes() {
    for (std::uint64_t at = 0; at < kSectors; at += kPart)
      drive_.offer({drive_.header(VIRTIO_BLK_T_OUT, at), data_, drive_.status()});
    drive_.kick();
  }
  void write_all() {
    offer_writes();
    for (const auto& [head, answer] : drive_.collect(kSectors / kPart)) ASSERT_EQ(answer.status, VIRTIO_BLK_S_OK);
  }
  void swap_to(const std::string& path) {
    const auto replaced = drive_.device->replace_path(path);
    ASSERT_TRUE(replaced) << replaced.error().message;
  }
  int flush() { return drive_.transact({drive_.header(VIRTIO_BLK_T_FLUSH, 0), drive_.status()}).status; }

  BlockFixture drive_{{.sectors = kSectors}};
  std::string old_path_ = drive_.config.path_on_host;
  std::string new_path_ = drive_.make_image("other", Bytes(kSectors * 512));
  FakeBuffer data_ = drive_.holding(BlockFixture::pattern(kPart, 9));
};

TEST_F(SwappedDrive, AFlushCoversWhatWasWrittenToTheOldImage) {
  write_all();
  swap_to(new_path_);
  EXPECT_EQ(flush(), VIRTIO_BLK_S_OK);
  EXPECT_EQ(unstable_pages(old_path_), 0U);
}

TEST_F(SwappedDrive, AFlushCoversWritesThatEndedOnTheOldImageAfterTheSwap) {
  offer_writes();
  swap_to(new_path_);
  for (const auto& [head, answer] : drive_.collect(kSectors / kPart)) ASSERT_EQ(answer.status, VIRTIO_BLK_S_OK);
  EXPECT_EQ(flush(), VIRTIO_BLK_S_OK);
  EXPECT_EQ(unstable_pages(old_path_), 0U);
}

TEST_F(SwappedDrive, AFlushCoversWritesThatWereInFlightWhenTheSameFileWasGivenAgain) {
  offer_writes();
  swap_to(old_path_);
  swap_to(new_path_);
  for (const auto& [head, answer] : drive_.collect(kSectors / kPart)) ASSERT_EQ(answer.status, VIRTIO_BLK_S_OK);
  EXPECT_EQ(flush(), VIRTIO_BLK_S_OK);
  EXPECT_EQ(unstable_pages(old_path_), 0U);
}

TEST_F(SwappedDrive, AFlushCoversEveryImageOfARowOfSwaps) {
  const std::string last_path = drive_.make_image("last", Bytes(512));
  write_all();
  swap_to(new_path_);
  write_all();
  drive_.offer({drive_.header(VIRTIO_BLK_T_FLUSH, 0), drive_.status()});
  drive_.kick();
  swap_to(last_path);  // while the flush waits for the first image
  for (const auto& [head, answer] : drive_.collect(1)) EXPECT_EQ(answer.status, VIRTIO_BLK_S_OK);
  EXPECT_EQ(flush(), VIRTIO_BLK_S_OK);
  EXPECT_EQ(unstable_pages(old_path_), 0U);
  EXPECT_EQ(unstable_pages(new_path_), 0U);
}

TEST_F(SwappedDrive, ComesToRestWithTheOldImageOnStableStorage) {
  write_all();
  swap_to(new_path_);
  EXPECT_TRUE(drive_.device->syncs_old_images());
  drive_.host->drain();
  EXPECT_FALSE(drive_.device->syncs_old_images());
  EXPECT_EQ(unstable_pages(old_path_), 0U);
  EXPECT_FALSE(drive_.device->state().lost_writes);
}

TEST_F(SwappedDrive, TheOldImageIsFreeBeforeItIsSynced) {
  write_all();
  swap_to(new_path_);
  EXPECT_TRUE(DiskImage::open(drive_.config));
}

TEST_F(SwappedDrive, TheOldImageCanComeBackAtAnyTime) {
  for (int round = 0; round < 4; ++round) {
    offer_writes();  // some of which may be in flight when their image goes, and when it comes back
    swap_to(new_path_);
    swap_to(old_path_);
    EXPECT_EQ(drive_.collect(kSectors / kPart).size(), kSectors / kPart);
    EXPECT_EQ(flush(), VIRTIO_BLK_S_OK);
    EXPECT_FALSE(DiskImage::open(drive_.config)) << "it is locked";
  }
  EXPECT_EQ(unstable_pages(old_path_), 0U);
}

/// A drive whose images a snapshot's worker has just synced. What it held, it gives back in the loop's next round.
struct DriveOfASnapshot : BlockFixture {
  DriveOfASnapshot() {
    EXPECT_EQ(write(0, pattern(8)), VIRTIO_BLK_S_OK);
    const Status synced = device->sync();
    EXPECT_TRUE(synced) << synced.error().message;
  }
  /// A sync that never comes fails the test instead of hanging it.
  void wait_for_syncs() {
    const std::uint64_t deadline = monotonic_ns() + 10'000'000'000;
    while (device->syncs_old_images() && monotonic_ns() < deadline) {
      loop->wake();
      ASSERT_TRUE(loop->run_once());
    }
  }
};

TEST(BlockDevice, AnImageThatASnapshotHeldAtTheSwapIsSyncedAndFlushesGoOn) {
  DriveOfASnapshot drive;
  ASSERT_TRUE(drive.device->replace_path(drive.make_image("other", BlockFixture::pattern(64))));
  drive.offer({drive.header(VIRTIO_BLK_T_FLUSH, 0), drive.status()});
  drive.kick();
  drive.wait_for_syncs();
  ASSERT_FALSE(drive.device->syncs_old_images());
  EXPECT_EQ(drive.collect(1).begin()->second.status, VIRTIO_BLK_S_OK);
  EXPECT_TRUE(DiskImage::open(drive.config)) << "the old image is unlocked";
}

TEST(BlockDevice, ADrainWaitsForAnImageThatASnapshotHeldAtTheSwapAndEnds) {
  DriveOfASnapshot drive;
  ASSERT_TRUE(drive.device->replace_path(drive.config.path_on_host));
  drive.host->begin_drain();
  EXPECT_FALSE(drive.host->is_drained());
  drive.wait_for_syncs();
  EXPECT_TRUE(drive.host->is_drained());
}

/// A file that cannot be synced: procfs has no fsync.
constexpr const char* kNeverStable = "/proc/self/comm";

TEST(BlockDevice, AFlushFailsWhereTheOldImageCannotBeSynced) {
  BlockFixture drive{{.path = kNeverStable}};
  const std::string new_path = drive.make_image("other", BlockFixture::pattern(8));
  const auto replaced = drive.device->replace_path(new_path);
  ASSERT_TRUE(replaced) << replaced.error().message;
  const auto flush = [&] { return drive.transact({drive.header(VIRTIO_BLK_T_FLUSH, 0), drive.status()}).status; };
  EXPECT_EQ(flush(), VIRTIO_BLK_S_IOERR);
  EXPECT_EQ(flush(), VIRTIO_BLK_S_OK) << "an error is told once";
  EXPECT_EQ(drive.metrics.block.execute_fails.value(), 1U);
}

TEST(BlockDevice, AFailedSyncIsToldByTheNextFlushEvenAfterASnapshot) {
  BlockFixture drive{{.path = kNeverStable}};
  ASSERT_TRUE(drive.device->replace_path(drive.make_image("other", BlockFixture::pattern(64))));
  drive.host->drain();
  const BlockDeviceState state = drive.device->state();
  EXPECT_TRUE(state.lost_writes);

  BlockFixture restored;
  ASSERT_TRUE(restored.device->restore(state, BlockDevice::Images::MayDiffer));
  const auto flush = [&] {
    return restored.transact({restored.header(VIRTIO_BLK_T_FLUSH, 0), restored.status()}).status;
  };
  EXPECT_EQ(flush(), VIRTIO_BLK_S_IOERR);
  EXPECT_EQ(flush(), VIRTIO_BLK_S_OK);
}

// The kernel tells of a failed write once, and the next snapshot would not hear of it.
TEST(BlockDevice, ASnapshotsFailedSyncIsToldByTheNextFlush) {
  for (const bool layered : {false, true}) {
    BlockFixture drive{{.path = {}, .layered = layered}};
    EXPECT_EQ(drive.write(0, BlockFixture::pattern(8)), VIRTIO_BLK_S_OK);
    std::thread{[&] {
      forbid_call(SYS_fsync);
      EXPECT_FALSE(drive.device->sync());
    }}.join();
    EXPECT_TRUE(drive.device->state().lost_writes);
    const auto flush = [&] { return drive.transact({drive.header(VIRTIO_BLK_T_FLUSH, 0), drive.status()}).status; };
    EXPECT_EQ(flush(), VIRTIO_BLK_S_IOERR);
    EXPECT_EQ(flush(), VIRTIO_BLK_S_OK) << "an error is told once";
  }
}

// What a live snapshot does: its machine goes on before its drives are synced.
TEST(BlockDevice, ASyncOfWhatWasThereFailsWhereItsImageWasReplacedSinceAndCouldNotBeSynced) {
  BlockFixture drive{{.path = kNeverStable}};
  ASSERT_TRUE(drive.device->note_sync_point());
  ASSERT_TRUE(drive.device->replace_path(drive.make_image("other", BlockFixture::pattern(8))));
  EXPECT_EQ(drive.transact({drive.header(VIRTIO_BLK_T_FLUSH, 0), drive.status()}).status, VIRTIO_BLK_S_IOERR);
  EXPECT_FALSE(drive.device->sync_to_point());
  // The guest was told: the next snapshot is a good one.
  drive.device->end_snapshot(false);
  ASSERT_TRUE(drive.device->note_sync_point());
  EXPECT_TRUE(drive.device->sync_to_point());
}

TEST(BlockDevice, ASyncOfWhatWasThereFailsWhereAFlushHasFailedSince) {
  BlockFixture drive;
  ASSERT_TRUE(drive.device->note_sync_point());
  ASSERT_TRUE(drive.device->replace_path(kNeverStable));
  const auto flush = [&] { return drive.transact({drive.header(VIRTIO_BLK_T_FLUSH, 0), drive.status()}).status; };
  EXPECT_EQ(flush(), VIRTIO_BLK_S_IOERR);
  const Status synced = drive.device->sync_to_point();
  ASSERT_FALSE(synced);
  EXPECT_TRUE(synced.error().message.contains("/disk: a flush has failed since the pause")) << synced.error().message;
  drive.device->end_snapshot(false);
  EXPECT_TRUE(drive.device->sync_to_point()) << "there is none any more";
}

/// A description that is opened after somebody was told would not be.
TEST(BlockDevice, ASyncOfWhatWasThereHearsOfAWriteThatFailedSinceWhoeverElseHasHeardOfIt) {
  const OwnedFd backing{::memfd_create("disk", MFD_CLOEXEC | MFD_ALLOW_SEALING)};
  ASSERT_EQ(::ftruncate(backing.get(), 1 << 20), 0);
  const auto device = LoopDevice::create(fmt::format("/proc/self/fd/{}", backing.get()));
  if (!device) GTEST_SKIP() << "this host has no loop devices to give";
  const ScratchDirectory scratch;
  const std::string node = scratch.file("node");
  device->make_node(node);
  BlockFixture drive{{.path = node}};
  EXPECT_EQ(drive.write(0, BlockFixture::pattern(8)), VIRTIO_BLK_S_OK);
  ASSERT_TRUE(drive.device->note_sync_point());
  ASSERT_EQ(::fcntl(backing.get(), F_ADD_SEALS, F_SEAL_FUTURE_WRITE), 0);  // the disk has failed
  const OwnedFd other{::open(node.c_str(), O_RDONLY | O_CLOEXEC)};
  EXPECT_NE(::fsync(other.get()), 0);
  EXPECT_FALSE(drive.device->sync_to_point());
  EXPECT_TRUE(drive.device->state().lost_writes);
}

TEST(BlockDevice, AnUnsafeDriveDoesNotSyncTheOldImage) {
  BlockFixture drive{{.cache_type = CacheType::Unsafe, .path = kNeverStable}};
  ASSERT_TRUE(drive.device->replace_path(drive.make_image("other", BlockFixture::pattern(8))));
  EXPECT_EQ(drive.transact({drive.header(VIRTIO_BLK_T_FLUSH, 0), drive.status()}).status, VIRTIO_BLK_S_OK);
  EXPECT_EQ(drive.metrics.block.execute_fails.value(), 0U);
}

}  // namespace
}  // namespace mayfly
