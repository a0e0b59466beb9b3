// Drives in layers: the bare-metal `block` guest over one base, by the API, in snapshots and clones.

#include "tests/integration/layered_fixture.h"
#include "virtio/block/overlay.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <vector>

namespace mayfly::testing {
namespace {

using LayersTest = LayeredTest;

TEST_F(LayersTest, EveryRequestTypeIsServedOverABase) {
  for (const std::string more : {"", R"(, "discard": "Unmap")"}) {
    Monitor monitor;
    must(monitor.put("/drives/data", drive("overlay" + std::to_string(more.size()), more)));
    const HttpAnswer config = monitor.get("/vm/config");
    EXPECT_NE(config.body.find(R"("base_path":")" + base_ + '"'), std::string::npos) << config.body;
    monitor.boot("block");
    expect_pass(monitor);
    expect_base_unchanged();
  }
}

TEST_F(LayersTest, ManyMachinesShareABaseAndNoneAnOverlay) {
  Monitor first;
  Monitor second;
  must(first.put("/drives/data", drive("first")));
  must(second.put("/drives/data", drive("second")));
  Monitor third;
  const HttpAnswer taken = third.put("/drives/data", drive("first"));
  EXPECT_EQ(taken.status, 400);
  EXPECT_NE(taken.body.find("is in use by"), std::string::npos) << taken.body;
  const HttpAnswer writer =
      third.put("/drives/data", R"({"drive_id": "data", "is_root_device": false, "path_on_host": ")" + base_ + "\"}");
  EXPECT_EQ(writer.status, 400) << writer.body;
  for (Monitor* const each : {&first, &second}) each->boot("block");
  for (Monitor* const each : {&first, &second}) expect_pass(*each);
  expect_base_unchanged();
}

TEST_F(LayersTest, ABaseThatChangedIsRefused) {
  {
    Monitor monitor;
    must(monitor.put("/drives/data", drive("overlay")));
    must(monitor.put("/drives/data", drive("overlay")));
  }
  ASSERT_EQ(::utimensat(AT_FDCWD, base_.c_str(), nullptr, 0), 0);
  Monitor monitor;
  const HttpAnswer refused = monitor.put("/drives/data", drive("overlay"));
  EXPECT_EQ(refused.status, 400);
  EXPECT_NE(refused.body.find("touch -d @"), std::string::npos) << refused.body;
}

/// As of a host that was started again, where what else the machine needs has not been made yet.
TEST_F(LayersTest, ALoadThatFailsInAnotherBootIsNotInTheWayOfTheNext) {
  const std::string more = make_file(file("more"), std::string(1 << 20, 'm'));
  {
    Monitor monitor;
    must(monitor.put("/drives/data", drive("overlay")));
    must(monitor.put("/drives/more", R"({"drive_id": "more", "is_root_device": false, "is_read_only": true, )"
                                     R"("path_on_host": ")" +
                                         more + "\"}"));
    monitor.boot("block", "console=ttyS0 until_key=1");
    monitor.console_until("round 2 done");
    pause(monitor);
    must(create(monitor, "one"));
    monitor.signal(SIGTERM);
    (void)monitor.wait();
  }
  {
    const OwnedFd overlay{::open(file("overlay").c_str(), O_RDWR | O_CLOEXEC)};
    struct stat status = {};
    ASSERT_EQ(::fstat(overlay.get(), &status), 0);
    BootId before{};
    before.front() = std::byte{1};
    ASSERT_TRUE(
        Overlay::open(overlay.get(),
                      {.who = "the overlay", .checks_below = false, .boot = before, .access = OverlayAccess::Ordered}));
    const timespec times[] = {status.st_atim, status.st_mtim};
    ASSERT_EQ(::futimens(overlay.get(), times), 0);
  }
  ASSERT_EQ(::rename(more.c_str(), file("away").c_str()), 0);
  {
    Monitor early;
    const HttpAnswer refused = load(early, "one.state", "one.mem");
    EXPECT_EQ(refused.status, 400);
    EXPECT_NE(refused.body.find(more + " does not exist"), std::string::npos) << refused.body;
  }
  ASSERT_EQ(::rename(file("away").c_str(), more.c_str()), 0);
  Monitor again;
  must(load(again, "one.state", "one.mem"));
  again.type("q");
  expect_pass(again);
}

TEST_F(LayersTest, ClonesHaveOverlaysOfTheirOwnOverTheSnapshots) {
  snapshot_busy(drive("overlay"));
  const std::string overlay = content_of(file("overlay"));
  Monitor clones[3];
  for (int i = 0; i < 3; ++i) must(load(clones[i], "one.state", "one.mem", overridden("clone" + std::to_string(i))));
  for (Monitor& clone : clones) clone.type("q");
  for (Monitor& clone : clones) expect_pass(clone);
  expect_base_unchanged();
  EXPECT_TRUE(content_of(file("overlay")) == overlay) << "a layer is only read";
  // What a clone has written does not belong to the snapshot's memory.
  const std::string layers = R"(, "base_paths": [")" + base_ + R"(", ")" + file("overlay") + "\"]";
  Monitor used;
  const HttpAnswer refused = load(used, "one.state", "one.mem", overridden("clone0", layers));
  EXPECT_EQ(refused.status, 400);
  EXPECT_NE(refused.body.find("has what another machine wrote since the snapshot"), std::string::npos) << refused.body;
  // A new one may have its layers named.
  Monitor again;
  must(load(again, "one.state", "one.mem", overridden("again", layers)));
  again.type("q");
  expect_pass(again);
  // And the machine itself goes on where no clone is in the way.
  Monitor itself;
  must(load(itself, "one.state", "one.mem"));
  itself.type("q");
  expect_pass(itself);
}

