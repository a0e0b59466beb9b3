// Drives that a snapshot freezes: clones run beside the machine that goes on.

#include "tests/integration/layered_fixture.h"
#include "tests/support/child_process.h"

#include <sys/stat.h>
#include <unistd.h>

#include <csignal>
#include <filesystem>

namespace mayfly::testing {
namespace {

namespace fs = std::filesystem;

class FreezeTest : public LayeredTest {
 protected:
  [[nodiscard]] HttpAnswer freeze(Monitor& monitor, const std::string& name, const std::string& frozen,
                                  const std::string& memory = {}) const {
    return monitor.put("/snapshot/create",
                       R"({"snapshot_path": ")" + file(name + ".state") + R"(", "mem_file_path": ")" +
                           (memory.empty() ? file(name + ".mem") : memory) +
                           R"(", "frozen_drives": [{"drive_id": "data", "path_on_host": ")" + file(frozen) + R"("}]})");
  }
  /// A machine whose guest writes, paused.
  void start(Monitor& monitor, const std::string& drive) const {
    must(monitor.put("/drives/data", drive));
    monitor.boot("block", "console=ttyS0 until_key=1");
    monitor.console_until("round 2 done");
    pause(monitor);
  }
};

TEST_F(FreezeTest, ClonesRunBesideTheMachine) {
  Monitor machine;
  start(machine, drive("overlay"));
  must(freeze(machine, "one", "one.frozen"));
  resume(machine);
  const std::string frozen = content_of(file("one.frozen"));
  const std::string config = machine.get("/vm/config").body;
  EXPECT_NE(config.find(R"("base_paths":[")" + base_ + R"(",")" + file("one.frozen") + '"'), std::string::npos)
      << config;
  EXPECT_NE(config.find(R"("path_on_host":")" + file("overlay") + '"'), std::string::npos) << config;
  Monitor clones[3];
  for (int i = 0; i < 3; ++i) must(load(clones[i], "one.state", "one.mem", overridden("clone" + std::to_string(i))));
  machine.console_more();
  // Once more, and clones of that.
  pause(machine);
  must(freeze(machine, "two", "two.frozen"));
  resume(machine);
  Monitor later[2];
  for (int i = 0; i < 2; ++i) must(load(later[i], "two.state", "two.mem", overridden("later" + std::to_string(i))));
  const auto all = {&machine, &clones[0], &clones[1], &clones[2], &later[0], &later[1]};
  for (Monitor* const each : all) each->console_until("round ");  // each writes beside the others
  for (Monitor* const each : all) each->type("q");
  for (Monitor* const each : all) expect_pass(*each);
  EXPECT_TRUE(content_of(file("one.frozen")) == frozen) << "a layer is only read";
  expect_base_unchanged();
  // The machine's drive is started again with its layers, and no longer without.
  Monitor again;
  const HttpAnswer refused = again.put("/drives/data", drive("overlay"));
  EXPECT_EQ(refused.status, 400);
  EXPECT_NE(refused.body.find("give the layers that it was made over"), std::string::npos) << refused.body;
  must(again.put("/drives/data", R"({"drive_id": "data", "is_root_device": false, "base_paths": [")" + base_ +
                                     R"(", ")" + file("one.frozen") + R"(", ")" + file("two.frozen") +
                                     R"("], "path_on_host": ")" + file("overlay") + "\"}"));
}

TEST_F(FreezeTest, AFrozenOneThatAMachineUsesIsNobodysOverlay) {
  Monitor machine;
  start(machine, drive("overlay"));
  must(freeze(machine, "one", "one.frozen"));
  Monitor itself;
  const HttpAnswer refused = load(itself, "one.state", "one.mem");
  EXPECT_EQ(refused.status, 400);
  EXPECT_NE(refused.body.find("one.frozen is in use by"), std::string::npos) << refused.body;
  machine.signal(SIGTERM);
  (void)machine.wait();
  // Nor later: the machine's own overlay lies over it.
  Monitor then;
  const HttpAnswer still = load(then, "one.state", "one.mem");
  EXPECT_EQ(still.status, 400);
  EXPECT_NE(still.body.find("was frozen as a layer"), std::string::npos) << still.body;
  must(load(then, "one.state", "one.mem", overridden("clone")));
  then.type("q");
  expect_pass(then);
  Monitor again;
  must(again.put("/drives/data", R"({"drive_id": "data", "is_root_device": false, "base_paths": [")" + base_ +
                                     R"(", ")" + file("one.frozen") + R"("], "path_on_host": ")" + file("overlay") +
                                     "\"}"));
}

TEST_F(FreezeTest, ASnapshotThatFailsLeavesTheDriveAsItWas) {
  Monitor machine;
  start(machine, drive("overlay"));
  const std::string before = machine.get("/vm/config").body;
  struct stat overlay = {};
  ASSERT_EQ(::stat(file("overlay").c_str(), &overlay), 0);
  const HttpAnswer failed = freeze(machine, "one", "one.frozen", file("none/one.mem"));
  EXPECT_EQ(failed.status, 400);
  EXPECT_NE(failed.body.find("mem_file_path"), std::string::npos) << failed.body;
  EXPECT_EQ(machine.get("/vm/config").body, before);
  EXPECT_FALSE(fs::exists(file("one.frozen")));
  struct stat after = {};
  ASSERT_EQ(::stat(file("overlay").c_str(), &after), 0);
  EXPECT_EQ(after.st_ino, overlay.st_ino);
  // What can be said at once is said at once.
  for (const auto& [request, why] :
       {std::pair<std::string, std::string>{R"([{"drive_id": "none", "path_on_host": ")" + file("f") + "\"}]",
                                            "frozen_drives: there is no drive none"},
        {R"([{"drive_id": "data", "path_on_host": ")" + file("one.state") + "\"}]", "which is the snapshot's"},
        {R"([{"drive_id": "data", "path_on_host": ")" + base_ + "\"}]", "is there already"}}) {
    const HttpAnswer refused =
        machine.put("/snapshot/create", R"({"snapshot_path": ")" + file("one.state") + R"(", "mem_file_path": ")" +
                                            file("one.mem") + R"(", "frozen_drives": )" + request + "}");
    EXPECT_EQ(refused.status, 400);
    EXPECT_NE(refused.body.find(why), std::string::npos) << refused.body;
  }
  must(freeze(machine, "one", "one.frozen"));
  resume(machine);
  machine.type("q");
  expect_pass(machine);
}

