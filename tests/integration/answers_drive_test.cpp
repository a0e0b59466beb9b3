// Drives whose storage hangs: the monitor goes on answering, and ends when it is told to.

#include "tests/integration/answers_fixture.h"
#include "tests/support/repeats.h"

#include <sched.h>

#include <filesystem>

namespace mayfly::testing {
namespace {

constexpr std::size_t kImageBytes = 8 << 20;
constexpr const char* kWriteback = R"(, "cache_type": "Writeback")";

std::string drive(const std::string& path, const std::string& more = "") {
  return R"({"drive_id": "data", "is_root_device": false, "path_on_host": ")" + path + "\"" + more + "}";
}

class HangingDriveTest : public HangingDiskTest {
 protected:
  void SetUp() override {
    HangingDiskTest::SetUp();
    if (!IsSkipped()) make_file(image(), std::string(kImageBytes, 'x'));
  }
  [[nodiscard]] std::string image() const { return file("disk/image"); }

  /// A guest that has started its drive.
  void boot(Monitor& monitor, const std::string& more = "") const {
    must(monitor.put("/machine-config", R"({"mem_size_mib": 64, "vcpu_count": 1})"));
    must(monitor.put("/drives/data", drive(image(), more)));
    monitor.boot("stuck_drive");
    monitor.console_until("stuck_drive ready");
  }
  /// Its reads hang from now on, and some of them are under way.
  void hang_reads(Monitor& monitor) {
    hang(DiskRequest::Kind::Read);
    monitor.type("o");
    disk_->await_held(1);
  }
};

TEST_F(HangingDriveTest, TermEndsAMachineThatReadsFromIt) {
  Monitor monitor;
  boot(monitor);
  hang_reads(monitor);
  expect_answers(monitor);
  expect_ends(monitor);
}

TEST_F(HangingDriveTest, TermEndsAMachineWhoseLoopWaitsForIt) {
  Monitor monitor;
  boot(monitor, R"(, "direct": true)");  // FUSE does such reads within the system call that asks for them
  hang_reads(monitor);
  expect_ends(monitor);
}

TEST_F(HangingDriveTest, ASnapshotThatWaitsForItKeepsNobodyElseWaiting) {
  Monitor monitor;
  boot(monitor);
  hang_reads(monitor);
  must(begin(monitor, "PATCH", "/vm", kPaused).answer_within(kPatienceSeconds));
  PendingRequest snapshot = begin_snapshot(monitor, "one");
  expect_answers(monitor);
  EXPECT_FALSE(snapshot.is_answered());
  recover();
  must(snapshot.answer_within(kPatienceSeconds));
  must(begin(monitor, "PATCH", "/vm", kResumed).answer_within(kPatienceSeconds));
  monitor.type("d");
  monitor.console_until("done");
  expect_ends(monitor);
}

TEST_F(HangingDriveTest, TermEndsAMachineWhoseSnapshotWaitsForIt) {
  Monitor monitor;
  boot(monitor);
  hang_reads(monitor);
  must(begin(monitor, "PATCH", "/vm", kPaused).answer_within(kPatienceSeconds));
  PendingRequest snapshot = begin_snapshot(monitor, "one");
  EXPECT_FALSE(snapshot.answer_within(0.2));
  expect_ends(monitor);
  EXPECT_FALSE(std::filesystem::exists(file("one.state"))) << "half a snapshot counts";
}

TEST_F(HangingDriveTest, TermEndsAMachineWhoseSnapshotWaitsForItsSync) {
  Monitor monitor;
  boot(monitor, kWriteback);
  must(begin(monitor, "PATCH", "/vm", kPaused).answer_within(kPatienceSeconds));
  hang(DiskRequest::Kind::Sync);
  PendingRequest snapshot = begin_snapshot(monitor, "one");
  disk_->await_held(1);
  expect_ends(monitor);
}

TEST_F(HangingDriveTest, ASnapshotThatWaitsForItsSyncKeepsNobodyElseWaiting) {
  Monitor monitor;
  boot(monitor, kWriteback);
  must(begin(monitor, "PATCH", "/vm", kPaused).answer_within(kPatienceSeconds));
  hang(DiskRequest::Kind::Sync);
  PendingRequest snapshot = begin_snapshot(monitor, "one");
  disk_->await_held(1);
  expect_answers(monitor);
  EXPECT_FALSE(snapshot.is_answered());
  recover();
  must(snapshot.answer_within(kPatienceSeconds));
  expect_ends(monitor);
}

// --- A guest that resets the device: its vCPU waits in the store until what is in flight is back.

class HangingResetTest : public HangingDriveTest {
 protected:
  void reset_while_reads_hang(Monitor& monitor) {
    boot(monitor);
    hang_reads(monitor);
    monitor.type("x");
    monitor.console_until("resetting");
    // The store comes next. A guest that looks at its serial port runs all the time; a vCPU in a reset sleeps.
    const std::string stat = vcpu_thread(monitor) + "/stat";
    const double deadline_us = now_us() + kPatienceSeconds * 1e6;
    while (content_of(stat).find(") S ") == std::string::npos) {
      if (now_us() > deadline_us) give_up("the guest does not reset its device");
      ::sched_yield();
    }
  }

