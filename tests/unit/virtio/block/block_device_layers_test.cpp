#include "tests/support/forbidden_call.h"
#include "tests/unit/snapshot/file_size_limit.h"
#include "tests/unit/virtio/block/overlay_fixture.h"
#include "virtio/block/block_device.h"
#include "virtio/block/drive_layers.h"

#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include <cerrno>
#include <csignal>
#include <random>
#include <thread>

#include <gtest/gtest.h>

namespace mayfly {
namespace {

using namespace mayfly::testing;

constexpr std::uint64_t kSectors = 256;  // 32 blocks
constexpr std::uint64_t kInBlock = kOverlayBlockSize / kSectorSize;

int flush(BlockFixture& drive) { return drive.transact({drive.header(VIRTIO_BLK_T_FLUSH, 0), drive.status()}).status; }

/// A drive of `kSectors` over a base, and what a guest must find on it.
struct Layered : BlockFixture {
  explicit Layered(BlockFixtureOptions options = {}) : BlockFixture(with_layers(options)), content(base()) {}
  static BlockFixtureOptions with_layers(BlockFixtureOptions options) {
    options.sectors = kSectors;
    options.layered = true;
    return options;
  }
  [[nodiscard]] Bytes base() const { return on_disk_of(config.base_paths.front()); }
  [[nodiscard]] static Bytes on_disk_of(const std::string& path) { return BlockFixture::on_disk(path); }
  int put(std::uint64_t sector, std::uint64_t sectors, unsigned seed) {
    const Bytes bytes = pattern(sectors, seed);
    const int status = write(sector, bytes);
    if (status == VIRTIO_BLK_S_OK)
      std::ranges::copy(bytes, content.begin() + static_cast<std::ptrdiff_t>(sector * 512));
    return status;
  }
  void zero(std::uint64_t sector, std::uint64_t sectors) {
    std::fill_n(content.begin() + static_cast<std::ptrdiff_t>(sector * 512), sectors * 512, std::byte{0});
  }
  Bytes all() { return read(0, kSectors); }
  Bytes content;
};

TEST(LayeredDrive, ShowsItsBaseAndNeverWritesToIt) {
  Layered drive;
  const Bytes base = drive.base();
  EXPECT_EQ(drive.device_config().capacity, kSectors);
  EXPECT_EQ(drive.all(), base);
  EXPECT_EQ(drive.put(8, 8, 5), VIRTIO_BLK_S_OK);
  EXPECT_EQ(drive.put(17, 3, 6), VIRTIO_BLK_S_OK);
  EXPECT_EQ(drive.all(), drive.content);
  EXPECT_EQ(drive.base(), base);
}

TEST(LayeredDrive, TellsGuestsToWriteWholeBlocks) {
  const Layered drive;
  const virtio_blk_config config = drive.device_config();
  EXPECT_GE(512U << config.physical_block_exp, kOverlayBlockSize);
  EXPECT_GE(config.discard_sector_alignment, kInBlock);
}

TEST(LayeredDrive, AWriteOfAPartBringsTheRestOfItsBlockUp) {
  Layered drive;
  EXPECT_EQ(drive.put(3, 1, 1), VIRTIO_BLK_S_OK);    // the middle of a block
  EXPECT_EQ(drive.put(12, 20, 2), VIRTIO_BLK_S_OK);  // the end of one, two whole, all of the next
  EXPECT_EQ(drive.put(45, 10, 3), VIRTIO_BLK_S_OK);  // parts of two
  EXPECT_EQ(drive.put(kSectors - 1, 1, 4), VIRTIO_BLK_S_OK);
  EXPECT_EQ(drive.put(46, 1, 5), VIRTIO_BLK_S_OK);  // of one that is there by now
  EXPECT_EQ(drive.all(), drive.content);
  EXPECT_EQ(stored_in_layers(drive, After::Kill), drive.content);
}

TEST(LayeredDrive, ALastBlockMayBeShort) {
  BlockFixture drive{{.sectors = 13, .layered = true}};
  Bytes content = drive.on_disk(drive.config.base_paths.front());
  EXPECT_EQ(drive.read(0, 13), content);
  for (const auto& [sector, count] : {std::pair{12, 1}, {8, 5}, {7, 2}}) {
    const Bytes bytes = BlockFixture::pattern(static_cast<unsigned>(count), static_cast<unsigned>(sector));
    EXPECT_EQ(drive.write(static_cast<unsigned>(sector), bytes), VIRTIO_BLK_S_OK);
    std::ranges::copy(bytes, content.begin() + sector * 512);
    EXPECT_EQ(drive.read(0, 13), content);
  }
  EXPECT_EQ(drive.ranges(VIRTIO_BLK_T_DISCARD, {{8, 5, 0}}), VIRTIO_BLK_S_OK);
  std::fill(content.begin() + 8 * 512, content.end(), std::byte{0});
  EXPECT_EQ(drive.read(0, 13), content);
  EXPECT_EQ(drive.write(13, Bytes(512)), VIRTIO_BLK_S_IOERR);
}

TEST(LayeredDrive, ReadsOfManyLayersComeInPieces) {
  Layered drive;
  // Each second block: more runs than one submission has.
  for (std::uint64_t block = 0; block < kSectors / kInBlock; block += 2)
    EXPECT_EQ(drive.put(block * kInBlock, kInBlock, static_cast<unsigned>(block)), VIRTIO_BLK_S_OK);
  EXPECT_EQ(drive.all(), drive.content);
  EXPECT_EQ(drive.read(5, 100), sectors_of(drive.content, 5, 100));
  // And into buffers that are cut elsewhere.
  std::vector<FakeBuffer> buffers{drive.header(VIRTIO_BLK_T_IN, 3)};
  Bytes found;
  std::uint64_t left = 64 * 512;
  for (std::uint64_t cut = 1; left > 0; cut = cut * 3 % 7001) {
    buffers.push_back(drive.to_fill(std::min(cut, left)));
    left -= std::min(cut, left);
  }
  buffers.push_back(drive.status());
  EXPECT_EQ(drive.transact(buffers).status, VIRTIO_BLK_S_OK);
  for (std::size_t i = 1; i + 1 < buffers.size(); ++i) {
    const Bytes part = drive.filled(buffers[i]);
    found.insert(found.end(), part.begin(), part.end());
  }
  EXPECT_EQ(found, sectors_of(drive.content, 3, 64));
}

TEST(LayeredDrive, ADiscardHidesTheBase) {
  Layered drive;
  EXPECT_EQ(drive.put(16, 8, 1), VIRTIO_BLK_S_OK);
  // One that is there, one that is not, and parts of some.
  EXPECT_EQ(drive.ranges(VIRTIO_BLK_T_DISCARD, {{16, 16, 0}, {61, 14, 0}, {90, 3, 0}}), VIRTIO_BLK_S_OK);
  drive.zero(16, 16);
  drive.zero(61, 14);
  drive.zero(90, 3);
  EXPECT_EQ(drive.all(), drive.content);
  EXPECT_EQ(stored_in_layers(drive, After::Kill), drive.content);
  // A write of a part of a discarded block does not bring the base back.
  EXPECT_EQ(drive.put(66, 1, 2), VIRTIO_BLK_S_OK);
  EXPECT_EQ(drive.all(), drive.content);
}

TEST(LayeredDrive, ZeroesAreWrittenToTheByteAndTakeNoSpace) {
  for (const std::uint32_t flags : {0U, unsigned{VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP}}) {
    Layered drive;
    EXPECT_EQ(drive.put(20, 8, 1), VIRTIO_BLK_S_OK);
    EXPECT_EQ(
        drive.ranges(VIRTIO_BLK_T_WRITE_ZEROES, {{3, 1, flags}, {21, 40, flags}, {100, 64, flags}, {250, 6, flags}}),
        VIRTIO_BLK_S_OK);
    for (const auto& [sector, count] : {std::pair{3, 1}, {21, 40}, {100, 64}, {250, 6}})
      drive.zero(static_cast<unsigned>(sector), static_cast<unsigned>(count));
    EXPECT_EQ(drive.all(), drive.content);
    EXPECT_EQ(stored_in_layers(drive, After::Kill), drive.content);
    struct stat status = {};
    ASSERT_EQ(::stat(drive.config.path_on_host.c_str(), &status), 0);
    EXPECT_LE(status.st_blocks * 512, 10 * 4096) << "parts of blocks and maps alone";
  }
}

TEST(LayeredDrive, WhatIsAnsweredIsThereForTheNextMonitor) {
  Layered drive;
  for (unsigned seed = 0; seed < 20; ++seed) {
    EXPECT_EQ(drive.put(seed * 11, 1 + seed % 9, seed), VIRTIO_BLK_S_OK);
    EXPECT_EQ(stored_in_layers(drive, After::Kill), drive.content);
  }
}

TEST(LayeredDrive, WhatIsFlushedIsThereAfterAPowerCutAndNoBlockIsBeforeItsData) {
  Layered drive;
  const Bytes base = drive.content;
  EXPECT_EQ(drive.put(8, 8, 1), VIRTIO_BLK_S_OK);
  EXPECT_EQ(stored_in_layers(drive, After::PowerCut), base) << "its data may be in the page cache alone";
  EXPECT_EQ(flush(drive), VIRTIO_BLK_S_OK);
  EXPECT_EQ(stored_in_layers(drive, After::PowerCut), drive.content);
  EXPECT_EQ(flush(drive), VIRTIO_BLK_S_OK) << "with nothing new";
  const Bytes flushed = drive.content;
  EXPECT_EQ(drive.put(30, 3, 2), VIRTIO_BLK_S_OK);
  EXPECT_EQ(drive.ranges(VIRTIO_BLK_T_DISCARD, {{64, 8, 0}}), VIRTIO_BLK_S_OK);
  drive.zero(64, 8);
  EXPECT_EQ(stored_in_layers(drive, After::PowerCut), flushed);
  EXPECT_EQ(flush(drive), VIRTIO_BLK_S_OK);
  EXPECT_EQ(stored_in_layers(drive, After::PowerCut), drive.content);
}

TEST(LayeredDrive, AnUnsafeOneKeepsAllThroughAnyBoot) {
  Layered drive{{.cache_type = CacheType::Unsafe}};
  EXPECT_EQ(drive.put(8, 8, 1), VIRTIO_BLK_S_OK);
  EXPECT_EQ(stored_in_layers(drive, After::PowerCut), drive.content);
  EXPECT_EQ(flush(drive), VIRTIO_BLK_S_OK);
}

TEST(LayeredDrive, WritesThroughForADriverThatDoesNotFlush) {
  Layered drive{{.features = ~(1ULL << VIRTIO_BLK_F_FLUSH)}};
  EXPECT_EQ(drive.put(9, 3, 1), VIRTIO_BLK_S_OK);
  EXPECT_EQ(stored_in_layers(drive, After::PowerCut), drive.content);
  EXPECT_EQ(drive.put(10, 1, 2), VIRTIO_BLK_S_OK);
  EXPECT_EQ(drive.ranges(VIRTIO_BLK_T_WRITE_ZEROES, {{40, 8, 0}, {50, 1, 0}}), VIRTIO_BLK_S_OK);
  drive.zero(40, 8);
  drive.zero(50, 1);
  EXPECT_EQ(stored_in_layers(drive, After::PowerCut), drive.content);
}

TEST(LayeredDrive, FlushesThatComeTogetherAreAnsweredOnceAllIsDurable) {
  Layered drive;
  const Bytes bytes = BlockFixture::pattern(8, 3);
  std::size_t offered = 0;
  for (std::uint64_t block = 0; block < 32; ++block) {
    drive.offer({drive.header(VIRTIO_BLK_T_OUT, block * kInBlock), drive.holding(bytes), drive.status()});
    drive.offer({drive.header(VIRTIO_BLK_T_FLUSH, 0), drive.status()});
    offered += 2;
  }
  drive.kick();
  for (const auto& [head, answer] : drive.collect(offered)) EXPECT_EQ(answer.status, VIRTIO_BLK_S_OK);
  EXPECT_EQ(drive.metrics.block.flush_count.value(), 32U);
  EXPECT_EQ(flush(drive), VIRTIO_BLK_S_OK);
  for (std::uint64_t block = 0; block < 32; ++block)
    std::ranges::copy(bytes, drive.content.begin() + static_cast<std::ptrdiff_t>(block * kOverlayBlockSize));
  EXPECT_EQ(stored_in_layers(drive, After::PowerCut), drive.content);
}

TEST(LayeredDrive, WritesOfOneBlockThatComeTogetherLoseNothingOfEachOther) {
  for (int round = 0; round < 8; ++round) {
    Layered drive;
    std::size_t offered = 0;
    // All sectors of four blocks, each by a request of its own, in one batch; every one would bring up the rest.
    for (std::uint64_t sector = 0; sector < 4 * kInBlock; ++sector) {
      const std::uint64_t at = sector * 5 % (4 * kInBlock);
      const Bytes bytes = BlockFixture::pattern(1, static_cast<unsigned>(at * 3 + 1));
      drive.offer({drive.header(VIRTIO_BLK_T_OUT, at), drive.holding(bytes), drive.status()});
      std::ranges::copy(bytes, drive.content.begin() + static_cast<std::ptrdiff_t>(at * 512));
      ++offered;
    }
    drive.kick();
    for (const auto& [head, answer] : drive.collect(offered)) EXPECT_EQ(answer.status, VIRTIO_BLK_S_OK);
    EXPECT_EQ(drive.all(), drive.content);
    EXPECT_EQ(stored_in_layers(drive, After::Kill), drive.content);
  }
}

TEST(LayeredDrive, ADiskWithoutRoomFailsTheRequestAndChangesNothing) {
  struct rlimit before = {};
  ASSERT_EQ(::getrlimit(RLIMIT_FSIZE, &before), 0);
  const auto handler = std::signal(SIGXFSZ, SIG_IGN);
  Layered drive;
  EXPECT_EQ(drive.put(0, 4, 1), VIRTIO_BLK_S_OK);
  struct rlimit small = before;
  small.rlim_cur = 64 * 1024 + 64 * 512;  // of the drive: its first blocks
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &small), 0);
  EXPECT_EQ(drive.put(128, 8, 2), VIRTIO_BLK_S_IOERR);
  EXPECT_EQ(drive.put(129, 1, 2), VIRTIO_BLK_S_IOERR) << "what it brings up has no room";
  EXPECT_EQ(drive.put(2, 1, 3), VIRTIO_BLK_S_OK) << "one that is there";
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &before), 0);
  EXPECT_EQ(drive.all(), drive.content);
  EXPECT_EQ(drive.metrics.block.execute_fails.value(), 2U);
  EXPECT_EQ(drive.put(128, 8, 4), VIRTIO_BLK_S_OK) << "once there is room";
  EXPECT_EQ(drive.all(), drive.content);
  (void)std::signal(SIGXFSZ, handler);
}