TEST_F(LayersTest, OneWhoseMachineWasKilledBeforeItFlushedIsNoLayerBelow) {
  for (const int signal : {SIGTERM, SIGKILL}) {
    const std::string below = file("below" + std::to_string(signal));
    {
      Monitor monitor;
      must(monitor.put("/drives/data", drive("below" + std::to_string(signal))));
      monitor.boot("block", "console=ttyS0 until_key=1");
      monitor.console_until("round 2 done");
      monitor.signal(signal);
      (void)monitor.wait();
    }
    Monitor over;
    const std::string request = R"({"drive_id": "data", "is_root_device": false, "base_paths": [")" + base_ +
                                R"(", ")" + below + R"("], "path_on_host": ")" + file("top" + std::to_string(signal)) +
                                "\"}";
    HttpAnswer answer = over.put("/drives/data", request);
    // The kernel takes a killed one's ring apart at leisure, and its locks with it.
    while (answer.body.find("is in use by") != std::string::npos) answer = over.put("/drives/data", request);
    if (signal == SIGTERM) {
      EXPECT_EQ(answer.status, 204) << answer.body;
    } else {
      EXPECT_NE(answer.body.find("had not flushed when it was killed"), std::string::npos) << answer.body;
    }
  }
}

TEST_F(LayersTest, AnOverlayIsEmptiedWhereItsMachineGoesBack) {
  snapshot_busy(drive("overlay"));
  const auto blocks = [&] {
    struct stat status = {};
    EXPECT_EQ(::stat(file("clone").c_str(), &status), 0);
    return status.st_blocks;
  };
  Monitor clone;
  EXPECT_EQ(load(clone, "one.state", "none", overridden("clone")).status, 400);
  EXPECT_NE(::access(file("clone").c_str(), F_OK), 0)
      << "a load that fails leaves no overlay, or it could not be repeated";
  std::string load_more = overridden("clone");
  load_more.replace(load_more.find("true"), 4, "false");
  must(load(clone, "one.state", "one.mem", load_more + R"(, "revertible": true)"));
  const auto fresh = blocks();
  for (int i = 0; i < 5; ++i) {
    resume(clone);
    std::size_t at = 0;
    for (int times = 0; times <= i; ++times) {
      const std::string round = "round 5 done";
      std::size_t found = std::string::npos;
      while ((found = clone.console_until(round).find(round, at)) == std::string::npos) (void)clone.console_more();
      at = found + round.size();
    }
    EXPECT_GT(blocks(), fresh + 1000);
    must(clone.put("/snapshot/revert", "{}"));
    EXPECT_LE(blocks(), fresh + 64) << "headers and the map of what is there";
  }
  // What a snapshot has is not emptied any more; one that did not come about has nothing.
  const auto write = [&] {
    const auto before = blocks();
    resume(clone);
    for (const double deadline = now_us() + kDeadlineUs; blocks() <= before + 64;)
      if (now_us() > deadline) give_up("the guest does not write to its overlay");
    pause(clone);
  };
  write();
  EXPECT_EQ(create(clone, "nowhere/two").status, 400);
  must(clone.put("/snapshot/revert", "{}"));
  write();
  must(create(clone, "two"));
  const HttpAnswer kept = clone.put("/snapshot/revert", "{}");
  EXPECT_EQ(kept.status, 400);
  EXPECT_NE(kept.body.find("a snapshot that was taken since has what is in"), std::string::npos) << kept.body;
  resume(clone);
  clone.type("q");
  expect_pass(clone);
  expect_base_unchanged();

  Monitor itself;
  const HttpAnswer refused = load(itself, "one.state", "one.mem", R"(, "revertible": true)");
  EXPECT_EQ(refused.status, 400);
  EXPECT_NE(refused.body.find("a new overlay over its image (base_path)"), std::string::npos) << refused.body;
}

TEST_F(LayersTest, AnOverlayThatChangedSinceTheSnapshotIsNoLayerOfAClone) {
  snapshot_busy(drive("overlay"));
  ASSERT_EQ(::utimensat(AT_FDCWD, file("overlay").c_str(), nullptr, 0), 0);
  Monitor clone;
  const HttpAnswer refused = load(clone, "one.state", "one.mem", overridden("clone"));
  EXPECT_EQ(refused.status, 400);
  EXPECT_NE(refused.body.find("overlay has changed since the snapshot was taken"), std::string::npos) << refused.body;
}

TEST_F(LayersTest, ClonesOfAPlainDriveHaveOverlaysOverIt) {
  snapshot_busy(R"({"drive_id": "data", "is_root_device": false, "path_on_host": ")" + base_ + "\"}");
  image_ = content_of(base_);
  Monitor clones[2];
  for (int i = 0; i < 2; ++i)
    must(load(clones[i], "one.state", "one.mem",
              overridden("clone" + std::to_string(i), R"(, "base_path": ")" + base_ + '"')));
  for (Monitor& clone : clones) clone.type("q");
  for (Monitor& clone : clones) expect_pass(clone);
  expect_base_unchanged();
}

}  // namespace
}  // namespace mayfly::testing
