#include "jailer/root.h"

#include "tests/support/child_process.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <filesystem>

#include <gtest/gtest.h>

namespace mayfly::jailer {
namespace {

namespace fs = std::filesystem;
using mayfly::testing::ScratchDirectory;

class JailLock : public ::testing::Test {
 protected:
  [[nodiscard]] std::string path(const std::string& name) const { return scratch_.file(name); }
  [[nodiscard]] Result<OwnedFd> lock(std::string_view id) const { return lock_id(folder_.get(), path(""), id); }

 private:
  ScratchDirectory scratch_;
  OwnedFd folder_{::open(scratch_.file("").c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC)};
};

TEST_F(JailLock, IsOfOneIdAndUntilItIsClosed) {
  auto first = lock("vm-1");
  ASSERT_TRUE(first) << first.error().message;
  const auto second = lock("vm-1");
  ASSERT_FALSE(second);
  EXPECT_NE(second.error().message.find("is at work on the jail vm-1"), std::string::npos) << second.error().message;
  EXPECT_TRUE(lock("vm-2"));
  EXPECT_TRUE(lock(std::string(64, 'Z')));
  first->reset();
  EXPECT_TRUE(lock("vm-1"));
}

TEST_F(JailLock, OutlivesTheDirectoryThatItIsFor) {
  fs::create_directory(path("vm"));
  const auto held = lock("vm");
  ASSERT_TRUE(held) << held.error().message;
  fs::remove(path("vm"));
  fs::create_directory(path("vm"));
  EXPECT_FALSE(lock("vm"));
}

TEST_F(JailLock, IsNotForOtherUsersToTake) {
  ASSERT_TRUE(lock("vm"));
  struct stat file{};
  ASSERT_EQ(::stat(path(".lock").c_str(), &file), 0);
  EXPECT_EQ(file.st_mode & 07777, 0600u);
}

TEST_F(JailLock, IsNotLookedForBehindALink) {
  fs::create_symlink(path("elsewhere"), path(".lock"));
  EXPECT_FALSE(lock("vm"));
  EXPECT_FALSE(fs::exists(path("elsewhere")));
}

}  // namespace
}  // namespace mayfly::jailer
