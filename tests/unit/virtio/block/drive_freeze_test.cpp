// Freezes where no two files share blocks; tests/integration/freeze_test.cpp has those where they do.

#include "tests/support/files.h"
#include "tests/unit/virtio/block/overlay_fixture.h"
#include "virtio/block/block_device.h"
#include "virtio/block/drive_layers.h"

#include <sys/stat.h>

#include <filesystem>
#include <fstream>

#include <gtest/gtest.h>

namespace mayfly {
namespace {

using namespace mayfly::testing;

constexpr std::uint64_t kFrozenSectors = 64;  // eight blocks

/// A drive over a base, on a file system that shares no blocks, and what a guest must find on it.
struct Freezable : BlockFixture {
  Freezable() : BlockFixture({.sectors = kFrozenSectors, .path = {}, .layered = true}), base(read(0, kFrozenSectors)) {
    content = base;
  }
  void put(std::uint64_t sector, std::uint64_t sectors, unsigned seed) {
    const Bytes bytes = pattern(sectors, seed);
    EXPECT_EQ(write(sector, bytes), VIRTIO_BLK_S_OK);
    std::ranges::copy(bytes, content.begin() + static_cast<std::ptrdiff_t>(sector * kSectorSize));
  }
  void must(const Status& status) const { EXPECT_TRUE(status) << (status ? "" : status.error().message); }
  /// As a snapshot does that counts.
  bool freeze(const std::string& path) {
    must(device->prepare_freeze(path));
    must(device->sync());
    must(device->settle_freeze());
    kept = device->kept_image();
    return device->end_freeze(true);
  }
  [[nodiscard]] Bytes all() { return read(0, kFrozenSectors); }
  [[nodiscard]] std::string path_of(const std::string& name) const { return scratch.file(name); }
  [[nodiscard]] std::vector<std::string> names() const {
    std::vector<std::string> found;
    for (const auto& entry : std::filesystem::directory_iterator{scratch.file("")})
      found.push_back(entry.path().filename());
    std::ranges::sort(found);
    return found;
  }
  Bytes base;
  Bytes content;
  ImageIdentity kept{};
};

/// What another machine reads of it, over these layers.
Bytes read_over(const std::vector<std::string>& layers) {
  const ScratchDirectory scratch;
  BlockFixture clone{{.path = scratch.file("clone"), .base_paths = layers}};
  return clone.read(0, kFrozenSectors);
}

TEST(DriveFreeze, AnOverlayIsALayerThenAndTheDriveGoesOn) {
  Freezable drive;
  const std::string base = drive.config.base_paths.front();
  drive.put(3, 10, 1);
  const Bytes first = drive.content;
  EXPECT_TRUE(drive.freeze(drive.path_of("first")));
  EXPECT_EQ(drive.all(), first);
  // It is read by others while the drive writes on.
  drive.put(8, 4, 2);
  EXPECT_EQ(read_over({base, drive.path_of("first")}), first);
  EXPECT_EQ(drive.all(), drive.content);
  const Bytes second = drive.content;
  EXPECT_TRUE(drive.freeze(drive.path_of("second")));
  drive.put(40, 1, 3);
  EXPECT_EQ(read_over({base, drive.path_of("first"), drive.path_of("second")}), second);
  EXPECT_EQ(read_over({base, drive.path_of("first")}), first);
  EXPECT_EQ(drive.names(), (std::vector<std::string>{"disk", "first", "overlay", "second"}));
  // What a snapshot compares with is the layer.
  EXPECT_EQ(std::filesystem::file_size(drive.path_of("second")), std::filesystem::file_size(drive.path_of("first")));
  struct stat status = {};
  ASSERT_EQ(::stat(drive.path_of("second").c_str(), &status), 0);
  EXPECT_EQ(drive.kept.inode, status.st_ino);
  EXPECT_EQ(drive.kept.size_bytes, kFrozenSectors * kSectorSize);
  // Its next machine names the layers.
  drive.loop->close();
  drive.host.reset();
  drive.device.reset();
  BlockFixture next{
      {.path = drive.config.path_on_host, .base_paths = {base, drive.path_of("first"), drive.path_of("second")}}};
  EXPECT_EQ(next.read(0, kFrozenSectors), drive.content);
}

TEST(DriveFreeze, ASwapKeepsTheLayers) {
  Freezable drive;
  drive.put(3, 10, 1);
  EXPECT_TRUE(drive.freeze(drive.path_of("first")));
  const Bytes first = drive.content;
  drive.put(3, 10, 2);
  drive.must(drive.device->replace_path(drive.path_of("other")));
  EXPECT_EQ(drive.all(), first);
  EXPECT_EQ(drive.transact({drive.header(VIRTIO_BLK_T_FLUSH, 0), drive.status()}).status, VIRTIO_BLK_S_OK);
  drive.must(drive.device->replace_path(drive.config.path_on_host));
  EXPECT_EQ(drive.all(), drive.content);
}

TEST(DriveFreeze, ASnapshotThatFailsLeavesAllAsItWas) {
  Freezable drive;
  const std::vector<std::string> names = drive.names();
  drive.put(3, 10, 1);
  for (unsigned steps = 0; steps < 3; ++steps) {
    drive.must(drive.device->prepare_freeze(drive.path_of("frozen")));
    if (steps > 0) drive.must(drive.device->sync());
    if (steps > 1) drive.must(drive.device->settle_freeze());
    drive.must(drive.device->drop_freeze());
    EXPECT_FALSE(drive.device->end_freeze(false));
    EXPECT_EQ(drive.names(), names) << steps;
    drive.put(9 + steps, 1, steps);
    EXPECT_EQ(drive.all(), drive.content);
    struct stat status = {};
    ASSERT_EQ(::stat(drive.config.path_on_host.c_str(), &status), 0);
    EXPECT_EQ(drive.device->state().image.inode, status.st_ino) << "its name is its own again";
    EXPECT_EQ(stored_in_layers(drive, After::Kill), drive.content) << "and it is no layer";
  }
  EXPECT_TRUE(drive.freeze(drive.path_of("frozen")));
  EXPECT_EQ(drive.all(), drive.content);
}

// An earlier snapshot's load compares it.
TEST(DriveFreeze, ASnapshotThatFailsLeavesTheTimeOfChange) {
  Freezable drive;
  drive.put(3, 10, 1);
  drive.must(drive.device->sync());
  const OwnedFd file{::open(drive.config.path_on_host.c_str(), O_RDONLY | O_CLOEXEC)};
  set_old_time(file.get());
  drive.must(drive.device->prepare_freeze(drive.path_of("frozen")));
  drive.must(drive.device->sync());
  drive.must(drive.device->settle_freeze());
  drive.must(drive.device->drop_freeze());
  EXPECT_FALSE(drive.device->end_freeze(false));
  EXPECT_EQ(drive.device->state().image.modified_ns, kOldTimeNs);
}

TEST(DriveFreeze, AFileThatAppearsAtItsNameMeanwhileStaysAsItIs) {
  Freezable drive;
  drive.put(3, 10, 1);
  drive.must(drive.device->prepare_freeze(drive.path_of("frozen")));
  drive.must(drive.device->sync());
  make_file(drive.path_of("frozen"), "of another monitor");
  const auto refused = drive.device->settle_freeze();
  ASSERT_FALSE(refused);
  EXPECT_TRUE(refused.error().message.ends_with("/frozen was made by another process while the snapshot was written"))
      << refused.error().message;
  drive.must(drive.device->drop_freeze());
  EXPECT_FALSE(drive.device->end_freeze(false));
  EXPECT_EQ(content_of(drive.path_of("frozen")), "of another monitor");
  EXPECT_EQ(drive.names(), (std::vector<std::string>{"disk", "frozen", "overlay"}));
  drive.put(40, 1, 2);
  EXPECT_EQ(drive.all(), drive.content);
  EXPECT_EQ(stored_in_layers(drive, After::Kill), drive.content) << "and it is no layer";
}

TEST(DriveFreeze, AMonitorThatIsKilledAmidItLosesNothing) {
  for (const bool settled : {false, true}) {
    Freezable drive;
    const std::string base = drive.config.base_paths.front();
    drive.put(3, 10, 1);
    drive.must(drive.device->prepare_freeze(drive.path_of("frozen")));
    drive.must(drive.device->sync());
    if (settled) drive.must(drive.device->settle_freeze());
    // The files as a killed one leaves them, apart from its locks.
    std::filesystem::create_directory(drive.path_of("left"));
    for (const std::string& name : drive.names()) {
      if (name == "left") continue;
      std::filesystem::copy_file(drive.path_of(name), drive.path_of("left/" + name));
      std::filesystem::last_write_time(drive.path_of("left/" + name),
                                       std::filesystem::last_write_time(drive.path_of(name)));
    }
    EXPECT_EQ(std::filesystem::exists(drive.path_of("left/frozen")), settled);
    EXPECT_EQ(std::filesystem::exists(drive.path_of("left/frozen.mayfly-new")), !settled);
    std::vector<std::string> layers{drive.path_of("left/disk")};
    if (settled) layers.push_back(drive.path_of("left/frozen"));
    BlockFixture next{{.path = drive.path_of("left/overlay"), .base_paths = layers}};
    EXPECT_EQ(next.read(0, kFrozenSectors), drive.content) << settled;
    if (settled) continue;
    // And what it left is not in the way.
    make_file(drive.path_of("plain"), std::string(kSectorSize, 'p'));
    const DiskImage image =
        BlockFixture::must(DiskImage::open({.drive_id = "d", .path_on_host = drive.path_of("plain")}));
    const auto prepare = [&] { return DriveFreeze::prepare(next.config, image, drive.path_of("left/frozen")); };
    const auto again = prepare();
    EXPECT_TRUE(again) << again.error().message;
    EXPECT_FALSE(prepare()) << "while another one makes it";
  }
}

TEST(DriveFreeze, ALayerIsNotWrittenAnyMore) {
  Freezable drive;
  drive.put(3, 10, 1);
  EXPECT_TRUE(drive.freeze(drive.path_of("frozen")));
  DriveConfig config = drive.config;
  config.path_on_host = drive.path_of("frozen");
  const auto refused = DiskImage::open(config);
  ASSERT_FALSE(refused);
  EXPECT_TRUE(refused.error().message.contains("in use by")) << refused.error().message;
  drive.loop->close();
  drive.host.reset();
  drive.device.reset();
  const auto still = DiskImage::open(config);
  ASSERT_FALSE(still);
  EXPECT_TRUE(still.error().message.contains("was frozen as a layer, which others may lie over"))
      << still.error().message;
  config.is_read_only = true;
  EXPECT_TRUE(DiskImage::open(config));
}

TEST(DriveFreeze, AFrozenOneGoesBackNoMore) {
  Freezable drive;
  drive.device->note_revert_point();
  drive.put(3, 10, 1);
  EXPECT_TRUE(drive.device->can_revert());
  EXPECT_TRUE(drive.freeze(drive.path_of("frozen")));
  EXPECT_FALSE(drive.device->can_revert()) << "what is in the layer cannot be dropped";
}

TEST(DriveFreeze, WhatCannotBeFrozenIsRefusedWithItsRemedy) {
  const auto refusal = [](BlockFixture& drive, const std::string& path) -> std::string {
    if (auto prepared = drive.device->prepare_freeze(path); !prepared) return prepared.error().message;
    auto synced = drive.device->sync();
    EXPECT_FALSE(drive.device->end_freeze(false));
    return synced ? "" : synced.error().message;
  };
  Freezable drive;
  drive.put(3, 10, 1);
  const std::string taken = drive.path_of("taken");
  make_file(taken, "");
  EXPECT_EQ(refusal(drive, taken),
            "drive rootfs: frozen_drives: " + taken + " is there already; name a file that is not");
  EXPECT_TRUE(refusal(drive, drive.path_of("none/frozen")).contains("/none/ cannot be opened: No such file"));
  EXPECT_TRUE(refusal(drive, "/dev/shm/mayfly-test-frozen").contains("give a path in its directory"));
  EXPECT_FALSE(std::filesystem::exists("/dev/shm/mayfly-test-frozen"));
  std::filesystem::create_directory(drive.path_of("other"));
  EXPECT_TRUE(refusal(drive, drive.path_of("other/frozen")).contains("give a path in its directory"));
  std::filesystem::remove(drive.path_of("other"));
  std::filesystem::rename(drive.config.path_on_host, drive.path_of("moved"));
  EXPECT_TRUE(refusal(drive, drive.path_of("frozen")).contains("it is a link, or was moved or replaced"));
  std::filesystem::create_symlink(drive.path_of("moved"), drive.config.path_on_host);
  EXPECT_TRUE(refusal(drive, drive.path_of("frozen")).contains("it is a link, or was moved or replaced"));
  std::filesystem::rename(drive.path_of("moved"), drive.config.path_on_host);
  EXPECT_EQ(drive.names(), (std::vector<std::string>{"disk", "overlay", "taken"}));

  BlockFixture reader{{.read_only = true}};
  EXPECT_TRUE(refusal(reader, reader.scratch.file("frozen")).contains("is only read, and stays as it is"));
  BlockFixture plain;
  EXPECT_TRUE(refusal(plain, plain.scratch.file("frozen")).contains("and a plain image is not copied: give a path in"));
  EXPECT_FALSE(std::filesystem::exists(plain.scratch.file("frozen")));
  EXPECT_EQ(plain.write(3, BlockFixture::pattern(1)), VIRTIO_BLK_S_OK);
}

/// Freezes it until there may be no more layers; the paths of those below its overlay.
std::vector<std::string> pile_up(Freezable& drive) {
  std::vector<std::string> layers = drive.config.base_paths;
  while (layers.size() + 1 < DriveLayers::kMost) {
    drive.put(layers.size(), 1, static_cast<unsigned>(layers.size()));
    layers.push_back(drive.path_of(fmt::format("layer{}", layers.size())));
    EXPECT_TRUE(drive.freeze(layers.back()));
  }
  return layers;
}

TEST(DriveFreeze, EveryDriveOfAMachineMayHaveAsManyLayersAndBeGivenAnotherImage) {
  Freezable first;
  const std::vector<std::string> layers = pile_up(first);
  std::vector<std::unique_ptr<BlockDevice>> others;
  while (others.size() + 1 < kMaximumVirtioDevices) {
    DriveConfig config = first.config;
    config.path_on_host = first.path_of(fmt::format("overlay{}", others.size()));
    config.base_paths = layers;
    auto other = BlockDevice::create(config, BlockFixture::must(DiskImage::open(config)), *first.loop,
                                     first.metrics.block, first.log);
    ASSERT_TRUE(other) << other.error().message;
    others.push_back(std::move(*other));
  }
  first.must(first.device->replace_path(first.path_of("another")));
  EXPECT_EQ(first.all(), read_over(layers));
}

TEST(DriveFreeze, HasAsManyLayersAsThereAre) {
  Freezable drive;
  (void)pile_up(drive);
  EXPECT_EQ(drive.all(), drive.content);
  drive.must(drive.device->prepare_freeze(drive.path_of("one-more")));
  const auto refused = drive.device->sync();
  ASSERT_FALSE(refused);
  EXPECT_TRUE(refused.error().message.contains("and the drive has 16 already, the most there are"))
      << refused.error().message;
  EXPECT_FALSE(drive.device->end_freeze(false));
  drive.put(60, 4, 9);
  EXPECT_EQ(drive.all(), drive.content);
}

}  // namespace
}  // namespace mayfly