 private:
  static std::string vcpu_thread(Monitor& monitor) {
    for (const auto& thread :
         std::filesystem::directory_iterator{"/proc/" + std::to_string(monitor.process().pid()) + "/task"})
      if (content_of(thread.path() / "comm") == "vcpu-0\n") return thread.path();
    give_up("there is no thread of a vCPU");
  }
};

TEST_F(HangingResetTest, TermEndsAMachineWhoseVcpuWaitsInIt) {
  Monitor monitor{{"--level", "Error"}};  // which what it waited for is
  reset_while_reads_hang(monitor);
  expect_answers(monitor);
  expect_ends(monitor);
}

TEST_F(HangingResetTest, AndSoDoesIntWithItsOwnExitCode) {
  Monitor monitor;
  reset_while_reads_hang(monitor);
  expect_ends(monitor, SIGINT);
}

TEST_F(HangingResetTest, APauseThatWaitsForItKeepsNobodyElseWaiting) {
  Monitor monitor;
  reset_while_reads_hang(monitor);
  PendingRequest pause = begin(monitor, "PATCH", "/vm", kPaused);
  expect_answers(monitor);
  EXPECT_FALSE(pause.is_answered());
  recover();
  must(pause.answer_within(kPatienceSeconds));
  must(begin(monitor, "PATCH", "/vm", kResumed).answer_within(kPatienceSeconds));
  monitor.console_until("reset ok");
  expect_ends(monitor);
}

TEST_F(HangingResetTest, TermEndsAMachineWhosePauseWaitsForIt) {
  Monitor monitor;
  reset_while_reads_hang(monitor);
  PendingRequest pause = begin(monitor, "PATCH", "/vm", kPaused);
  EXPECT_FALSE(pause.answer_within(0.2));
  expect_ends(monitor);
}

TEST_F(HangingResetTest, AClientThatDoesNotWaitForItsPauseHarmsNobody) {
  Monitor monitor;
  reset_while_reads_hang(monitor);
  PendingRequest pause = begin(monitor, "PATCH", "/vm", kPaused);
  EXPECT_FALSE(pause.answer_within(0.2));
  pause.hang_up();
  expect_answers(monitor);
  recover();
  must(begin(monitor, "PATCH", "/vm", kResumed).answer_within(kPatienceSeconds));
  monitor.console_until("reset ok");
  expect_ends(monitor);
}

// --- A signal that comes in the same round of the loop as a reset.

class ResettingGuestTest : public AnswersTest {};

TEST_F(ResettingGuestTest, TermEndsItAtOnceFiftyTimesInARow) {
  make_file(file("image"), std::string(kImageBytes, 'x'));
  for (int machine = 0; machine < repeats(50, 10); ++machine) {
    Monitor monitor;
    must(monitor.put("/machine-config", R"({"mem_size_mib": 64, "vcpu_count": 1})"));
    must(monitor.put("/drives/data", drive(file("image"))));
    monitor.boot("stuck_drive", "console=ttyS0 loop=1 count=4");
    monitor.console_until("stuck_drive ready");
    // At another moment of the guest's round each time.
    for (const double until_us = now_us() + machine * repeats(37, 185); now_us() < until_us;) {
    }
    const double begin_us = now_us();
    monitor.signal(SIGTERM);
    ASSERT_TRUE(has_ended_within(monitor.process(), kAtOnceSeconds)) << "machine " << machine;
    ASSERT_EQ(monitor.wait(), 143) << "machine " << machine;
    RecordProperty("slowest_ms", static_cast<int>((now_us() - begin_us) / 1e3));
  }
}

}  // namespace
}  // namespace mayfly::testing
