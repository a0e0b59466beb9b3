#include "rootfs-tools/clones/up.h"
#include "tests/support/child_process.h"
#include "tests/support/files.h"

#include <filesystem>

#include <gtest/gtest.h>

namespace mayfly::clones {
namespace {

namespace fs = std::filesystem;
using mayfly::testing::ScratchDirectory;

/// Of clones without a jail that have ended.
class DownTest : public ::testing::Test {
 protected:
  DownTest() { fs::create_directory(place_); }
  [[nodiscard]] std::string refusal() const {
    const auto down = take_down({.id = "vm-1", .bases = {.jails = run_ / "jails", .run = run_}});
    return down ? "" : down.error().message;
  }

  ScratchDirectory scratch_;
  fs::path run_ = fs::path{scratch_.file("x")}.parent_path();
  fs::path place_ = run_ / "vm-1";
};

TEST_F(DownTest, RemovesWhatAKilledOneHasLeft) {
  EXPECT_EQ(refusal(), "");
  EXPECT_FALSE(fs::exists(place_)) << "the log goes last, and then an empty directory";
}

TEST_F(DownTest, AMachinesPlaceComesBeforeWhatARemovalHasLeft) {
  const fs::path jail = jail_directory(run_ / "jails", "vm-1");
  fs::create_directories(jail);
  testing::make_file(jail / kLog, "");
  const auto found = find_clone("vm-1", {.jails = run_ / "jails", .run = run_});
  ASSERT_TRUE(found);
  EXPECT_FALSE(found->is_left);
  EXPECT_EQ(found->jail_base, run_ / "jails");
}

TEST_F(DownTest, LeavesWhatALinkLeadsTo) {
  fs::remove(place_);
  fs::create_directory(run_ / "moved");
  testing::make_file(run_ / "moved" / kLog, "");
  testing::make_file(run_ / "moved" / kOverlay, "");
  fs::create_directory_symlink(run_ / "moved", place_);
  EXPECT_EQ(refusal(), "");
  EXPECT_FALSE(fs::exists(fs::symlink_status(place_)));
  EXPECT_TRUE(fs::exists(run_ / "moved" / kOverlay));
}

TEST_F(DownTest, RemovesWhateverIsBesideTheLog) {
  testing::make_file(place_ / kLog, "");
  fs::create_directories(place_ / "snapshots/of/its/user");
  fs::create_symlink("/", place_ / "link");
  EXPECT_EQ(refusal(), "");
  EXPECT_FALSE(fs::exists(place_));
  EXPECT_TRUE(fs::exists("/etc"));
}

TEST_F(DownTest, LeavesADirectoryThatIsNoClones) {
  testing::make_file(place_ / kOverlay, "");
  testing::make_file(place_ / "precious", "");
  EXPECT_TRUE(refusal().starts_with("mayfly up has left nothing of vm-1 in ")) << refusal();
  EXPECT_TRUE(fs::exists(place_ / kOverlay));
  EXPECT_TRUE(fs::exists(place_ / "precious"));
}

}  // namespace
}  // namespace mayfly::clones
