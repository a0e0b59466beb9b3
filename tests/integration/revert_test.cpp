// Machines of bare-metal guests that go back to the snapshot that they were loaded from, by the API, on this machine's
// /dev/kvm.

#include "tests/integration/snapshot_fixture.h"
#include "tests/support/repeats.h"
#include "vmm/boot/layout.h"

#include <sys/stat.h>
#include <unistd.h>

#include <cstring>
#include <set>

namespace mayfly::testing {
namespace {

class RevertTest : public SnapshotTest {
 protected:
  static constexpr const char* kRevertible = R"(, "resume_vm": true, "revertible": true)";

  /// A snapshot "one" of a guest that has just begun.
  void take_one(const std::string& guest, const std::string& ready, const std::string& boot_args = "console=ttyS0",
                const std::string& machine = R"({"mem_size_mib": 128, "vcpu_count": 1})") const {
    Monitor first;
    must(first.put("/machine-config", machine));
    first.boot(guest, boot_args);
    first.console_until(ready);
    pause(first);
    must(create(first, "one"));
  }
  void take_survivor(const std::string& boot_args = "console=ttyS0",
                     const std::string& machine = R"({"mem_size_mib": 128, "vcpu_count": 1})") const {
    take_one("survivor", "survivor ready", boot_args, machine);
  }
  static HttpAnswer try_revert(Monitor& monitor, const std::string& body = R"({"resume_vm": true})") {
    return monitor.put("/snapshot/revert", body);
  }
  static void revert(Monitor& monitor, const std::string& body = R"({"resume_vm": true})") {
    must(try_revert(monitor, body));
  }
  static void expect_refused(const HttpAnswer& answer, const std::string& why) {
    EXPECT_EQ(answer.status, 400);
    EXPECT_NE(answer.body.find(why), std::string::npos) << answer.body;
  }
  /// Waits until the console has shown `text` so often.
  static void await_times(Monitor& monitor, const std::string& text, unsigned times) {
    const auto seen = [&text](const std::string& shown) {
      unsigned count = 0;
      for (std::size_t at = shown.find(text); at != std::string::npos; at = shown.find(text, at + 1)) ++count;
      return count;
    };
    while (seen(monitor.console_until(text)) < times) (void)monitor.console_more();
  }
  /// The guest's round of that number, which it does for the `times`th time.
  static void round_again(Monitor& monitor, unsigned number, unsigned times) {
    monitor.type("r");
    await_times(monitor, "round " + std::to_string(number) + " ok", times);
  }
  static double metric(Monitor& monitor, const std::string& name) {
    const std::string text = monitor.get("/metrics/prometheus").body;
    const std::size_t at = text.find("\n" + name + " ");
    return at == std::string::npos ? -1 : std::stod(text.substr(at + name.size() + 2));
  }
  /// Of a full snapshot that was taken under that name.
  [[nodiscard]] std::string generation_id(const std::string& name) const {
    return content_of(file(name + ".mem")).substr(layout::kGenerationId.value, 16);
  }
};

TEST_F(RevertTest, TheGuestNoticesNothingFiftyTimes) {
  take_survivor();
  Monitor monitor;
  must(load(monitor, "one.state", "one.mem", kRevertible));
  constexpr unsigned kTimes = repeats(50U, 20U);
  for (unsigned i = 1; i <= kTimes; ++i) {
    round_again(monitor, 1, i);
    if (i % 10 == 0) round_again(monitor, 2, i / 10);  // farther away
    revert(monitor);
  }
  EXPECT_NE(monitor.get("/").body.find("Running"), std::string::npos);
  EXPECT_EQ(metric(monitor, "mayfly_snapshot_revert_count_total"), kTimes);
  EXPECT_GT(metric(monitor, "mayfly_snapshot_reverted_bytes_total"), kTimes * (1 << 20)) << "a third of 4 MiB each";
  EXPECT_GT(metric(monitor, "mayfly_latencies_us_revert_snapshot"), 0);
  round_again(monitor, 1, kTimes + 1);
  end(monitor);
}

TEST_F(RevertTest, AGuestThatHasDoneNothingGoesBackAtOnceAndAgain) {
  take_survivor();
  Monitor monitor;
  must(load(monitor, "one.state", "one.mem", kRevertible));
  for (int i = 0; i < 20; ++i) revert(monitor);
  round_again(monitor, 1, 1);
  end(monitor);
}

TEST_F(RevertTest, APausedMachineGoesBackAndWaitsUnlessItIsToRun) {
  take_survivor();
  Monitor monitor;
  must(load(monitor, "one.state", "one.mem", R"(, "revertible": true)"));
  revert(monitor, "{}");  // it has not run at all
  EXPECT_NE(monitor.get("/").body.find("Paused"), std::string::npos);
  resume(monitor);
  round_again(monitor, 1, 1);
  revert(monitor, "{}");
  EXPECT_NE(monitor.get("/").body.find("Paused"), std::string::npos);
  resume(monitor);
  round_again(monitor, 1, 2);
  pause(monitor);
  revert(monitor);
  EXPECT_NE(monitor.get("/").body.find("Running"), std::string::npos);
  round_again(monitor, 1, 3);
  end(monitor);
}

TEST_F(RevertTest, SeveralVcpusAndMemoryAboveTheHole) {
  take_survivor("console=ttyS0 dirty_mib=16", R"({"mem_size_mib": 3400, "vcpu_count": 4})");
  Monitor monitor;
  must(load(monitor, "one.state", "one.mem", kRevertible));
  for (unsigned i = 1; i <= 3; ++i) {
    round_again(monitor, 1, i);
    revert(monitor);
  }
  round_again(monitor, 1, 4);
  end(monitor);
}

TEST_F(RevertTest, CpusThatWereStartedSinceWaitForTheirStartAgain) {
  take_one("smp", "smp ready", "console=ttyS0 cpus=4 wait=1", R"({"mem_size_mib": 32, "vcpu_count": 4})");
  Monitor monitor;
  must(load(monitor, "one.state", "one.mem", kRevertible));
  for (unsigned i = 1; i <= 10; ++i) {
    monitor.type("g");
    await_times(monitor, "all counted", i);
    revert(monitor);
  }
  monitor.type("g");
  await_times(monitor, "all counted", 11);
  end(monitor);
}

TEST_F(RevertTest, MsrsGoBackAlsoThoseThatTheSnapshotLeavesOut) {
  for (const std::string more : {"", " unset=1"}) {
    take_one("msrs", "msrs set\n", "console=ttyS0" + more, R"({"vcpu_count": 2, "mem_size_mib": 32})");
    Monitor monitor;
    must(load(monitor, "one.state", "one.mem", kRevertible));
    for (unsigned i = 1; i <= 3; ++i) {
      monitor.type("w");
      await_times(monitor, "msrs changed\n", i);
      revert(monitor);
      monitor.type("c");
      await_times(monitor, "msrs ok\n", i);
    }
    end(monitor);
  }
}

TEST_F(RevertTest, EachTimeTheGenerationIdIsAnotherOne) {
  take_survivor();
  Monitor monitor;
  must(load(monitor, "one.state", "one.mem", R"(, "revertible": true)"));
  std::set<std::string> ids = {generation_id("one")};
  constexpr unsigned kTimes = repeats(5U, 2U);
  for (unsigned i = 0; i < kTimes; ++i) {
    const std::string name = "again" + std::to_string(i);
    must(create(monitor, name));
    ids.insert(generation_id(name));
    revert(monitor, "{}");
  }
  EXPECT_EQ(ids.size(), kTimes + 1);
}

class TrackedRevertTest : public RevertTest, public ::testing::WithParamInterface<bool> {
 protected:
  [[nodiscard]] HttpAnswer load_layers(Monitor& monitor, const std::string& state,
                                       const std::string& more = kRevertible) const {
    return load(monitor, state + ".state", std::vector<std::string>{"one.mem", state + ".mem"}, more);
  }
};

TEST_P(TrackedRevertTest, SnapshotsAndDiffsAfterwardsAreWhole) {
  take_survivor();
  Monitor monitor;
  must(load(monitor, "one.state", "one.mem",
            std::string{kRevertible} + R"(, "track_dirty_pages": )" + (GetParam() ? "true" : "false")));
  round_again(monitor, 1, 1);
  pause(monitor);
  must(create(monitor, "far", "Diff"));  // what a later diff must not be of
  resume(monitor);
  round_again(monitor, 2, 1);
  revert(monitor);
  round_again(monitor, 1, 2);
  pause(monitor);
  must(create(monitor, "near", "Diff"));
  revert(monitor);
  pause(monitor);
  must(create(monitor, "full"));
  must(create(monitor, "nothing", "Diff"));
  struct stat status{};
  ASSERT_EQ(::stat(file("near.mem").c_str(), &status), 0);
  EXPECT_LT(status.st_blocks * 512, 2 << 20) << "a third of 4 MiB, and little else";
  ASSERT_EQ(::stat(file("nothing.mem").c_str(), &status), 0);
  EXPECT_LT(status.st_blocks * 512, 256 << 10);
  resume(monitor);
  end(monitor);

  Monitor near;
  must(load_layers(near, "near"));
  round(near, 2);
  end(near);
  Monitor full;
  must(load(full, "full.state", "full.mem"));
  round(full, 1);
  end(full);
}

TEST_P(TrackedRevertTest, AChainOfFilesShowsItsLayersAgain) {
  {
    Monitor first;
    boot(first, R"("mem_size_mib": 128, "vcpu_count": 1, "track_dirty_pages": true)");
    pause(first);
    must(create(first, "one"));
    resume(first);
    round(first, 1);
    pause(first);
    must(create(first, "two", "Diff"));
  }
  Monitor monitor;
  must(load_layers(monitor, "two",
                   std::string{kRevertible} + R"(, "track_dirty_pages": )" + (GetParam() ? "true" : "false")));
  for (unsigned i = 1; i <= 5; ++i) {
    round_again(monitor, 2, i);
    round_again(monitor, 3, i);
    revert(monitor);
  }
  round_again(monitor, 2, 6);
  end(monitor);
}

INSTANTIATE_TEST_SUITE_P(All, TrackedRevertTest, ::testing::Bool(),
                         [](const auto& info) { return info.param ? "Tracked" : "Untracked"; });

TEST_F(RevertTest, AReplayedWorkingSetStaysMapped) {
  take_survivor();
  const auto with_set = [&](const std::string& mode) {
    return R"(, "resume_vm": true, "working_set": {"mode": ")" + mode + R"(", "path": ")" + file("set") + "\"}";
  };
  {
    Monitor recorded;
    const HttpAnswer answer = load(recorded, "one.state", "one.mem", with_set("Record"));
    if (answer.body.find("no userfaultfd") != std::string::npos) GTEST_SKIP() << answer.body;
    must(answer);
    expect_refused(try_revert(recorded), "load the snapshot with revertible set to true");
    Monitor both;
    expect_refused(load(both, "one.state", "one.mem", with_set("Record") + R"(, "revertible": true)"),
                   "a recording of a working set gives it page by page");
    round(recorded, 1);
    must(recorded.put("/actions", R"({"action_type": "FinishWorkingSet"})"));
  }
  Monitor monitor;
  must(load(monitor, "one.state", "one.mem", with_set("Replay") + R"(, "revertible": true)"));
  for (unsigned i = 1; i <= 5; ++i) {
    revert(monitor);
    round_again(monitor, 1, i);
  }
  end(monitor);
}

TEST_F(RevertTest, ADriveThatIsReadGoesOnWithRequestsInFlight) {
  std::string image(8 << 20, '\0');
  for (std::uint64_t at = 0; at < image.size(); at += sizeof at) std::memcpy(&image[at], &at, sizeof at);
  {
    Monitor first;
    must(first.put("/drives/data", R"({"drive_id": "data", "is_root_device": false, "is_read_only": true, )"
                                   R"("path_on_host": ")" +
                                       make_file(file("disk"), image) + "\"}"));
    first.boot("block", "console=ttyS0 read_only=1 until_key=1");
    first.console_until("round 16 done");
    pause(first);
    must(create(first, "one"));
  }
  Monitor monitor;
  must(load(monitor, "one.state", "one.mem", kRevertible));
  for (unsigned i = 1; i <= 30; ++i) {
    revert(monitor);
    if (i % 3 == 0) await_times(monitor, "round 32 done", i / 3);
  }
  end(monitor);
  Monitor swapped;
  must(load(swapped, "one.state", "one.mem", kRevertible));
  must(swapped.patch("/drives/data",
                     R"({"drive_id": "data", "path_on_host": ")" + make_file(file("other"), image) + "\"}"));
  expect_refused(try_revert(swapped), "drive data: its image was replaced since the snapshot was loaded");
  swapped.console_until("round 64 done");  // it goes on
}

