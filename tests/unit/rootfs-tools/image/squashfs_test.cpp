#include "rootfs-tools/image/squashfs.h"

#include "rootfs-tools/image/layer.h"
#include "tests/support/child_process.h"
#include "tests/support/files.h"
#include "tests/unit/rootfs-tools/image/archives.h"
#include "vmm/base/files.h"

#include <fcntl.h>
#include <sys/mman.h>

#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <type_traits>

#include <fmt/format.h>
#include <gtest/gtest.h>
#include <sqfs/compressor.h>
#include <sqfs/dir.h>
#include <sqfs/dir_reader.h>
#include <sqfs/inode.h>
#include <sqfs/io.h>
#include <sqfs/super.h>

namespace mayfly::image {
namespace {

// What is in a squashfs is compared by the suite `images`, with programs that others wrote.

class SquashfsTest : public ::testing::Test {
 protected:
  void apply(const std::string& tar) {
    TextSource source{tar, 65536};
    const auto done = apply_layer(source, tree_, spool_, budget_, [] {});
    ASSERT_TRUE(done) << done.error().message;
  }
  std::string written(const SquashfsOptions& options = {}) {
    const OwnedFd file{::memfd_create("base", MFD_CLOEXEC)};
    const auto facts =
        write_squashfs(tree_.root(), spool_, file.get(), options, [this](std::uint64_t at) { done_ = at; });
    EXPECT_TRUE(facts) << (facts ? "" : facts.error().message);
    if (!facts) return "";
    facts_ = *facts;
    std::string text(facts->size_bytes, '\0');
    EXPECT_EQ(read_all_at(file.get(), std::as_writable_bytes(std::span{text}), 0), text.size());
    return text;
  }