TEST(LayeredDrive, AWriteWhoseMapHasNoRoomFailsAndWaitersGoOn) {
  struct rlimit before = {};
  ASSERT_EQ(::getrlimit(RLIMIT_FSIZE, &before), 0);
  const auto handler = std::signal(SIGXFSZ, SIG_IGN);
  Layered drive;
  struct rlimit small = before;
  small.rlim_cur = 8192;  // the headers alone
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &small), 0);
  // A discard needs no room for data: it is the map that fails it.
  for (int i = 0; i < 3; ++i) {
    const virtio_blk_discard_write_zeroes range{.sector = 8, .num_sectors = 8, .flags = 0};
    drive.offer(
        {drive.header(VIRTIO_BLK_T_DISCARD, 0), drive.holding(std::as_bytes(std::span{&range, 1})), drive.status()});
  }
  drive.kick();
  for (const auto& [head, answer] : drive.collect(3)) EXPECT_EQ(answer.status, VIRTIO_BLK_S_IOERR);
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &before), 0);
  (void)std::signal(SIGXFSZ, handler);
  EXPECT_EQ(drive.all(), drive.content);
  EXPECT_EQ(stored_in_layers(drive, After::Kill), drive.content);
  EXPECT_EQ(drive.put(9, 1, 1), VIRTIO_BLK_S_OK);
  EXPECT_EQ(drive.all(), drive.content);
}

