#include "snapshot/file_pair.h"

#include "tests/support/child_process.h"
#include "tests/support/files.h"
#include "tests/unit/snapshot/file_size_limit.h"
#include "tests/unit/snapshot/no_override.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>

#include <gtest/gtest.h>

namespace mayfly {
namespace {

namespace fs = std::filesystem;
using testing::FileSizeLimit;

std::span<const std::byte> bytes_of(std::string_view text) { return std::as_bytes(std::span{text}); }

class NewFileTest : public ::testing::Test {
 protected:
  [[nodiscard]] Result<NewFile> create() const { return NewFile::create(path_, "snapshot_path"); }
  [[nodiscard]] std::string content() const { return testing::content_of(path_); }

  testing::ScratchDirectory scratch_;
  std::string path_ = scratch_.file("state");
  std::string new_ = new_name(path_);
};

TEST_F(NewFileTest, AppearsWholeUnderItsName) {
  auto file = create();
  ASSERT_TRUE(file) << file.error().message;
  EXPECT_TRUE(file->write(bytes_of("first ")));
  EXPECT_TRUE(file->write(bytes_of("second")));
  EXPECT_TRUE(file->write({}));
  EXPECT_FALSE(fs::exists(path_));
  EXPECT_TRUE(file->sync());
  EXPECT_FALSE(file->published());
  ASSERT_TRUE(file->publish());
  EXPECT_TRUE(file->published());
  EXPECT_EQ(content(), "first second");
  EXPECT_FALSE(fs::exists(new_));
  EXPECT_EQ(fs::status(path_).permissions(), fs::perms::owner_read | fs::perms::owner_write);
}

TEST_F(NewFileTest, TakesThePlaceOfAnOldOne) {
  testing::make_file(path_, "old");
  auto file = create();
  ASSERT_TRUE(file);
  ASSERT_TRUE(file->write(bytes_of("new")));
  EXPECT_EQ(content(), "old");
  ASSERT_TRUE(file->publish());
  EXPECT_EQ(content(), "new");
}

TEST_F(NewFileTest, MayLeaveWhatHasItsName) {
  {
    auto file = create();
    ASSERT_TRUE(file);
    testing::make_file(path_, "another's");
    const Status named = file->publish_unless_there();
    ASSERT_FALSE(named);
    EXPECT_EQ(named.error().message,
              "snapshot_path " + path_ + " was made by another process meanwhile; delete it, or give another path");
    EXPECT_FALSE(file->published());
  }
  EXPECT_EQ(content(), "another's");
  EXPECT_FALSE(fs::exists(new_));
  fs::remove(path_);
  auto file = create();
  ASSERT_TRUE(file && file->write(bytes_of("new")) && file->publish_unless_there());
  EXPECT_EQ(content(), "new");
}

TEST_F(NewFileTest, DroppedUnfinishedLeavesTheOldOneAndNothingElse) {
  testing::make_file(path_, "old");
  {
    auto file = create();
    ASSERT_TRUE(file && file->write(bytes_of("new")));
    EXPECT_TRUE(fs::exists(new_));
    const NewFile moved = std::move(*file);
  }
  EXPECT_EQ(content(), "old");
  EXPECT_FALSE(fs::exists(new_));
}

TEST_F(NewFileTest, CanBeKeptUnderItsTemporaryName) {
  {
    auto file = create();
    ASSERT_TRUE(file && file->write(bytes_of("new")));
    file->keep();
  }
  EXPECT_FALSE(fs::exists(path_));
  EXPECT_EQ(testing::content_of(new_), "new");
}

TEST_F(NewFileTest, WhatAnotherLeftInTheMakingIsReplaced) {
  testing::make_file(new_, "left by a machine that was killed");
  auto file = create();
  ASSERT_TRUE(file && file->write(bytes_of("new")) && file->publish());
  EXPECT_EQ(content(), "new");
}

TEST_F(NewFileTest, ALinkThatLiesInTheMakingsPlaceIsNotFollowed) {
  const std::string precious = testing::make_file(scratch_.file("precious"), "precious");
  fs::create_symlink(precious, new_);
  auto file = create();
  ASSERT_TRUE(file && file->write(bytes_of("new")) && file->publish());
  EXPECT_EQ(content(), "new");
  EXPECT_EQ(testing::content_of(precious), "precious");
}

TEST_F(NewFileTest, ALinkInItsPlaceIsReplacedAndNotFollowed) {
  const std::string precious = testing::make_file(scratch_.file("precious"), "precious");
  fs::create_symlink(precious, path_);
  auto file = create();
  ASSERT_TRUE(file && file->write(bytes_of("new")) && file->publish());
  EXPECT_FALSE(fs::is_symlink(path_));
  EXPECT_EQ(content(), "new");
  EXPECT_EQ(testing::content_of(precious), "precious");
}

TEST_F(NewFileTest, DirectoriesAndFifosInItsPlaceAreRefused) {
  fs::create_directory(path_);
  EXPECT_EQ(create().error().message, "snapshot_path " + path_ + " is there and no regular file; give another path");
  fs::remove(path_);
  ASSERT_EQ(::mkfifo(path_.c_str(), 0600), 0);
  EXPECT_EQ(create().error().message, "snapshot_path " + path_ + " is there and no regular file; give another path");
  fs::remove(path_);
  fs::create_directory(new_);
  EXPECT_EQ(create().error().message,
            "snapshot_path: cannot remove " + new_ + ", which was left there: Is a directory (EISDIR)");
}

TEST_F(NewFileTest, ADirectoryThatIsNotThereIsNamed) {
  const std::string path = scratch_.file("no/state");
  EXPECT_EQ(NewFile::create(path, "mem_file_path").error().message,
            "mem_file_path " + path + ": nothing can be made in its directory " + scratch_.file("no/") +
                ": No such file or directory (ENOENT)");
}

TEST_F(NewFileTest, AFailureToNameItRemovesIt) {
  auto file = create();
  ASSERT_TRUE(file && file->write(bytes_of("new")));
  fs::create_directory(path_);
  EXPECT_FALSE(file->publish());
  EXPECT_FALSE(file->published());
  file = std::unexpected(Error{});
  EXPECT_FALSE(fs::exists(new_));
}

TEST_F(NewFileTest, AFullDiskLeavesTheOldFile) {
  testing::make_file(path_, "old");
  {
    auto file = create();
    ASSERT_TRUE(file);
    const FileSizeLimit limit{4096};
    const std::string large(10'000, 'x');
    const auto written = file->write(bytes_of(large));
    ASSERT_FALSE(written);
    EXPECT_EQ(written.error().message, "snapshot_path " + path_ + ": cannot write: File too large (EFBIG)");
  }
  EXPECT_EQ(content(), "old");
  EXPECT_FALSE(fs::exists(new_));
}

// --- Several processes -----------------------------------------------------------------------------------------------

TEST_F(NewFileTest, OneThatAnotherWritesIsRefusedUntilThatOneHasEnded) {
  auto first = create();
  ASSERT_TRUE(first && first->write(bytes_of("first")));
  EXPECT_EQ(create().error().message, "snapshot_path " + path_ + ": another process is writing it, and has locked " +
                                          new_ + "; wait for that one, or give another path");
  EXPECT_TRUE(first->in_place());
  ASSERT_TRUE(first->publish());
  EXPECT_EQ(content(), "first");
  auto second = create();
  ASSERT_TRUE(second && second->write(bytes_of("second")) && second->publish());
  EXPECT_EQ(content(), "second");
}

TEST_F(NewFileTest, OneThatCannotBeLockedIsLeft) {
  testing::make_file(new_, "of another user, who writes it");
  fs::permissions(new_, fs::perms::none);
  const testing::NoOverride modes_hold;
  const auto file = create();
  ASSERT_FALSE(file);
  EXPECT_EQ(file.error().message, "snapshot_path " + path_ + ": " + new_ +
                                      " is there and cannot be opened; remove it, or give another path: Permission "
                                      "denied (EACCES)");
  EXPECT_TRUE(fs::exists(new_));
}

TEST_F(NewFileTest, ALockThatCannotBeHadIsNotTaken) {
  testing::make_file(path_, "");
  const OwnedFd writable{::open(path_.c_str(), O_RDWR | O_CLOEXEC)};
  const OwnedFd other{::open(path_.c_str(), O_RDWR | O_CLOEXEC)};
  const OwnedFd readable{::open(path_.c_str(), O_RDONLY | O_CLOEXEC)};  // EBADF, as ENOLCK is neither's
  EXPECT_EQ(lock_new_file(writable.get()), FileLock::Taken);
  EXPECT_EQ(lock_new_file(other.get()), FileLock::Held);
  EXPECT_EQ(lock_new_file(readable.get()), FileLock::Unavailable);
}

TEST_F(NewFileTest, OneThatWasReplacedIsNotGivenItsNameAndTheOthersIsLeft) {
  testing::make_file(path_, "old");
  {
    auto file = create();
    ASSERT_TRUE(file && file->write(bytes_of("new")));
    fs::remove(new_);
    testing::make_file(new_, "another's");
    EXPECT_FALSE(file->in_place());
    EXPECT_EQ(file->publish().error().message,
              "snapshot_path " + path_ + ": " + new_ + " was removed or replaced while it was written; try again");
    EXPECT_FALSE(file->published());
  }
  EXPECT_EQ(content(), "old");
  EXPECT_EQ(testing::content_of(new_), "another's");
}

TEST_F(NewFileTest, SpellingsOfOnePathClash) {
  fs::create_directory(scratch_.file("sub"));
  fs::create_directory_symlink("sub", scratch_.file("alias"));
  const auto clash = [this](const std::string& a, const std::string& b) {
    return paths_clash(scratch_.file(a), scratch_.file(b)) && paths_clash(scratch_.file(b), scratch_.file(a));
  };
  EXPECT_TRUE(clash("s", "s"));
  EXPECT_TRUE(clash("s", "./s"));
  EXPECT_TRUE(clash("s", "sub/../s"));
  EXPECT_TRUE(clash("sub/s", "alias/s"));
  EXPECT_TRUE(clash("s", "s.mayfly-new"));
  EXPECT_TRUE(clash("sub/s.mayfly-new", "alias/s"));
  EXPECT_FALSE(clash("s", "sub/s"));
  EXPECT_FALSE(clash("s", "t"));
  EXPECT_FALSE(clash("none/s", "none/t"));
  EXPECT_TRUE(paths_clash("s", "./s"));
  testing::make_file(scratch_.file("s"), "");
  fs::create_symlink("s", scratch_.file("link"));
  EXPECT_TRUE(clash("s", "link"));
}

// --- Pairs -----------------------------------------------------------------------------------------------------------

/// A new pair in the place of an old one.
class NewPair : public ::testing::Test {
 protected:
  NewPair() {
    for (NewFile* file : {&*memory_, &*state_}) EXPECT_TRUE(file->write(bytes_of("new")));
  }
  testing::ScratchDirectory scratch_;
  std::string memory_path_ = testing::make_file(scratch_.file("memory"), "old");
  std::string state_path_ = testing::make_file(scratch_.file("state"), "old");
  Result<NewFile> memory_ = NewFile::create(memory_path_, "mem_file_path");
  Result<NewFile> state_ = NewFile::create(state_path_, "snapshot_path");
};

TEST_F(NewPair, GetsBothNames) {
  const PairOutcome outcome = publish_pair(*memory_, *state_);
  EXPECT_TRUE(outcome.counts && outcome.status);
  EXPECT_EQ(testing::content_of(memory_path_) + testing::content_of(state_path_), "newnew");
}

TEST_F(NewPair, WithoutItsMemoryChangesNothing) {
  fs::remove(new_name(memory_path_));
  const PairOutcome outcome = publish_pair(*memory_, *state_);
  EXPECT_FALSE(outcome.counts);
  EXPECT_EQ(outcome.status.error().message,
            new_name(memory_path_) + " was removed or replaced while it was written; try again");
  EXPECT_EQ(testing::content_of(memory_path_) + testing::content_of(state_path_), "oldold");
}

TEST_F(NewPair, WhoseMemoryCannotBeNamedCountsAndSaysWhereItIs) {
  fs::remove(memory_path_);
  fs::create_directory(memory_path_);
  const PairOutcome outcome = publish_pair(*memory_, *state_);
  EXPECT_TRUE(outcome.counts);
  EXPECT_TRUE(outcome.status.error().message.starts_with("the new snapshot is in place, and its memory is " +
                                                         new_name(memory_path_)))
      << outcome.status.error().message;
  EXPECT_EQ(testing::content_of(new_name(memory_path_)) + testing::content_of(state_path_), "newnew");
}

TEST_F(NewFileTest, NoDescriptorStaysOpen) {
  const std::size_t before = testing::open_descriptors();
  {
    auto file = create();
    ASSERT_TRUE(file && file->publish());
  }
  {
    auto dropped = create();
  }
  EXPECT_EQ(testing::open_descriptors(), before);
}

}  // namespace
}  // namespace mayfly