TEST_F(RevertTest, ARefusedOneSaysWhyAndChangesNothing) {
  Monitor unstarted;
  expect_refused(try_revert(unstarted), "it is Not started");
  Monitor booted;
  boot(booted);
  expect_refused(try_revert(booted), "the machine was booted");
  round(booted, 1);
  pause(booted);
  must(create(booted, "one"));
  expect_refused(try_revert(booted), "the machine was booted");
  resume(booted);
  end(booted);

  Monitor plain;
  must(load(plain, "one.state", "one.mem"));
  expect_refused(try_revert(plain), "load the snapshot with revertible set to true");
  expect_refused(try_revert(plain, R"({"resume": true})"), "resume");
  round(plain, 2);
  end(plain);
}

TEST_F(RevertTest, AMachineThatCannotGoBackIsNotLoadedSoThatItCould) {
  {
    Monitor first;
    must(first.put("/drives/data", R"({"drive_id": "data", "is_root_device": false, "path_on_host": ")" +
                                       make_file(file("disk"), std::string(4096, 'x')) + "\"}"));
    boot(first);
    pause(first);
    must(create(first, "one"));
    resume(first);
    end(first);
  }
  Monitor monitor;
  expect_refused(load(monitor, "one.state", "one.mem", kRevertible),
                 "drive data: the guest writes to " + file("disk") + ", and its content cannot go back");
  expect_refused(load(monitor, "one.state", "one.mem", R"(, "revertible": true, "huge_pages": "2M")"),
                 "huge_pages 2M reads them");
  must(load(monitor, "one.state", "one.mem"));
  round(monitor, 1);
  end(monitor);
}

#ifndef MAYFLY_SANITIZED  // whose heap keeps what was freed
TEST_F(RevertTest, TheMonitorsOwnMemoryStaysFlat) {
  take_survivor();
  Monitor monitor;
  must(load(monitor, "one.state", "one.mem", kRevertible));
  const auto rss = [&monitor] { return monitor.process().status_kib("RssAnon"); };
  for (unsigned i = 1; i <= 20; ++i) {
    round_again(monitor, 1, i);
    revert(monitor, "{}");
    if (i < 20) resume(monitor);
  }
  const long first = rss();
  resume(monitor);
  for (unsigned i = 21; i <= 80; ++i) {
    round_again(monitor, 1, i);
    revert(monitor, "{}");
    resume(monitor);
  }
  pause(monitor);
  revert(monitor, "{}");
  EXPECT_LT(rss(), first + 256) << "KiB; a round writes 1.3 MiB";
  resume(monitor);
  end(monitor);
}
#endif

}  // namespace
}  // namespace mayfly::testing