TEST(LayeredDrive, ABaseThatBecameShorterIsAnErrorOfTheRead) {
  Layered drive;
  EXPECT_EQ(drive.put(8, 8, 1), VIRTIO_BLK_S_OK);
  ASSERT_EQ(::truncate(drive.config.base_paths.front().c_str(), 4096), 0);
  EXPECT_EQ(drive.read(8, 8), sectors_of(drive.content, 8, 8));
  EXPECT_EQ(drive.transact({drive.header(VIRTIO_BLK_T_IN, 0), drive.to_fill(64 * 512), drive.status()}).status,
            VIRTIO_BLK_S_IOERR);
  EXPECT_EQ(drive.put(17, 1, 2), VIRTIO_BLK_S_IOERR) << "the rest of the block cannot be read";
}

TEST(LayeredDrive, IsWhatAModelSays) {
  std::mt19937 random{20};
  for (int round = 0; round < 6; ++round) {
    Layered drive;
    Bytes flushed = drive.content;
    for (int step = 0; step < 120; ++step) {
      const std::uint64_t sector = random() % kSectors;
      const std::uint64_t count =
          std::min<std::uint64_t>(1 + random() % (random() % 4 == 0 ? 100 : 12), kSectors - sector);
      switch (random() % 8) {
        case 0:
          EXPECT_EQ(flush(drive), VIRTIO_BLK_S_OK);
          flushed = drive.content;
          ASSERT_EQ(stored_in_layers(drive, After::PowerCut), flushed);
          break;
        case 1:
          EXPECT_EQ(drive.ranges(VIRTIO_BLK_T_WRITE_ZEROES, {{sector, static_cast<std::uint32_t>(count), 0}}),
                    VIRTIO_BLK_S_OK);
          drive.zero(sector, count);
          break;
        case 2: {
          const std::uint64_t first = sector / kInBlock;
          EXPECT_EQ(drive.ranges(VIRTIO_BLK_T_DISCARD, {{first * kInBlock, kInBlock, 0}}), VIRTIO_BLK_S_OK);
          drive.zero(first * kInBlock, kInBlock);
          break;
        }
        case 3:
        case 4:
          ASSERT_EQ(drive.read(sector, count), sectors_of(drive.content, sector, count));
          break;
        default:
          EXPECT_EQ(drive.put(sector, count, static_cast<unsigned>(step + 1000 * round)), VIRTIO_BLK_S_OK);
      }
    }
    ASSERT_EQ(drive.all(), drive.content);
    ASSERT_EQ(stored_in_layers(drive, After::Kill), drive.content);
  }
}

