#include "vmm/machine/snapshot_paths.h"

#include "snapshot/host_cpu.h"
#include "snapshot/state_file.h"
#include "tests/support/child_process.h"
#include "tests/support/files.h"
#include "tests/unit/snapshot/filled_snapshot.h"
#include "vmm/machine/controller.h"

#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>

#include <gtest/gtest.h>

namespace mayfly {
namespace {

using testing::make_file;
using testing::ScratchDirectory;

/// A directory `pair` with a state file, and one beside it that nobody named.
class SnapshotPathsTest : public ::testing::Test {
 protected:
  SnapshotPathsTest() {
    std::filesystem::create_directories(file("pair/below/deeper"));
    std::filesystem::create_directories(file("elsewhere"));
    make_file(file("elsewhere/secret"), std::string(512, 's'));
    make_file(file("pair/image"), std::string(512, 'i'));
    make_file(file("pair/below/deeper/image"), std::string(512, 'i'));
    params_.snapshot_path = make_file(file("pair/state"), "");
    params_.paths = StatePaths::Named;
  }

  [[nodiscard]] std::string file(const std::string& name) const { return scratch_.file(name); }
  void link(const std::string& target, const std::string& name) const {
    ASSERT_EQ(::symlink(target.c_str(), file(name).c_str()), 0);
  }
  static Snapshot with_drive(const std::string& path, bool read_only = false) {
    Snapshot snapshot;
    snapshot.drives.emplace_back();
    snapshot.drives.back().config = {.drive_id = "data", .path_on_host = path, .is_read_only = read_only};
    return snapshot;
  }
  [[nodiscard]] std::string refusal(const Snapshot& snapshot) const {
    const auto checked = check_named_paths(snapshot, params_);
    return checked ? "" : checked.error().message;
  }
  [[nodiscard]] bool is_beside(const std::string& path) const {
    const auto checked = check_named_paths(with_drive(path), params_);
    return checked && checked->size() == 1 && checked->front().path == path;
  }

