#pragma once

#include "tests/integration/kvm_required.h"
#include "tests/support/files.h"
#include "tests/support/logged_file_system.h"
#include "tests/support/monitor.h"
#include "tests/support/pending_request.h"

#include <csignal>
#include <cstdlib>
#include <string>

namespace mayfly::testing {

/// A monitor answers and ends, whatever its storage, its page server, its guest and its clients do. Each test here has
/// something that hangs, and deadlines that a monitor which waits for it does not keep.
class AnswersTest : public KvmTest {
 protected:
  /// The monitor's own limit is 5 s. The rest is a busy machine's.
  static constexpr double kEndSeconds = 8;
  /// For an answer "at once": milliseconds, but for a busy machine. A monitor that waits for what hangs never gives it.
  static constexpr double kAtOnceSeconds = 3;
  /// For what does not hang.
  static constexpr double kPatienceSeconds = 60;

  static constexpr const char* kPaused = R"({"state": "Paused"})";
  static constexpr const char* kResumed = R"({"state": "Resumed"})";

  [[nodiscard]] std::string file(const std::string& name) const { return scratch_.file(name); }

  static void must(const HttpAnswer& answer) { ASSERT_EQ(answer.status, 204) << answer.body; }
  static void must(const std::optional<HttpAnswer>& answer) {
    ASSERT_TRUE(answer) << "no answer";
    must(*answer);
  }

  [[nodiscard]] static PendingRequest begin(const Monitor& monitor, const std::string& method, const std::string& path,
                                            const std::string& body = "") {
    return {monitor.socket_path(), method, path, body};
  }
  [[nodiscard]] PendingRequest begin_snapshot(const Monitor& monitor, const std::string& name) const {
    return begin(
        monitor, "PUT", "/snapshot/create",
        R"({"snapshot_path": ")" + file(name + ".state") + R"(", "mem_file_path": ")" + file(name + ".mem") + "\"}");
  }

  /// That reads of two new clients are answered at once.
  static void expect_answers(const Monitor& monitor) {
    for (const char* path : {"/", "/metrics/prometheus"}) {
      const auto answer = begin(monitor, "GET", path).answer_within(kAtOnceSeconds);
      ASSERT_TRUE(answer) << "no answer to GET " << path;
      EXPECT_EQ(answer->status, 200) << answer->body;
    }
  }

  /// That a signal ends the monitor in time, and that it says what it waited for where it had to give up.
  static void expect_ends(Monitor& monitor, int signal = SIGTERM) {
    const double begin_us = now_us();
    monitor.signal(signal);
    ASSERT_TRUE(has_ended_within(monitor.process(), kEndSeconds)) << "it goes on after signal " << signal;
    const double seconds = (now_us() - begin_us) / 1e6;
    EXPECT_EQ(monitor.wait(), 128 + signal);
    const std::string& log = monitor.log_until("");
    const std::string gave_up = "the machine did not end in 5 s: waited for ";
    const std::size_t at = log.find(gave_up);
    if (seconds > 5.5) {
      EXPECT_NE(at, std::string::npos) << "took " << seconds << " s; the log:\n" << log;
    }
    if (at == std::string::npos) return;
    EXPECT_GT(log.find('\n', at), at + gave_up.size()) << "names nothing: " << log;
    EXPECT_EQ(log.find(gave_up, at + 1), std::string::npos) << "says it once: " << log;
  }

  ScratchDirectory scratch_;
};

/// With a file system at "disk" that can hang.
class HangingDiskTest : public AnswersTest {
 protected:
  void SetUp() override {
    AnswersTest::SetUp();
    if (IsSkipped()) return;
    if (::geteuid() != 0 || ::access("/dev/fuse", R_OK | W_OK) != 0)
      GTEST_SKIP() << "a file system of this test's own needs root and /dev/fuse";
    enter_own_mounts();
    // At a program's end the leak sanitizer stops its threads one by one: it waits for those of the kernel that read.
    ::setenv("ASAN_OPTIONS", "detect_leaks=0", 1);
    disk_.emplace(file("disk"), std::vector<std::string>{});
  }
  void TearDown() override { ::unsetenv("ASAN_OPTIONS"); }

  /// From now on the disk never answers requests of this kind.
  void hang(DiskRequest::Kind kind) {
    disk_->delay([kind](const DiskRequest& request) { return request.kind == kind ? kNeverAnswered : 0; });
  }
  void slow_down(DiskRequest::Kind kind, double milliseconds) {
    disk_->delay(
        [kind, milliseconds](const DiskRequest& request) { return request.kind == kind ? milliseconds * 1e3 : 0; });
  }
  /// It answers again, also what has waited.
  void recover() { disk_->delay({}); }

  /// Before any monitor: their jails show what is mounted then.
  std::optional<LoggedFileSystem> disk_;
};

}  // namespace mayfly::testing