// --- Opening ---------------------------------------------------------------------------------------------------------

std::string refusal(const DriveConfig& config) {
  auto opened = DiskImage::open(config);
  if (!opened) return opened.error().message;
  opened->keep();
  return "";
}

struct Files {
  ScratchDirectory scratch;
  std::string base = make("base", 64);
  DriveConfig config{.drive_id = "root", .path_on_host = scratch.file("overlay"), .base_paths = {base}};
  std::string make(const std::string& name, std::uint64_t sectors) const {
    const OwnedFd file{::open(scratch.file(name).c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0644)};
    const Bytes bytes = BlockFixture::pattern(sectors);
    EXPECT_EQ(::write(file.get(), bytes.data(), bytes.size()), static_cast<ssize_t>(bytes.size()));
    return scratch.file(name);
  }
};

TEST(LayeredImage, TwoMayNotWriteOneOverlayAndAnyNumberReadsABase) {
  Files files;
  const auto first = DiskImage::open(files.config);
  ASSERT_TRUE(first) << first.error().message;
  EXPECT_EQ(first->size_bytes(), 64 * kSectorSize);
  EXPECT_EQ(
      refusal(files.config),
      fmt::format("drive root: path_on_host {} is in use by another drive of this machine, and this drive would write "
                  "it; stop that one, use a copy, or set is_read_only to true where all only read",
                  files.config.path_on_host));
  DriveConfig other = files.config;
  other.path_on_host = files.scratch.file("other");
  const auto second = DiskImage::open(other);
  EXPECT_TRUE(second);
  EXPECT_EQ(refusal({.drive_id = "base", .path_on_host = files.base, .is_read_only = true}), "");
  EXPECT_NE(refusal({.drive_id = "base", .path_on_host = files.base}), "") << "it is a base";
}

