#include "jailer/directories.h"

#include "tests/support/child_process.h"
#include "tests/support/files.h"

#include <fcntl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>

#include <gtest/gtest.h>

namespace mayfly::jailer {
namespace {

namespace fs = std::filesystem;
using mayfly::testing::ScratchDirectory;

class JailDirectories : public ::testing::Test {
 protected:
  [[nodiscard]] std::string path(const std::string& name) const { return scratch_.file(name); }
  [[nodiscard]] OwnedFd open_scratch() const { return OwnedFd{::open(path("").c_str(), O_RDONLY | O_DIRECTORY)}; }
  /// The error of a walk.
  [[nodiscard]] static std::string refusal(const std::string& path) {
    const auto opened = open_trusted("--chroot-base-dir", path);
    return opened ? "" : opened.error().message;
  }
  static bool has(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

 private:
  ScratchDirectory scratch_;
};

TEST_F(JailDirectories, AreWalkedNameByName) {
  fs::create_directories(path("a/b"));
  const auto opened = open_trusted("--chroot-base-dir", path("a//./b/"));
  ASSERT_TRUE(opened) << opened.error().message;
  struct stat walked{}, known{};
  ASSERT_EQ(::fstat(opened->get(), &walked), 0);
  ASSERT_EQ(::stat(path("a/b").c_str(), &known), 0);
  EXPECT_EQ(walked.st_ino, known.st_ino);
}

TEST_F(JailDirectories, BehindALinkAreRefused) {
  fs::create_directories(path("real/base"));
  fs::create_directory_symlink(path("real"), path("link"));
  EXPECT_TRUE(has(refusal(path("link")), "/link is a symbolic link"));
  EXPECT_TRUE(has(refusal(path("link/base")), "/link is a symbolic link"));
}

TEST_F(JailDirectories, ThatAreNoneAreRefused) {
  mayfly::testing::make_file(path("file"), "");
  EXPECT_TRUE(has(refusal(path("file")), "is not a directory"));
  EXPECT_TRUE(has(refusal(path("nothing")), "there is no directory"));
  EXPECT_TRUE(has(refusal("relative"), "must be an absolute path"));
  EXPECT_TRUE(has(refusal(""), "must be an absolute path"));
  EXPECT_TRUE(has(refusal(path("a/../b")), "there is no directory"));
  EXPECT_TRUE(has(refusal("/tmp/../etc"), "must not contain '..'"));
}

TEST_F(JailDirectories, ThatOthersCanChangeAreRefused) {
  fs::create_directory(path("open"));
  fs::create_directory(path("open/below"));
  fs::permissions(path("open"), fs::perms::all);
  EXPECT_TRUE(has(refusal(path("open/below")), "/open can be written to by others"));
  // As /tmp is.
  fs::permissions(path("open"), fs::perms::all | fs::perms::sticky_bit);
  EXPECT_EQ(refusal(path("open/below")), "");
}

TEST_F(JailDirectories, OfOtherUsersAreRefused) {
  if (::geteuid() != 0) GTEST_SKIP() << "only root can give a directory away";
  fs::create_directory(path("given"));
  ASSERT_EQ(::chown(path("given").c_str(), 1234, 1234), 0);
  EXPECT_TRUE(has(refusal(path("given")), "belongs to the user 1234"));
}

TEST_F(JailDirectories, AreMadeOrOpenedAndOnlyWhatWasMadeIsTakenBack) {
  const OwnedFd scratch = open_scratch();
  fs::create_directory(path("old"));
  Undo undo;
  ASSERT_TRUE(make_directory(scratch.get(), "old", 0755, path("old"), undo));
  {
    const auto made = make_directory(scratch.get(), "new", 0755, path("new"), undo);
    ASSERT_TRUE(made);
    ASSERT_TRUE(make_directory(made->get(), "inner", 0755, path("new/inner"), undo));
  }
  EXPECT_TRUE(fs::exists(path("new/inner")));
  undo.run();
  EXPECT_FALSE(fs::exists(path("new")));
  EXPECT_TRUE(fs::exists(path("old")));
}

TEST_F(JailDirectories, AreNotMadeThroughALink) {
  fs::create_directory(path("elsewhere"));
  fs::create_directory_symlink(path("elsewhere"), path("vm"));
  fs::create_symlink(path("nowhere"), path("dangling"));
  const OwnedFd scratch = open_scratch();
  Undo undo;
  for (const std::string name : {"vm", "dangling"}) {
    const auto made = make_directory(scratch.get(), name, 0755, path(name), undo);
    ASSERT_FALSE(made);
    EXPECT_TRUE(has(made.error().message, "is a symbolic link"));
  }
  undo.run();
  EXPECT_TRUE(fs::is_symlink(path("vm")));
  EXPECT_FALSE(fs::exists(path("nowhere")));
}

TEST_F(JailDirectories, AreRemovedWithAllInThemAndNothingBehindLinks) {
  fs::create_directories(path("jail/root/dev/net"));
  fs::create_directory(path("outside"));
  mayfly::testing::make_file(path("outside/precious"), "");
  mayfly::testing::make_file(path("jail/root/file"), "");
  fs::create_directory_symlink(path("outside"), path("jail/root/way-out"));
  const OwnedFd scratch = open_scratch();
  const auto removed = remove_tree(scratch.get(), "jail", path("jail"));
  ASSERT_TRUE(removed) << removed.error().message;
  EXPECT_FALSE(fs::exists(path("jail")));
  EXPECT_TRUE(fs::exists(path("outside/precious")));
  EXPECT_TRUE(remove_tree(scratch.get(), "jail", path("jail"))) << "nothing to remove is no error";
}

TEST_F(JailDirectories, AreRemovedThoughTheyAreNestedDeeperThanFilesCanBeOpen) {
  constexpr int kDepth = 300;
  fs::create_directories(path("jail/moved-up-0"));  // as of a removal that was not finished
  mayfly::testing::make_file(path("jail/moved-up-0/file"), "");
  {
    OwnedFd at{::open(path("jail").c_str(), O_RDONLY | O_DIRECTORY)};
    for (int level = 0; level < kDepth; ++level) {
      ASSERT_EQ(::mkdirat(at.get(), "deeper", 0755), 0);
      ASSERT_EQ(::mkdirat(at.get(), "beside", 0755), 0);
      at = OwnedFd{::openat(at.get(), "deeper", O_RDONLY | O_DIRECTORY)};
    }
  }
  const OwnedFd scratch = open_scratch();
  rlimit before{};
  ASSERT_EQ(::getrlimit(RLIMIT_NOFILE, &before), 0);
  const rlimit fewer{.rlim_cur = 200, .rlim_max = before.rlim_max};
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &fewer), 0);
  const auto removed = remove_tree(scratch.get(), "jail", path("jail"));
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &before), 0);
  EXPECT_TRUE(removed) << removed.error().message;
  EXPECT_FALSE(fs::exists(path("jail")));
}

