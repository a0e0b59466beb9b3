#include "virtio/block/overlay.h"

#include "tests/unit/virtio/block/overlay_fixture.h"

#include <sys/resource.h>
#include <sys/stat.h>

#include <csignal>
#include <utility>

#include <gtest/gtest.h>

namespace mayfly {
namespace {

using namespace mayfly::testing;

constexpr std::uint64_t kDrive = 1 << 20;

std::vector<std::uint64_t> present_of(const Overlay& overlay) {
  std::vector<std::uint64_t> blocks;
  for (std::uint64_t block = 0; block < overlay.map().layout().block_count; ++block)
    if (overlay.map().is_present(block)) blocks.push_back(block);
  return blocks;
}

using Blocks = std::vector<std::uint64_t>;

TEST(Overlay, IsMadeOfAFileWithoutData) {
  for (const off_t size : {0, 12345, 1 << 24}) {
    OverlayFile file;
    ASSERT_EQ(::ftruncate(file.fd(), size), 0);
    const Overlay made = file.open(overlay_order(kDrive));
    EXPECT_EQ(made.header().drive_size, kDrive);
    EXPECT_EQ(made.header().block_size, kOverlayBlockSize);
    struct stat status = {};
    ASSERT_EQ(::fstat(file.fd(), &status), 0);
    EXPECT_EQ(static_cast<std::uint64_t>(status.st_size), made.map().layout().file_size);
    EXPECT_LE(status.st_blocks * 512, 2 * 4096) << "it takes no space";
    EXPECT_EQ(file.open(overlay_order(kDrive)).header().id, made.header().id);
  }
}

TEST(Overlay, EachHasItsOwnId) {
  OverlayFile one;
  OverlayFile other;
  EXPECT_NE(one.open(overlay_order(kDrive)).header().id, other.open(overlay_order(kDrive)).header().id);
}

TEST(Overlay, AReaderMakesNone) {
  OverlayFile file;
  auto order = overlay_order(kDrive);
  order.access = OverlayAccess::ReadOnly;
  EXPECT_EQ(file.refusal(order),
            "the overlay is empty, and a drive that is only read makes no overlay; leave it out of the drive's layers");
  order = overlay_order(kLargestLayeredDrive + 512);
  EXPECT_EQ(file.refusal(order),
            "the overlay: the drive has 17592186044928 bytes, and one with an overlay at most 17592186044416");
}

TEST(Overlay, AKilledMonitorLosesNothingWhileTheHostRuns) {
  OverlayFile file;
  Overlay overlay = file.open(overlay_order(kDrive));
  file.write_block(overlay, 3, std::byte{3});
  file.write_block(overlay, 200, std::byte{2});
  EXPECT_EQ(present_of(file.open(overlay_order(kDrive))), (Blocks{3, 200}));
}

TEST(Overlay, AfterAPowerCutThereIsWhatWasFlushed) {
  OverlayFile file;
  Overlay overlay = file.open(overlay_order(kDrive));
  file.write_block(overlay, 3, std::byte{3});
  ASSERT_TRUE(overlay.settle(file.fd()));
  file.write_block(overlay, 4, std::byte{4});
  EXPECT_EQ(present_of(file.open(overlay_order(kDrive, 2))), (Blocks{3}));
  // What the earlier boot said is gone, also for the present one.
  EXPECT_EQ(present_of(file.open(overlay_order(kDrive, 2))), (Blocks{3}));
  EXPECT_EQ(present_of(file.open(overlay_order(kDrive, 1))), (Blocks{3}));
}

TEST(Overlay, AHeaderOfAnEarlierEpochThanASectorIsRefused) {
  OverlayFile file;
  Overlay overlay = file.open(overlay_order(kDrive));
  const OverlayHeader earlier = overlay.header();
  ASSERT_TRUE(overlay.empty(file.fd()));
  file.write_block(overlay, 4, std::byte{4});
  ASSERT_TRUE(overlay.settle(file.fd()));
  for (const std::uint64_t offset : {std::uint64_t{0}, kOverlayHeaderRoom})
    file.put(offset, std::as_bytes(std::span{&earlier, 1}));
  EXPECT_EQ(
      file.refusal(overlay_order(kDrive)),
      "the overlay is an overlay whose map is damaged (sector 0); delete it, and what the guest wrote with it, or "
      "give a copy");
}

// A load compares it with the snapshot's: one that fails, for want of a TAP, must not be in the way of the next.
TEST(Overlay, OneThatIsOpenedInAnotherBootKeepsItsTimeOfChange) {
  for (const bool flushed : {false, true}) {
    OverlayFile file;
    Overlay overlay = file.open(overlay_order(kDrive));
    file.write_block(overlay, 3, std::byte{3});
    if (flushed) {
      ASSERT_TRUE(overlay.settle(file.fd()));
    }
    unsigned boot = 2;
    std::uint64_t sequence = overlay.header().sequence;
    for (const OverlayAccess access : {OverlayAccess::Ordered, OverlayAccess::Unordered, OverlayAccess::Ordered}) {
      auto order = overlay_order(kDrive, boot++);
      order.access = access;
      set_old_time(file.fd());
      const OverlayHeader header = file.open(order).header();
      EXPECT_GT(header.sequence, std::exchange(sequence, header.sequence)) << "nothing was written";
      EXPECT_EQ(modified_ns(file.path()), kOldTimeNs) << "before boot " << boot;
    }
  }
}

TEST(Overlay, OneThatBecomesALayerAndATopAgainKeepsItsTimeOfChange) {
  OverlayFile file;
  Overlay overlay = file.open(overlay_order(kDrive));
  file.write_block(overlay, 3, std::byte{3});
  ASSERT_TRUE(overlay.settle(file.fd()));
  set_old_time(file.fd());
  ASSERT_TRUE(overlay.become_layer(file.fd(), Overlay::LayerId::Same));
  EXPECT_EQ(modified_ns(file.path()), kOldTimeNs);
  EXPECT_NE(file.refusal(overlay_order(kDrive)), "");
  ASSERT_TRUE(overlay.become_top(file.fd(), boot_of(1)));
  EXPECT_EQ(modified_ns(file.path()), kOldTimeNs);
  EXPECT_EQ(present_of(file.open(overlay_order(kDrive))), (Blocks{3}));
}

TEST(Overlay, AReaderLeavesWhatAnotherBootSaid) {
  OverlayFile file;
  Overlay overlay = file.open(overlay_order(kDrive));
  file.write_block(overlay, 4, std::byte{4});
  auto order = overlay_order(kDrive, 2);
  order.access = OverlayAccess::ReadOnly;
  EXPECT_EQ(present_of(file.open(order)), (Blocks{}));
  order.boot = boot_of(1);
  EXPECT_EQ(present_of(file.open(order)), (Blocks{4}));
}

TEST(Overlay, OneThatIsNotOrderedKeepsAllThroughAnyBoot) {
  OverlayFile file;
  auto order = overlay_order(kDrive);
  order.access = OverlayAccess::Unordered;
  Overlay overlay = file.open(order);
  file.write_block(overlay, 3, std::byte{3});
  order.boot = boot_of(2);
  Overlay again = file.open(order);
  EXPECT_EQ(present_of(again), (Blocks{3}));
  file.write_block(again, 5, std::byte{5});
  // From now on ordered: what was there is made durable first.
  Overlay ordered = file.open(overlay_order(kDrive, 3));
  EXPECT_EQ(present_of(ordered), (Blocks{3, 5}));
  EXPECT_TRUE(ordered.map().is_durable());
  file.write_block(ordered, 6, std::byte{6});
  EXPECT_EQ(present_of(file.open(overlay_order(kDrive, 4))), (Blocks{3, 5}));
}

TEST(Overlay, OneThatIsNoLongerOrderedDoesNotBelieveAnEarlierBoot) {
  OverlayFile file;
  Overlay overlay = file.open(overlay_order(kDrive));
  file.write_block(overlay, 3, std::byte{3});
  ASSERT_TRUE(overlay.settle(file.fd()));
  file.write_block(overlay, 4, std::byte{4});
  auto order = overlay_order(kDrive, 2);
  order.access = OverlayAccess::Unordered;
  EXPECT_EQ(present_of(file.open(order)), (Blocks{3}));
  EXPECT_EQ(present_of(file.open(order)), (Blocks{3}));
}

TEST(Overlay, LiesOverTheLayerThatItWasMadeOver) {
  OverlayFile file;
  (void)file.open(overlay_order(kDrive));
  auto order = overlay_order(kDrive);
  order.below.modified_ns += 1;
  EXPECT_EQ(
      file.refusal(order),
      "the overlay is an overlay of another layer than the one below it: that has changed since, and blocks of both "
      "do not belong together; give it as it was, delete the overlay or, if only the time of change is another one, "
      "set it back: touch -d @1.000000007");
  order = overlay_order(2 * kDrive);
  EXPECT_EQ(
      file.refusal(order),
      "the overlay is an overlay of another layer than the one below it: it had 1048576 bytes then, and has 2097152 "
      "now; give the layers that it was made over");
  order = overlay_order(kDrive);
  order.below.id.fill(std::byte{1});
  EXPECT_EQ(
      file.refusal(order),
      "the overlay is an overlay of another layer than the one below it: that was a raw image; give the layers that "
      "it was made over (mayfly drive info tells them apart)");
  EXPECT_EQ(file.refusal(overlay_order(kDrive)), "") << "nothing was changed";
}

TEST(Overlay, OneThatWasCutShortIsRefused) {
  OverlayFile file;
  const std::uint64_t size = file.open(overlay_order(kDrive)).map().layout().file_size;
  for (const std::uint64_t left : {std::uint64_t{5000}, size / 2, size - 1}) {
    ASSERT_EQ(::ftruncate(file.fd(), static_cast<off_t>(left)), 0);
    EXPECT_EQ(
        file.refusal(overlay_order(kDrive)),
        fmt::format("the overlay is an overlay that was cut short: it has {} bytes of {}; give a copy of it that is "
                    "whole",
                    left, size));
    ASSERT_EQ(::ftruncate(file.fd(), static_cast<off_t>(size)), 0);
  }
}

TEST(Overlay, AMapThatIsDamagedTwiceIsRefused) {
  OverlayFile file;
  Overlay overlay = file.open(overlay_order(kDrive));
  const OverlayLayout layout = overlay.map().layout();
  for (std::uint64_t block = 0; block < 2; ++block) {
    file.write_block(overlay, block, std::byte{1});
    ASSERT_TRUE(overlay.settle(file.fd()));
  }
  const Bytes rot(4, std::byte{0x55});
  file.put(layout.sectors_offset[0] + 100, rot);  // the second settling's
  EXPECT_EQ(present_of(file.open(overlay_order(kDrive, 2))), (Blocks{0}));
  file.put(layout.sectors_offset[1] + 100, rot);
  EXPECT_EQ(
      file.refusal(overlay_order(kDrive, 3)),
      "the overlay is an overlay whose map is damaged (sector 0); delete it, and what the guest wrote with it, or "
      "give a copy");
}

TEST(Overlay, AnEmptiedOneHasNothingWhateverHappensThen) {
  for (const OverlayAccess access : {OverlayAccess::Ordered, OverlayAccess::Unordered}) {
    OverlayFile file;
    auto order = overlay_order(kDrive);
    order.access = access;
    Overlay overlay = file.open(order);
    const OverlayId id = overlay.header().id;
    file.write_block(overlay, 1, std::byte{1});
    ASSERT_TRUE(overlay.settle(file.fd()));
    file.write_block(overlay, 2, std::byte{2});
    ASSERT_TRUE(overlay.empty(file.fd()));
    EXPECT_EQ(present_of(overlay), (Blocks{}));
    EXPECT_EQ(present_of(file.open(order)), (Blocks{}));
    struct stat status = {};
    ASSERT_EQ(::fstat(file.fd(), &status), 0);
    EXPECT_LE(status.st_blocks * 512, 4 * 4096) << "its space is given back";
    // And it goes on: what is written now is there, in this boot and, once flushed, in another.
    file.write_block(overlay, 7, std::byte{7});
    EXPECT_EQ(present_of(file.open(order)), (Blocks{7}));
    ASSERT_TRUE(overlay.settle(file.fd()));
    order.boot = boot_of(2);
    Overlay later = file.open(order);
    EXPECT_EQ(present_of(later), (Blocks{7}));
    EXPECT_EQ(file.first_byte(later, 7), std::byte{7});
    EXPECT_EQ(later.header().id, id);
  }
}

TEST(Overlay, AnEmptyingThatIsCutOffLeavesAnEmptyOne) {
  OverlayFile file;
  Overlay overlay = file.open(overlay_order(kDrive));
  file.write_block(overlay, 1, std::byte{1});
  ASSERT_TRUE(overlay.settle(file.fd()));
  // The header of the new epoch alone, as if the monitor had been killed behind it.
  OverlayHeader header = overlay.header();
  ++header.epoch;
  ++header.sequence;
  header.boot = kNoBoot;
  seal(header);
  file.put((header.sequence & 1) * kOverlayHeaderRoom, std::as_bytes(std::span{&header, 1}));
  EXPECT_EQ(present_of(file.open(overlay_order(kDrive))), (Blocks{}));
}

TEST(Overlay, ALastBlockMayBeShort) {
  OverlayFile file;
  Overlay overlay = file.open(overlay_order(4096 + 512));
  EXPECT_EQ(overlay.map().layout().block_count, 2U);
  const Overlay::Run run = overlay.run(4096, 512);
  EXPECT_FALSE(run.is_present);
  EXPECT_EQ(run.length, 512U);
  file.write_block(overlay, 1, std::byte{1});
  EXPECT_EQ(overlay.run(0, 4608).length, 4096U);
  EXPECT_TRUE(overlay.run(4096, 512).is_present);
}

TEST(Overlay, AFileSystemWithoutRoomRefusesTheFile) {
  struct rlimit before = {};
  ASSERT_EQ(::getrlimit(RLIMIT_FSIZE, &before), 0);
  const auto handler = std::signal(SIGXFSZ, SIG_IGN);
  struct rlimit small = before;
  small.rlim_cur = 65536;
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &small), 0);
  OverlayFile file;
  const std::string refused = file.refusal(overlay_order(kDrive));
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &before), 0);
  (void)std::signal(SIGXFSZ, handler);
  EXPECT_EQ(
      refused,
      "the overlay cannot be made 1114112 bytes long (it is sparse, and takes space as the guest writes): File too "
      "large (EFBIG)");
}

}  // namespace
}  // namespace mayfly