TEST(LayeredImage, ABaseThatIsWrittenIsRefused) {
  Files files;
  const auto writer = DiskImage::open(DriveConfig{.drive_id = "base", .path_on_host = files.base});
  ASSERT_TRUE(writer);
  EXPECT_EQ(
      refusal(files.config),
      fmt::format("drive root: base_path {} is in use by another drive of this machine, which may write it; stop that "
                  "one, or use a copy",
                  files.base));
  EXPECT_NE(::access(files.config.path_on_host.c_str(), F_OK), 0) << "no overlay was made";
}

TEST(LayeredImage, AnOverlayThatWasMadeAndNotKeptIsGone) {
  Files files;
  const auto is_there = [&] { return ::access(files.config.path_on_host.c_str(), F_OK) == 0; };
  {
    const auto image = DiskImage::open(files.config);
    ASSERT_TRUE(image);
    EXPECT_TRUE(is_there());
  }
  EXPECT_FALSE(is_there());
  EXPECT_EQ(refusal(files.config), "");
  EXPECT_TRUE(is_there()) << "a drive has it";
  EXPECT_TRUE(DiskImage::open(files.config));
  EXPECT_TRUE(is_there()) << "another one made it";
}

TEST(LayeredImage, ABaseThatChangedIsRefused) {
  Files files;
  ASSERT_EQ(refusal(files.config), "");
  (void)files.make("base", 64);
  EXPECT_TRUE(refusal(files.config).contains("that has changed since, and blocks of both do not belong together"));
  (void)files.make("base", 72);
  EXPECT_TRUE(refusal(files.config).contains("it had 32768 bytes then, and has 36864 now"));
}

