// Snapshots to a disk that is slow, or hangs: the monitor goes on answering, and ends when it is told to.

#include "tests/integration/answers_fixture.h"

#include <filesystem>

namespace mayfly::testing {
namespace {

namespace fs = std::filesystem;

constexpr const char* kMachine = R"({"mem_size_mib": 256, "vcpu_count": 1})";

class SlowSnapshotTest : public HangingDiskTest {
 protected:
  static void boot(Monitor& monitor) {
    must(monitor.put("/machine-config", kMachine));
    monitor.boot("survivor", "console=ttyS0 dirty_mib=128");
    monitor.console_until("survivor ready");
    must(monitor.patch("/vm", kPaused));
  }
  [[nodiscard]] PendingRequest begin_on_disk(const Monitor& monitor) const {
    return begin_snapshot(monitor, "disk/one");
  }
  /// The next round of the guest, which checks its memory.
  static void expect_goes_on(Monitor& monitor) {
    must(begin(monitor, "PATCH", "/vm", kResumed).answer_within(kPatienceSeconds));
    monitor.type("r");
    monitor.console_until("round 1 ok");
  }
  [[nodiscard]] std::string on_disk() const {
    std::string names;
    for (const auto& entry : fs::directory_iterator{file("disk")}) names += entry.path().filename().string() + " ";
    return names;
  }

  /// Some 2.5 s for this guest.
  static constexpr double kWriteMs = 20;
};

TEST_F(SlowSnapshotTest, ReadsAreAnsweredWhileItIsWritten) {
  Monitor monitor;
  boot(monitor);
  slow_down(DiskRequest::Kind::Write, kWriteMs);
  PendingRequest snapshot = begin_on_disk(monitor);
  disk_->await_held(1);
  int answers = 0;
  while (!snapshot.answer_within(0.01)) {  // or it would only keep a processor busy
    expect_answers(monitor);
    if (HasFatalFailure()) return;
    if (!snapshot.is_answered()) answers += 2;
  }
  EXPECT_GE(answers, 5);
  must(snapshot.answer_within(0));
  recover();
  expect_goes_on(monitor);
  expect_ends(monitor);
}

TEST_F(SlowSnapshotTest, WhatChangesTheMachineWaitsAndIsDoneAfterwards) {
  Monitor monitor;
  boot(monitor);
  hang(DiskRequest::Kind::Write);
  PendingRequest snapshot = begin_on_disk(monitor);
  disk_->await_held(1);
  PendingRequest resume = begin(monitor, "PATCH", "/vm", kResumed);
  expect_answers(monitor);
  EXPECT_FALSE(resume.is_answered());
  EXPECT_FALSE(snapshot.is_answered());
  recover();
  must(resume.answer_within(kPatienceSeconds));
  must(snapshot.answer_within(kAtOnceSeconds));
  EXPECT_NE(begin(monitor, "GET", "/").answer_within(kAtOnceSeconds)->body.find("Running"), std::string::npos);
  monitor.type("r");
  monitor.console_until("round 1 ok");
  expect_ends(monitor);
}

TEST_F(SlowSnapshotTest, TermEndsItAndLeavesNoHalfFiles) {
  Monitor monitor;
  boot(monitor);
  slow_down(DiskRequest::Kind::Write, 10 * kWriteMs);  // 25 s
  PendingRequest snapshot = begin_on_disk(monitor);
  disk_->await_held(1);
  expect_ends(monitor);
  EXPECT_EQ(on_disk(), "");
}

TEST_F(SlowSnapshotTest, TheClientThatHangsUpHarmsNobody) {
  Monitor monitor;
  boot(monitor);
  hang(DiskRequest::Kind::Write);
  {
    const PendingRequest snapshot = begin_on_disk(monitor);
    disk_->await_held(1);
  }
  expect_answers(monitor);
  recover();
  expect_goes_on(monitor);
  expect_ends(monitor);
}

// --- A disk that hangs, whatever the snapshot asks of it

using Kind = DiskRequest::Kind;

struct HangCase {
  const char* name;
  Kind kind;
};

void PrintTo(const HangCase& hang, std::ostream* out) { *out << hang.name; }

class HungSnapshotTest : public SlowSnapshotTest, public ::testing::WithParamInterface<HangCase> {
 protected:
  [[nodiscard]] PendingRequest begin_hung(const Monitor& monitor) {
    hang(GetParam().kind);
    PendingRequest snapshot = begin_on_disk(monitor);
    disk_->await_held(1);
    return snapshot;
  }
};

TEST_P(HungSnapshotTest, ReadsAreAnsweredMeanwhileAndTheMachineGoesOnAfterwards) {
  Monitor monitor;
  boot(monitor);
  PendingRequest snapshot = begin_hung(monitor);
  expect_answers(monitor);
  EXPECT_FALSE(snapshot.is_answered());
  recover();
  must(snapshot.answer_within(kPatienceSeconds));
  expect_goes_on(monitor);
  expect_ends(monitor);
}

TEST_P(HungSnapshotTest, TermEndsTheMachine) {
  Monitor monitor;
  boot(monitor);
  PendingRequest snapshot = begin_hung(monitor);
  expect_ends(monitor);
}

INSTANTIATE_TEST_SUITE_P(In, HungSnapshotTest,
                         ::testing::Values(HangCase{"Create", Kind::Create}, HangCase{"Write", Kind::Write},
                                           HangCase{"Sync", Kind::Sync}),
                         [](const auto& info) { return std::string{info.param.name}; });

}  // namespace
}  // namespace mayfly::testing