TEST_F(FreezeTest, ALiveSnapshotFreezesInItsPause) {
  Monitor machine{{"--live-snapshots"}};
  must(machine.put("/drives/data", drive("overlay")));
  machine.boot("block", "console=ttyS0 until_key=1");
  machine.console_until("round 2 done");
  const auto live = [&](const std::string& name, const std::string& memory) {
    return machine.put("/snapshot/create", R"({"live": true, "snapshot_path": ")" + file(name + ".state") +
                                               R"(", "mem_file_path": ")" + memory +
                                               R"(", "frozen_drives": [{"drive_id": "data", "path_on_host": ")" +
                                               file(name + ".frozen") + R"("}]})");
  };
  must(live("one", file("one.mem")));
  Monitor clones[2];
  for (int i = 0; i < 2; ++i) must(load(clones[i], "one.state", "one.mem", overridden("clone" + std::to_string(i))));
  // One whose files cannot be made is refused in the pause, and costs no layer.
  const HttpAnswer failed = live("two", file("none/two.mem"));
  EXPECT_EQ(failed.status, 400);
  EXPECT_NE(failed.body.find("mem_file_path"), std::string::npos) << failed.body;
  EXPECT_FALSE(fs::exists(file("two.frozen")));
  EXPECT_FALSE(fs::exists(file("two.state.mayfly-new")));
  const std::string config = machine.get("/vm/config").body;
  EXPECT_NE(config.find(R"("base_paths":[")" + base_ + R"(",")" + file("one.frozen")), std::string::npos) << config;
  // And one whose layer is there already.
  const HttpAnswer refused = live("one", file("three.mem"));
  EXPECT_EQ(refused.status, 400);
  EXPECT_NE(refused.body.find("is there already"), std::string::npos) << refused.body;
  EXPECT_EQ(machine.get("/vm/config").body, config);
  for (Monitor* const each : {&machine, &clones[0], &clones[1]}) {
    each->console_more();
    each->type("q");
    expect_pass(*each);
  }
}

/// On a file system whose files share blocks; only these monitors see it.
TEST_F(FreezeTest, WhereBlocksCanBeSharedTheMachineKeepsItsImage) {
  if (::geteuid() != 0) GTEST_SKIP() << "mounting a file system needs root";
  const std::string disk = file("disk");
  fs::create_directory(disk);
  make_file(file("image"), "");
  fs::resize_file(file("image"), 256 << 20);
  ChildProcess format{{"mkfs.btrfs", "-q", file("image")}, {}};
  if (format.wait() != 0) GTEST_SKIP() << "mkfs.btrfs is missing (package btrfs-progs)";
  Monitor machine{
      {},
      {"unshare", "--mount", "sh", "-c",
       "mount -o loop " + file("image") + " " + disk + " && cp " + base_ + " " + disk + "/plain" + " && exec \"$@\"",
       "sh"}};
  const std::vector<std::string> same_mounts{"nsenter", "--mount", "--target", std::to_string(machine.process().pid())};
  must(machine.put("/drives/data", drive("disk/overlay")));
  must(machine.put("/drives/more",
                   R"({"drive_id": "more", "is_root_device": false, "path_on_host": ")" + file("disk/plain") + "\"}"));
  start(machine, drive("disk/overlay"));
  const std::string before = machine.get("/vm/config").body;
  const std::string frozen = R"(, "frozen_drives": [{"drive_id": "data", "path_on_host": ")" + file("disk/frozen") +
                             R"("}, {"drive_id": "more", "path_on_host": ")" + file("disk/frozen-plain") + "\"}]}";
  must(machine.put("/snapshot/create", R"({"snapshot_path": ")" + file("one.state") + R"(", "mem_file_path": ")" +
                                           file("one.mem") + '"' + frozen));
  EXPECT_EQ(machine.get("/vm/config").body, before) << "it keeps its overlay";
  resume(machine);
  Monitor clone{{}, same_mounts};
  must(load(clone, "one.state", "one.mem",
            R"(, "resume_vm": true, "revertible": true, "drive_overrides": [{"drive_id": "data", "path_on_host": ")" +
                file("disk/clone") + R"("}, {"drive_id": "more", "base_path": ")" + file("disk/frozen-plain") +
                R"(", "path_on_host": ")" + file("disk/clone-plain") + "\"}]"));
  clone.console_more();
  // A clone's overlay that has a copy in a snapshot is its own to empty.
  pause(clone);
  must(clone.put("/snapshot/create",
                 R"({"snapshot_path": ")" + file("two.state") + R"(", "mem_file_path": ")" + file("two.mem") +
                     R"(", "frozen_drives": [{"drive_id": "data", "path_on_host": ")" + file("disk/two") + "\"}]}"));
  must(clone.put("/snapshot/revert", "{}"));
  resume(clone);
  machine.console_more();
  for (Monitor* const each : {&machine, &clone}) {
    each->type("q");
    expect_pass(*each);
  }
}

}  // namespace
}  // namespace mayfly::testing