TEST(LayeredImage, FieldsAreNamed) {
  Files files;
  DriveConfig config = files.config;
  config.direct = true;
  EXPECT_EQ(
      refusal(config),
      "drive root: direct is true, and a drive with a base_path is read through the page cache, which all machines "
      "share; set direct to false");
  config = files.config;
  config.base_paths = {files.scratch.file("none")};
  EXPECT_EQ(refusal(config),
            fmt::format("drive root: base_path {} does not exist; give the path of a disk image or of a "
                        "block device",
                        config.base_paths.front()));
  config.base_paths = {files.base, files.base};
  EXPECT_EQ(
      refusal(config),
      fmt::format("drive root: base_paths[1] {} is no overlay; give the path of one, or of a file that does not exist "
                  "yet, or leave base_path out for a raw image",
                  files.base));
  config.base_paths.assign(DriveLayers::kMost, files.base);
  EXPECT_TRUE(refusal(config).starts_with("drive root: base_paths names 16 files, and a drive has at most 16 layers"));
  config = files.config;
  config.path_on_host = files.make("raw", 64);
  EXPECT_TRUE(refusal(config).contains("raw is no overlay"));
  config = files.config;
  config.is_read_only = true;
  EXPECT_TRUE(refusal(config).contains("does not exist"));
  config = files.config;
  config.path_on_host = files.scratch.file("no/such/directory");
  EXPECT_TRUE(refusal(config).contains("does not exist"));
}

TEST(LayeredImage, AnOverlayThatCannotBeMadeLeavesNoFile) {
  struct rlimit before = {};
  ASSERT_EQ(::getrlimit(RLIMIT_FSIZE, &before), 0);
  const auto handler = std::signal(SIGXFSZ, SIG_IGN);
  Files files;
  struct rlimit small = before;
  small.rlim_cur = 4096;
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &small), 0);
  EXPECT_TRUE(refusal(files.config).contains("cannot be made"));
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &before), 0);
  (void)std::signal(SIGXFSZ, handler);
  EXPECT_NE(::access(files.config.path_on_host.c_str(), F_OK), 0);
}

TEST(LayeredDrive, LayersBelowShowThrough) {
  ScratchDirectory scratch;
  std::string base;
  Bytes content;
  std::vector<std::string> layers;
  // Three overlays, each of a drive that is ended before the next is put over it; different blocks in each.
  for (unsigned level = 0; level < 3; ++level) {
    if (level == 0) {
      base = scratch.file("base");
      content = BlockFixture::pattern(kSectors);
      const OwnedFd file{::open(base.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644)};
      ASSERT_EQ(::pwrite(file.get(), content.data(), content.size(), 0), static_cast<ssize_t>(content.size()));
      layers = {base};
    }
    const std::string top = scratch.file(fmt::format("overlay{}", level));
    BlockFixture drive{{.path = top, .base_paths = layers}};
    EXPECT_EQ(drive.read(0, kSectors), content) << level;
    for (unsigned block = level; block < 32; block += 3 + level) {
      const Bytes bytes = BlockFixture::pattern(5, 100 * level + block);
      EXPECT_EQ(drive.write(block * kInBlock + 1, bytes), VIRTIO_BLK_S_OK);
      std::ranges::copy(bytes, content.begin() + static_cast<std::ptrdiff_t>((block * kInBlock + 1) * 512));
    }
    EXPECT_EQ(drive.read(0, kSectors), content) << level;
    layers.push_back(top);
  }
  // Read-only, without an overlay of its own: the topmost is opened to be read.
  const std::string top = layers.back();
  layers.pop_back();
  BlockFixture reader{{.read_only = true, .path = top, .base_paths = layers}};
  EXPECT_EQ(reader.read(0, kSectors), content);
}

TEST(LayeredDrive, WhatWasNotFlushedIsThereAfterAStartOfTheHostWhereItEndsInOrder) {
  const ScratchDirectory scratch;
  const std::string base = scratch.file("base");
  const std::string top = scratch.file("top");
  make_file(base, std::string(kSectors * 512, 'b'));
  for (const CacheType type : {CacheType::Unsafe, CacheType::Writeback}) {
    {
      BlockFixture drive{{.cache_type = type, .path = top, .base_paths = {base}}};
      EXPECT_EQ(drive.write(8, BlockFixture::pattern(16)), VIRTIO_BLK_S_OK);
    }
    const OwnedFd file{::open(top.c_str(), O_RDONLY | O_CLOEXEC)};
    const Overlay overlay = BlockFixture::must(
        Overlay::open(file.get(), {.who = "it", .below = {}, .checks_below = false, .boot = boot_of(1)}));
    EXPECT_EQ(overlay.map().present_count(), 2U);
  }
}

