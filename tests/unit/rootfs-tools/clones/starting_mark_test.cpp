#include "rootfs-tools/clones/starting_mark.h"

#include "rootfs-tools/clones/places.h"
#include "tests/support/child_process.h"
#include "tests/support/files.h"

#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <filesystem>
#include <functional>

#include <gtest/gtest.h>

namespace mayfly::clones {
namespace {

namespace fs = std::filesystem;
using mayfly::testing::ScratchDirectory;

class StartingMarkTest : public ::testing::Test {
 protected:
  /// Another process does this, and is killed at the end of it.
  static void killed_after(const std::function<void()>& begin) {
    const pid_t child = ::fork();
    if (child == 0) {
      begin();
      ::kill(::getpid(), SIGKILL);
    }
    ASSERT_GT(child, 0);
    int status = 0;
    ASSERT_EQ(::waitpid(child, &status, 0), child);
    ASSERT_TRUE(WIFSIGNALED(status));
  }
  void clear() const { clear_half_made(run_, "/none/mayfly-jailer"); }
  [[nodiscard]] bool has_marks() const { return !fs::is_empty(run_ / ".starting"); }

  ScratchDirectory scratch_;
  fs::path run_ = fs::path{scratch_.file("x")}.parent_path();
};

TEST_F(StartingMarkTest, ACloneThatIsBeingStartedIsLeftAlone) {
  auto mark = StartingMark::make(run_, "vm-1", "");
  ASSERT_TRUE(mark) << mark.error().message;
  fs::create_directory(run_ / "vm-1");
  ASSERT_TRUE(mark->directory_is_made());
  clear();
  EXPECT_TRUE(fs::exists(run_ / "vm-1"));
  const auto again = StartingMark::make(run_, "vm-1", "");
  ASSERT_FALSE(again);
  EXPECT_TRUE(again.error().message.starts_with("another mayfly up starts vm-1")) << again.error().message;
  mark->remove();
  EXPECT_FALSE(has_marks());
  clear();
  EXPECT_TRUE(fs::exists(run_ / "vm-1")) << "it is up";
}

TEST_F(StartingMarkTest, WhatAKilledStartHasLeftIsRemoved) {
  killed_after([this] {
    const auto mark = StartingMark::make(run_, "vm-1", "");
    ::kill(::getpid(), SIGKILL);
  });
  EXPECT_TRUE(has_marks());
  clear();
  EXPECT_FALSE(has_marks()) << "nothing but the mark";

  killed_after([this] {
    const auto mark = StartingMark::make(run_, "vm-2", "");
    fs::create_directory(run_ / "vm-2");
    ::kill(::getpid(), SIGKILL);
  });
  clear();
  EXPECT_FALSE(fs::exists(run_ / "vm-2")) << "an empty directory";

  killed_after([this] {
    auto mark = StartingMark::make(run_, "vm-3", "");
    fs::create_directory(run_ / "vm-3");
    (void)mark->directory_is_made();
    testing::make_file(run_ / "vm-3" / kLog, "");
    ::kill(::getpid(), SIGKILL);
  });
  clear();
  EXPECT_FALSE(fs::exists(run_ / "vm-3"));
  EXPECT_FALSE(has_marks());
}

TEST_F(StartingMarkTest, AnotherClonesDirectoryOfTheSameNameStays) {
  fs::create_directory(run_ / "vm-1");
  testing::make_file(run_ / "vm-1" / kLog, "of one that is up");
  killed_after([this] {
    const auto mark = StartingMark::make(run_, "vm-1", "");
    ::kill(::getpid(), SIGKILL);  // before it sees that the directory is there
  });
  clear();
  EXPECT_EQ(testing::content_of(run_ / "vm-1" / kLog), "of one that is up");
  EXPECT_FALSE(has_marks());
}

TEST_F(StartingMarkTest, WhatCannotBeRemovedKeepsItsMark) {
  const fs::path jails = run_ / "jails";
  fs::create_directories(jail_directory(jails, "vm-1"));
  killed_after([&] {
    auto mark = StartingMark::make(run_, "vm-1", jails);
    (void)mark->directory_is_made();
    ::kill(::getpid(), SIGKILL);
  });
  clear();  // there is no such jailer
  EXPECT_TRUE(has_marks());
  fs::remove_all(jails);
  clear();
  EXPECT_FALSE(has_marks());
}

TEST_F(StartingMarkTest, WhatOthersMayHaveWrittenIsNotBelieved) {
  fs::create_directory(run_ / "vm-1");
  fs::create_directory(run_ / ".starting");
  testing::make_file(run_ / ".starting/vm-1", "\nmade\n");
  ASSERT_EQ(::chmod(run_.c_str(), 0777), 0);
  clear();
  EXPECT_TRUE(fs::exists(run_ / "vm-1"));
  ASSERT_EQ(::chmod(run_.c_str(), 0755), 0);
  clear();
  EXPECT_FALSE(fs::exists(run_ / "vm-1"));
}

TEST_F(StartingMarkTest, ALinkIsNoMark) {
  const std::string elsewhere = testing::make_file(scratch_.file("elsewhere"), "/etc\nmade\n");
  fs::create_directory(run_ / ".starting");
  fs::create_symlink(elsewhere, run_ / ".starting/vm-1");
  clear();
  EXPECT_TRUE(fs::is_symlink(run_ / ".starting/vm-1"));
}

}  // namespace
}  // namespace mayfly::clones