TEST_F(JailDirectories, LeaveNoDescriptorOpen) {
  const std::size_t before = mayfly::testing::open_descriptors();
  {
    const OwnedFd scratch = open_scratch();
    Undo undo;
    ASSERT_TRUE(make_directory(scratch.get(), "vm", 0755, path("vm"), undo));
    ASSERT_TRUE(open_trusted("--chroot-base-dir", path("vm")));
    ASSERT_TRUE(remove_tree(scratch.get(), "vm", path("vm")));
  }
  EXPECT_EQ(mayfly::testing::open_descriptors(), before);
}

TEST(JailFileName, IsOneNameAndNoWayElsewhere) {
  EXPECT_TRUE(is_file_name("mayfly"));
  EXPECT_TRUE(is_file_name("..."));
  EXPECT_TRUE(is_file_name(std::string(255, 'a')));
  for (const std::string_view bad : {"", ".", "..", "a/b", "/"}) EXPECT_FALSE(is_file_name(bad)) << bad;
  EXPECT_FALSE(is_file_name(std::string_view{"a\0", 2}));
  EXPECT_FALSE(is_file_name(std::string(256, 'a')));
  EXPECT_EQ(last_name("/usr/bin/mayfly"), "mayfly");
  EXPECT_EQ(last_name("mayfly"), "mayfly");
  EXPECT_EQ(last_name("/usr/"), "");
}

}  // namespace
}  // namespace mayfly::jailer