TEST(LayeredDrive, AFlushOfOneThatIsOnlyReadWritesNoMap) {
  const ScratchDirectory scratch;
  const std::string base = scratch.file("base");
  const std::string top = scratch.file("top");
  make_file(base, std::string(kSectors * 512, 'b'));
  {
    BlockFixture drive{{.cache_type = CacheType::Unsafe, .path = top, .base_paths = {base}}};
    EXPECT_EQ(drive.write(8, BlockFixture::pattern(8)), VIRTIO_BLK_S_OK);
  }
  BlockFixture reader{{.read_only = true, .path = top, .base_paths = {base}}};
  EXPECT_EQ(reader.read(8, 8), BlockFixture::pattern(8));
  EXPECT_EQ(flush(reader), VIRTIO_BLK_S_OK);
}

// --- Swap and snapshot -----------------------------------------------------------------------------------------------

TEST(LayeredDrive, AnotherOverlayMayBeSwappedIn) {
  Layered drive;
  const Bytes base = drive.content;
  EXPECT_EQ(drive.put(8, 8, 1), VIRTIO_BLK_S_OK);
  const std::string first = drive.config.path_on_host;
  const std::string second = drive.scratch.file("second");
  ASSERT_TRUE(drive.device->replace_path(second));
  EXPECT_EQ(drive.all(), base);
  EXPECT_EQ(drive.write(16, BlockFixture::pattern(8, 2)), VIRTIO_BLK_S_OK);
  // A flush covers what was written to the first one.
  EXPECT_EQ(flush(drive), VIRTIO_BLK_S_OK);
  EXPECT_EQ(stored_in_layers(drive, After::PowerCut), drive.content);
  EXPECT_EQ(drive.config.path_on_host, first);
  ASSERT_TRUE(drive.device->replace_path(second)) << "its own is nothing new";
  EXPECT_EQ(drive.read(16, 8), BlockFixture::pattern(8, 2));
  ASSERT_TRUE(drive.device->replace_path(first));
  EXPECT_EQ(drive.all(), drive.content);
}

TEST(LayeredDrive, AMachinesEndMakesDurableWhatItsOverlaysHaveAlsoThoseThatWereSwappedOut) {
  for (const bool swaps : {false, true}) {
    Layered drive;
    EXPECT_EQ(drive.put(8, 8, 1), VIRTIO_BLK_S_OK);
    if (swaps) {
      ASSERT_TRUE(drive.device->replace_path(drive.scratch.file("second")));
    }
    drive.loop->close();
    drive.host.reset();
    drive.device.reset();
    EXPECT_EQ(stored_in_layers(drive, After::PowerCut), drive.content) << swaps;
  }
}

TEST(LayeredDrive, AnEmptiedOneShowsItsBaseAndGoesOn) {
  Layered drive;
  const Bytes base = drive.content;
  for (const bool flushed : {false, true}) {
    EXPECT_EQ(drive.put(9, 3, 1), VIRTIO_BLK_S_OK);
    if (flushed) {
      EXPECT_EQ(flush(drive), VIRTIO_BLK_S_OK);
    }
    EXPECT_EQ(drive.ranges(VIRTIO_BLK_T_DISCARD, {{64, 8, 0}}), VIRTIO_BLK_S_OK);
    ASSERT_TRUE(drive.device->empty_overlay());
    EXPECT_EQ(drive.all(), base);
    EXPECT_EQ(stored_in_layers(drive, After::Kill), base);
    EXPECT_EQ(stored_in_layers(drive, After::PowerCut), base);
    drive.content = base;
  }
  EXPECT_EQ(drive.put(10, 1, 2), VIRTIO_BLK_S_OK);
  EXPECT_EQ(flush(drive), VIRTIO_BLK_S_OK);
  EXPECT_EQ(stored_in_layers(drive, After::PowerCut), drive.content);
}