  ScratchDirectory scratch_;
  SnapshotLoadParams params_;
};

TEST_F(SnapshotPathsTest, ARegularFileInTheStatesDirectoryOrBelowIsBeside) {
  EXPECT_TRUE(is_beside(file("pair/image")));
  EXPECT_TRUE(is_beside(file("pair/below/deeper/image")));
  EXPECT_TRUE(is_beside(file("pair//below///deeper/image")));
}

TEST_F(SnapshotPathsTest, LinksAboveTheDirectoryDoNotMatter) {
  link(file("pair"), "alias");
  EXPECT_TRUE(is_beside(file("alias/image")));
  EXPECT_TRUE(is_beside(file("elsewhere/../pair/image")));
  EXPECT_TRUE(is_beside(file("pair/below/../image")));
  params_.snapshot_path = file("alias/state");
  EXPECT_TRUE(is_beside(file("pair/image")));
}

TEST_F(SnapshotPathsTest, WhatIsNamedWithoutADirectoryIsInTheWorkingDirectory) {
  const std::filesystem::path before = std::filesystem::current_path();
  std::filesystem::current_path(file("pair"));
  params_.snapshot_path = "state";
  EXPECT_TRUE(is_beside("image"));
  EXPECT_TRUE(is_beside("./below/deeper/image"));
  EXPECT_TRUE(is_beside(file("pair/image")));
  EXPECT_FALSE(is_beside("../elsewhere/secret"));
  std::filesystem::current_path(before);
}

TEST_F(SnapshotPathsTest, NoWayOutOfTheDirectoryIsBeside) {
  link(file("elsewhere/secret"), "pair/link");
  link("../elsewhere", "pair/way-out");
  link("image", "pair/link-within");
  for (const char* const name :
       {"elsewhere/secret", "pair/../elsewhere/secret", "pair/below/../../elsewhere/secret", "pair/link",
        "pair/way-out/secret", "pair/link-within", "pair/missing", "pair/below", "pair"})
    EXPECT_FALSE(is_beside(file(name))) << name;
  for (const char* const path : {"/etc/passwd", "/dev/null", "/proc/self/mem", "", "/", ".", ".."})
    EXPECT_FALSE(is_beside(path)) << path;
}

TEST_F(SnapshotPathsTest, WhatIsNoRegularFileIsNeverBeside) {
  ASSERT_EQ(::mkfifo(file("pair/fifo").c_str(), 0600), 0);
  EXPECT_FALSE(is_beside(file("pair/fifo")));
  params_.snapshot_path = "/dev/state";
  EXPECT_FALSE(is_beside("/dev/null"));
}

TEST_F(SnapshotPathsTest, OneRefusalListsAllAndSaysWhatWouldBeWrittenTo) {
  Snapshot snapshot = with_drive("/dev/sda");
  snapshot.drives.push_back(with_drive("/etc/shadow", true).drives.front());
  snapshot.drives.back().config.drive_id = "second";
  snapshot.drives.push_back(with_drive(file("pair/image")).drives.front());
  snapshot.drives.back().config.drive_id = "third";
  snapshot.network_interfaces.emplace_back();
  snapshot.network_interfaces.back().config = {.iface_id = "eth0", .host_dev_name = "tap9"};
  EXPECT_EQ(
      refusal(snapshot),
      "snapshot_path " + params_.snapshot_path +
          " names what does not lie beside it: drive data (/dev/sda, to be written to), drive second "
          "(/etc/shadow, to be read), network interface eth0 (TAP tap9); name what each is to have by "
          "drive_overrides, network_overrides and channel_overrides (mayfly restore: --drive ID=PATH, --tap "
          "ID=NAME, --channel PORT=PATH), or trust whoever made the snapshot: set paths to Trusted (--trust-paths)");
}

TEST_F(SnapshotPathsTest, WhatAnOverrideNamesIsAsked) {
  Snapshot snapshot = with_drive("/dev/sda");
  snapshot.network_interfaces.emplace_back();
  snapshot.network_interfaces.back().config = {.iface_id = "eth0", .host_dev_name = "tap9"};
  params_.drive_overrides = {{.drive_id = "data", .path_on_host = "/my/copy"}};
  EXPECT_NE(refusal(snapshot).find("beside it: network interface eth0 (TAP tap9);"), std::string::npos);
  params_.network_overrides = {{.iface_id = "eth0", .host_dev_name = "tap1"}};
  EXPECT_EQ(refusal(snapshot), "");
}

TEST_F(SnapshotPathsTest, AnInterfaceWithoutATapNamesNone) {
  Snapshot snapshot;
  snapshot.network_interfaces.emplace_back();
  snapshot.network_interfaces.back().config = {.iface_id = "eth0"};
  EXPECT_EQ(refusal(snapshot), "");
}

TEST_F(SnapshotPathsTest, LayersAreAskedForUnlessAnOverrideNamesThem) {
  Snapshot snapshot = with_drive(file("pair/image"));
  snapshot.drives[0].config.base_paths = {"/base", file("pair/below/deeper/image")};
  const auto asked = [&] { return refusal(snapshot).contains("beside it: drive data (/base, to be read);"); };
  EXPECT_TRUE(asked());
  params_.drive_overrides = {{.drive_id = "data", .path_on_host = file("pair/new")}};
  EXPECT_TRUE(asked()) << "the layers are those that the state names";
  // An overlay that is to be made has the state's own below it.
  snapshot.drives[0].config.path_on_host = "/overlay";
  EXPECT_TRUE(refusal(snapshot).contains("drive data (/base, to be read), drive data (/overlay, to be read);"));
  params_.drive_overrides[0].path_on_host = make_file(file("pair/new"), "");
  EXPECT_TRUE(asked()) << "it is there, and replaces the state's";
  params_.drive_overrides[0].base_paths = {"/mine"};
  EXPECT_EQ(refusal(snapshot), "");
}

TEST_F(SnapshotPathsTest, TrustedAsksNothing) {
  params_.paths = StatePaths::Trusted;
  params_.snapshot_path = "/nowhere/state";
  EXPECT_EQ(refusal(with_drive("/dev/sda")), "");
}

TEST_F(SnapshotPathsTest, AnImageThatIsReplacedBetweenTheLookAndTheOpenIsNotTouched) {
  for (const bool layered : {false, true}) {
    Snapshot snapshot = with_drive(file("pair/image"));
    DriveConfig& drive = snapshot.drives[0].config;
    if (layered) {
      drive.base_paths = {make_file(file("pair/base"), std::string(1 << 20, 'b'))};
      drive.path_on_host = file("pair/top");
      auto made = DiskImage::open(drive);
      ASSERT_TRUE(made) << made.error().message;
      made->keep();
    }
    const auto beside = check_named_paths(snapshot, params_);
    ASSERT_TRUE(beside) << beside.error().message;
    const auto refusal = [&] {
      const auto opened = DiskImage::open(drive, *beside);
      return opened ? "" : opened.error().message;
    };
    EXPECT_EQ(refusal(), "");
    const std::string victim = make_file(file("elsewhere/empty"), "");
    std::filesystem::remove(drive.path_on_host);
    std::filesystem::create_symlink(victim, drive.path_on_host);
    const std::string replaced = "drive data: path_on_host " + drive.path_on_host + " was replaced by another file";
    EXPECT_TRUE(refusal().starts_with(replaced)) << refusal();
    EXPECT_EQ(std::filesystem::file_size(victim), 0U);
    // A directory on the way may have become a link.
    std::filesystem::remove(drive.path_on_host);
    EXPECT_NE(refusal(), "");
    EXPECT_FALSE(std::filesystem::exists(drive.path_on_host));
    if (!layered) continue;
    std::filesystem::create_symlink(victim, drive.path_on_host);
    std::filesystem::rename(drive.base_paths.front(), file("pair/was"));
    std::filesystem::create_symlink(file("elsewhere/secret"), drive.base_paths.front());
    EXPECT_NE(refusal().find("base_path"), std::string::npos) << refusal();
  }
}

TEST_F(SnapshotPathsTest, ALoadByTheControllerIsRefusedBeforeAnythingElseIsLookedAt) {
  Snapshot snapshot = testing::filled_snapshot();
  snapshot.host = this_host_cpu();
  snapshot.drives.resize(1);
  snapshot.drives[0].config = with_drive(file("elsewhere/secret")).drives[0].config;
  snapshot.network_interfaces.clear();
  snapshot.mmds.reset();
  snapshot.channels.clear();
  const auto encoded = encode_snapshot(snapshot);
  params_.snapshot_path =
      make_file(file("pair/state"), {reinterpret_cast<const char*>(encoded.data()), encoded.size()});
  params_.backend_paths = {file("pair/memory")};
  auto loop = EventLoop::create();
  ASSERT_TRUE(loop);
  Log log{"unit"};
  Metrics metrics;
  Controller controller{**loop, log, metrics, {.id = "unit"}};
  const auto answer = [&](StatePaths paths) {
    params_.paths = paths;
    auto carried_out = controller.carry_out(LoadSnapshot{params_});
    return carried_out ? "" : carried_out.error().message;
  };
  EXPECT_NE(answer(StatePaths::Named).find("drive data (" + file("elsewhere/secret") + ", to be written to)"),
            std::string::npos)
      << answer(StatePaths::Named);
  EXPECT_NE(answer(StatePaths::Trusted).find("pair/memory"), std::string::npos)
      << "as the dialect has it, and then the memory is missing";
}

}  // namespace
}  // namespace mayfly
