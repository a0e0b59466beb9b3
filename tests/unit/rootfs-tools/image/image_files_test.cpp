#include "rootfs-tools/image/image_files.h"

#include "tests/support/child_process.h"
#include "tests/support/files.h"
#include "tests/unit/rootfs-tools/image/archives.h"

#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <string>
#include <thread>

#include <gtest/gtest.h>

namespace mayfly::image {
namespace {

class ImageFilesTest : public ::testing::Test {
 protected:
  Result<ImageFiles> open(const std::string& content) {
    return ImageFiles::open(mayfly::testing::make_file(scratch_.file("image.tar"), content), {}, scratch_.file("."));
  }
  static std::string read(const Result<ImageFiles>& files, std::string_view name) {
    if (!files) return files.error().message;
    const auto text = files->read(name, 1000);
    return text ? *text : text.error().message;
  }

  mayfly::testing::ScratchDirectory scratch_;
  std::string none_ = "--image " + scratch_.file("image.tar") + " has no file '{}'; copy or fetch the image again";
};

TEST_F(ImageFilesTest, ReadsFilesOfAnArchiveWhereTheyLie) {
  const auto files = open(TarBuilder{}.file("./a", "first").file("d/b", std::string(700, 'b')).file("c", "").finish());
  EXPECT_EQ(read(files, "a"), "first");
  EXPECT_EQ(read(files, "d/b"), std::string(700, 'b'));
  EXPECT_EQ(read(files, "./d/../a"), "first");
  EXPECT_EQ(read(files, "c"), "");
  EXPECT_EQ(read(files, "none"), fmt::format(fmt::runtime(none_), "none"));
  EXPECT_TRUE(files->has("a"));
  EXPECT_FALSE(files->has("d"));
}

TEST_F(ImageFilesTest, FollowsLinksBetweenFilesOfAnArchive) {
  const auto files = open(TarBuilder{}
                              .file("one/layer.tar", "data")
                              .symlink("two/layer.tar", "../one/layer.tar")
                              .hard_link("three", "two/layer.tar")
                              .symlink("a", "b")
                              .symlink("b", "a")
                              .symlink("out", "../../etc/passwd")
                              .hard_link("hard-out", "../etc/passwd")
                              .finish());
  EXPECT_EQ(read(files, "two/layer.tar"), "data");
  EXPECT_EQ(read(files, "three"), "data");
  for (const char* const name : {"a", "out", "hard-out", "../etc/passwd"})
    EXPECT_EQ(read(files, name), fmt::format(fmt::runtime(none_), name));
}

TEST_F(ImageFilesTest, TheLastFileOfANameCounts) {
  EXPECT_EQ(read(open(TarBuilder{}.file("a", "old").file("a", "new").finish()), "a"), "new");
}

TEST_F(ImageFilesTest, UnpacksAnArchiveThatIsPacked) {
  const std::string tar = TarBuilder{}.file("a", "first").finish();
  EXPECT_EQ(read(open(gzip(tar)), "a"), "first");
  EXPECT_EQ(read(open(zstd(tar)), "a"), "first");
  EXPECT_EQ(names_in(scratch_.file(".")), std::vector<std::string>{"image.tar"}) << "its temporary file has no name";
}

TEST_F(ImageFilesTest, ReadsAPipe) {
  const std::string pipe = scratch_.file("pipe");
  ASSERT_EQ(::mkfifo(pipe.c_str(), 0600), 0);
  std::jthread writer{[&] {
    const std::string tar = TarBuilder{}.file("a", std::string(200'000, 'p')).file("b", "second").finish();
    mayfly::testing::make_file(pipe, tar);
  }};
  const auto files = ImageFiles::open(pipe, {}, scratch_.file("."));
  EXPECT_EQ(read(files, "b"), "second");
}

TEST_F(ImageFilesTest, ReadsADirectoryAndNothingOutsideOfIt) {
  write_files({{"image/a", "first"}, {"image/d/b", "second"}, {"secret", "x"}}, scratch_.file("."));
  const std::string image = scratch_.file("image");
  ASSERT_EQ(::symlink("d/b", (image + "/inside").c_str()), 0);
  ASSERT_EQ(::symlink("../secret", (image + "/outside").c_str()), 0);
  ASSERT_EQ(::mkfifo((image + "/pipe").c_str(), 0600), 0);
  const auto files = ImageFiles::open(image, {}, scratch_.file("."));
  EXPECT_EQ(read(files, "a"), "first");
  EXPECT_EQ(read(files, "inside"), "second");
  EXPECT_EQ(read(files, "none"), "--image " + image + " has no file 'none'; copy or fetch the image again");
  for (const char* const name : {"outside", "../secret", "/etc/passwd"})
    EXPECT_TRUE(read(files, name).contains("' cannot be opened: Invalid cross-device link (EXDEV)"))
        << read(files, name);
  EXPECT_EQ(read(files, "d"), "--image " + image + ": 'd' is no file");
  EXPECT_EQ(read(files, "pipe"), "--image " + image + ": 'pipe' is no file");
}

TEST_F(ImageFilesTest, SaysWhatIsWrongWithAFile) {
  const std::string tar = TarBuilder{}.file("a", std::string(5000, 'a')).finish();
  EXPECT_TRUE(read(open(tar.substr(0, 2000)), "a").contains("cut off; copy or fetch the image again"))
      << read(open(tar.substr(0, 2000)), "a");
  EXPECT_TRUE(read(open("no archive"), "a").contains("image.tar: it is no whole tar archive ("));
  EXPECT_TRUE(read(open(tar), "a").ends_with("has 5000 bytes, and 1000 are allowed; build the image anew"));
  const auto none = ImageFiles::open(scratch_.file("none"), {}, scratch_.file("."));
  EXPECT_EQ(read(none, "a"),
            "--image " + scratch_.file("none") + " cannot be opened: No such file or directory (ENOENT)");
}

TEST_F(ImageFilesTest, HasLimits) {
  const std::string tar = TarBuilder{}.file("a", "").file("b", "").finish();
  const std::string path = mayfly::testing::make_file(scratch_.file("image.tar"), tar);
  EXPECT_EQ(read(ImageFiles::open(path, {.max_files = 1}, scratch_.file(".")), "a"),
            "--image " + path + ": the archive has over 1 files; --max-files raises the limit");
  EXPECT_EQ(read(ImageFiles::open(path, {.max_metadata_bytes = 1}, scratch_.file(".")), "a"),
            "--image " + path + ": the archive's names have over 1 bytes; --max-metadata raises the limit");
  mayfly::testing::make_file(path, gzip(std::string(1 << 20, 'a')));
  EXPECT_EQ(read(ImageFiles::open(path, {.max_bytes = 1 << 19}, scratch_.file(".")), "a"),
            "--image " + path + ": the layers unpack to over 524288 bytes; --max-size raises the limit");
}

}  // namespace
}  // namespace mayfly::image