  mayfly::testing::ScratchDirectory scratch_;
  FileTree tree_{ImageLimits{}};
  Spool spool_ = std::move(Spool::create(scratch_.file("."))).value();
  LayerBudget budget_{.data_bytes = std::uint64_t{1} << 40};
  SquashfsFacts facts_;
  std::uint64_t done_ = 0;
};

std::string noise(std::size_t size) {
  std::mt19937 generator{static_cast<unsigned>(size)};
  std::string text(size, '\0');
  for (char& each : text) each = static_cast<char>(generator() % 64 + (generator() % 7 == 0 ? 100 : 0));
  return text;
}

TEST_F(SquashfsTest, IsTheSameWhateverTheThreads) {
  TarBuilder tar;
  for (int number = 0; number < 200; ++number)
    tar.file("d" + std::to_string(number % 7) + "/f" + std::to_string(number),
             noise(1000 + 997 * static_cast<std::size_t>(number % 60)),
             {.uid = number % 5, .attributes = {{"user.n", std::to_string(number % 3)}}});
  tar.file("large", noise(700'000)).file("large-again", noise(700'000));
  apply(tar.finish());
  const std::string first = written({.level = 1, .threads = 1});
  for (const std::uint32_t threads : {1U, 2U, 8U, 8U})
    EXPECT_TRUE(written({.level = 1, .threads = threads}) == first) << threads;
  EXPECT_EQ(facts_.inodes, 210U);
  EXPECT_EQ(done_, facts_.data_bytes);
  EXPECT_EQ(first.substr(0, 4), "hsqs");
  EXPECT_EQ(first.size() % 4096, 0U);
  EXPECT_EQ(first.substr(8, 4), std::string(4, '\0')) << "the time of the file system itself";
}

TEST_F(SquashfsTest, MayBeEmpty) {
  EXPECT_EQ(written().size(), 4096U);
  EXPECT_EQ(facts_.inodes, 1U);
}

TEST_F(SquashfsTest, HolesCostNothing) {
  apply(TarBuilder{}.sparse("holes", std::uint64_t{256} << 20, 1 << 20, "x").finish());
  EXPECT_LT(written().size(), 20'000U);
  EXPECT_EQ(facts_.data_bytes, std::uint64_t{256} << 20);
}

TEST_F(SquashfsTest, EqualDataIsThereOnce) {
  const std::string data = noise(1 << 20);
  apply(TarBuilder{}.file("a", data).finish());
  const std::size_t once = written().size();
  apply(TarBuilder{}.file("b", data).finish());
  EXPECT_LT(written().size(), once + 4097);
}

TEST_F(SquashfsTest, HasNoMoreOwnersThanItCanCount) {
  for (std::uint32_t uid = 0; uid < 65'535; ++uid)
    ASSERT_TRUE(tree_.put(std::to_string(uid), Inode{.kind = InodeKind::Fifo, .uid = uid}));
  EXPECT_EQ(written({.level = 1}).substr(26, 2), "\xFF\xFF");
  ASSERT_TRUE(tree_.put("65535", Inode{.kind = InodeKind::Fifo, .uid = 65'535}));
  const OwnedFd file{::memfd_create("base", MFD_CLOEXEC)};
  const auto facts = write_squashfs(tree_.root(), spool_, file.get(), {.level = 1}, [](std::uint64_t) {});
  ASSERT_FALSE(facts);
  EXPECT_TRUE(facts.error().message.starts_with("the image has more owners, or larger directories"));
}

/// What stat() says of a directory, as libsquashfs reads it.
std::uint32_t links_of(int base, const char* path) {
  const auto owned = [](auto* object) {
    return std::unique_ptr<std::remove_pointer_t<decltype(object)>, void (*)(void*)>{
        object, [](void* each) { ::sqfs_destroy(each); }};
  };
  const auto file = owned(::sqfs_open_file(fmt::format("/proc/self/fd/{}", base).c_str(), SQFS_FILE_OPEN_READ_ONLY));
  sqfs_super_t super{};
  sqfs_compressor_config_t config{};
  sqfs_compressor_t* unpacker = nullptr;
  if (file == nullptr || ::sqfs_super_read(&super, file.get()) != 0 ||
      ::sqfs_compressor_config_init(&config, SQFS_COMP_ZSTD, super.block_size, SQFS_COMP_FLAG_UNCOMPRESS) != 0 ||
      ::sqfs_compressor_create(&config, &unpacker) != 0)
    return 0;
  const auto zstd = owned(unpacker);
  const auto reader = owned(::sqfs_dir_reader_create(&super, unpacker, file.get(), 0));
  sqfs_inode_generic_t* inode = nullptr;
  if (reader == nullptr || ::sqfs_dir_reader_find_by_path(reader.get(), nullptr, path, &inode) != 0) return 0;
  const std::uint32_t links =
      inode->base.type == SQFS_INODE_EXT_DIR ? inode->data.dir_ext.nlink : inode->data.dir.nlink;
  ::sqfs_free(inode);
  return links;
}

TEST_F(SquashfsTest, DirectoriesHaveTheLinksOfTheirFolders) {
  TarBuilder tar;
  tar.directory("none").directory("d/one").directory("d/two").file("d/f", "").symlink("d/l", "f");
  tar.directory("e/one", {.mode = 0755, .attributes = {{"user.a", "1"}}});
  apply(tar.directory("e", {.mode = 0755, .attributes = {{"user.a", "1"}}}).finish());
  const OwnedFd file{::memfd_create("base", MFD_CLOEXEC)};
  ASSERT_TRUE(write_squashfs(tree_.root(), spool_, file.get(), {}, [](std::uint64_t) {}));
  EXPECT_EQ(links_of(file.get(), "/"), 5U);
  EXPECT_EQ(links_of(file.get(), "none"), 2U);
  EXPECT_EQ(links_of(file.get(), "d"), 4U);
  EXPECT_EQ(links_of(file.get(), "e"), 3U) << "of an extended inode";
}

TEST_F(SquashfsTest, AFullDiskIsAnError) {
  apply(TarBuilder{}.file("a", noise(1 << 20)).finish());
  const OwnedFd full{::open("/dev/full", O_RDWR | O_CLOEXEC)};
  const auto facts = write_squashfs(tree_.root(), spool_, full.get(), {}, [](std::uint64_t) {});
  ASSERT_FALSE(facts);
  EXPECT_EQ(facts.error().message, "it cannot be written: No space left on device (ENOSPC)");
}

}  // namespace
}  // namespace mayfly::image