/// As on NFS before 4.2.
TEST(LayeredDrive, AnEmptiedOneShowsItsBaseAlsoWhereTheFileSystemPunchesNoHoles) {
  Layered drive;
  const Bytes base = drive.content;
  for (const bool flushed : {false, true}) {
    EXPECT_EQ(drive.put(9, 3, 1), VIRTIO_BLK_S_OK);
    EXPECT_EQ(drive.put(40, 24, 2), VIRTIO_BLK_S_OK);
    if (flushed) {
      EXPECT_EQ(flush(drive), VIRTIO_BLK_S_OK);
    }
    std::thread{[&] {
      forbid_call(SYS_fallocate, EOPNOTSUPP);
      const Status emptied = drive.device->empty_overlay();
      EXPECT_TRUE(emptied) << emptied.error().message;
    }}.join();
    EXPECT_EQ(drive.all(), base);
    EXPECT_EQ(stored_in_layers(drive, After::Kill), base);
    EXPECT_EQ(stored_in_layers(drive, After::PowerCut), base);
    drive.content = base;
  }
  // And it goes on: what it brings up is its base's.
  EXPECT_EQ(drive.put(10, 1, 3), VIRTIO_BLK_S_OK);
  EXPECT_EQ(drive.put(41, 1, 4), VIRTIO_BLK_S_OK);
  EXPECT_EQ(drive.all(), drive.content);
  EXPECT_EQ(stored_in_layers(drive, After::Kill), drive.content);
  EXPECT_EQ(flush(drive), VIRTIO_BLK_S_OK);
  EXPECT_EQ(stored_in_layers(drive, After::PowerCut), drive.content);
}

TEST(LayeredDrive, GoesBackWhereItsOverlayWasEmptyAndNoOtherThatIsWritten) {
  const auto can = [](BlockFixture& drive) {
    drive.device->note_revert_point();
    return drive.device->can_revert().has_value();
  };
  BlockFixture plain;
  EXPECT_FALSE(can(plain));
  BlockFixture read_only({.read_only = true});
  EXPECT_TRUE(can(read_only));
  Layered drive;
  EXPECT_TRUE(can(drive));
  EXPECT_EQ(drive.put(9, 3, 1), VIRTIO_BLK_S_OK);
  EXPECT_TRUE(drive.device->can_revert()) << "what is written since is dropped";
  EXPECT_FALSE(can(drive));
}

TEST(LayeredDrive, ASnapshotPutsItsMapOnStableStorage) {
  Layered drive;
  EXPECT_EQ(drive.put(8, 8, 1), VIRTIO_BLK_S_OK);
  ASSERT_TRUE(drive.device->sync());
  EXPECT_EQ(stored_in_layers(drive, After::PowerCut), drive.content);
  EXPECT_EQ(drive.device->state().image.size_bytes, kSectors * kSectorSize);
}

TEST(LayeredDrive, ASnapshotWhoseMapHasNoRoomFailsAndLosesNothing) {
  Layered drive;
  EXPECT_EQ(drive.put(8, 8, 1), VIRTIO_BLK_S_OK);
  {
    const FileSizeLimit full{12288};  // the headers and the volatile map
    EXPECT_FALSE(drive.device->sync());
  }
  EXPECT_FALSE(drive.device->state().lost_writes);
  ASSERT_TRUE(drive.device->sync()) << "once there is room";
  EXPECT_FALSE(drive.device->state().lost_writes);
  EXPECT_EQ(flush(drive), VIRTIO_BLK_S_OK);
  EXPECT_EQ(stored_in_layers(drive, After::PowerCut), drive.content);
}

TEST(LayeredDrive, ASnapshotsOverlayThatIsALayerNowMustBeUnchanged) {
  Layered drive;
  EXPECT_EQ(drive.put(8, 8, 1), VIRTIO_BLK_S_OK);
  ASSERT_TRUE(drive.device->sync());
  BlockDeviceState state = drive.device->state();
  drive.loop->close();
  drive.host.reset();
  drive.device.reset();
  BlockFixture clone{{.path = drive.scratch.file("clone"),
                      .base_paths = {drive.config.base_paths.front(), drive.config.path_on_host}}};
  EXPECT_EQ(clone.read(0, kSectors), drive.content);
  clone.host->reset();
  EXPECT_TRUE(clone.device->restore(state, BlockDevice::Images::Replaced));
  state.image.modified_ns -= 1;
  const auto refused = clone.device->restore(state, BlockDevice::Images::Replaced);
  ASSERT_FALSE(refused);
  EXPECT_TRUE(refused.error().message.contains("/overlay has changed since the snapshot was taken"));
  EXPECT_TRUE(clone.device->restore(state, BlockDevice::Images::MayDiffer));
}

}  // namespace
}  // namespace mayfly
