// A machine that always answers: what waits for files holds neither other clients nor the end. A system call that
// strace holds up stands for storage that does not answer.

#include "tests/support/files.h"
#include "tests/support/monitor.h"

#include <sys/stat.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <future>
#include <string>
#include <vector>

#include <gtest/gtest.h>

namespace mayfly::testing {
namespace {

using std::chrono::seconds;
using std::chrono::steady_clock;

class AnswersTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (::access("/dev/kvm", R_OK | W_OK) != 0) GTEST_SKIP() << "/dev/kvm is missing or not permitted";
    if (::access("/usr/bin/strace", X_OK) != 0) GTEST_SKIP() << "strace is missing";
  }
  /// A monitor whose calls of `what` take so long; its own process id, not strace's. Without filters, under which
  /// strace cannot hold a call up.
  static std::vector<std::string> held_up(const std::string& call, int delay_s, const std::string& path = "") {
    std::vector<std::string> launcher = {
        "/usr/bin/env", "ASAN_OPTIONS=detect_leaks=0", "/usr/bin/strace", "-f", "-qq", "-o", "/dev/null", "-e",
        "trace=" + call};
    if (!path.empty()) launcher.insert(launcher.end(), {"-P", path});
    launcher.insert(launcher.end(), {"-e", "inject=" + call + ":delay_enter=" + std::to_string(delay_s) + "000000"});
    return launcher;
  }
  /// Sends SIGTERM to the monitor, which strace runs.
  static void tell_to_stop(Monitor& monitor) {
    const std::string strace = std::to_string(monitor.process().pid());
    const int child = std::stoi(content_of("/proc/" + strace + "/task/" + strace + "/children"));
    ASSERT_EQ(::kill(child, SIGTERM), 0);
  }
  /// The line with which a process leaves that does not end otherwise, and that it came in time. (A thread that strace
  /// holds up is gone only when strace lets it go.)
  static void expect_to_leave(Monitor& monitor, const std::string& waited_for) {
    const auto begin = steady_clock::now();
    tell_to_stop(monitor);
    EXPECT_NE(monitor.log_until("waited for").find("did not end in 5 s: waited for " + waited_for), std::string::npos);
    EXPECT_LT(steady_clock::now() - begin, seconds{15});
    EXPECT_EQ(monitor.wait(), 143);
  }
  static void boot_and_pause(Monitor& monitor) {
    monitor.boot("spin");
    ASSERT_EQ(monitor.patch("/vm", R"({"state": "Paused"})").status, 204);
  }
  static std::string snapshot_of(const Monitor& monitor) {
    return R"({"snapshot_path": ")" + monitor.file("state") + R"(", "mem_file_path": ")" + monitor.file("memory") +
           "\"}";
  }
};

TEST_F(AnswersTest, ASnapshotToASlowDiskHoldsNoAnswers) {
  Monitor monitor{{"--no-seccomp"}, held_up("fsync", 1)};
  boot_and_pause(monitor);
  auto taken = std::async(std::launch::async, [&] { return monitor.put("/snapshot/create", snapshot_of(monitor)); });
  int answers = 0;
  while (taken.wait_for(seconds{0}) != std::future_status::ready) {
    const OwnedFd other = connect_unix(monitor.socket_path());
    for (const char* path : {"/", "/metrics/prometheus"})
      if (exchange(other.get(), "GET", path, "").status == 200) ++answers;
  }
  EXPECT_EQ(taken.get().status, 204);
  EXPECT_GE(answers, 10);
  EXPECT_EQ(monitor.patch("/vm", R"({"state": "Resumed"})").status, 204);
  tell_to_stop(monitor);
  EXPECT_EQ(monitor.wait(), 143);
}

TEST_F(AnswersTest, ADiskThatHangsDoesNotHoldTheEnd) {
  Monitor monitor{{"--no-seccomp"}, held_up("fsync", 20)};
  boot_and_pause(monitor);
  auto taken = std::async(std::launch::async, [&] { return monitor.put("/snapshot/create", snapshot_of(monitor)); });
  // Both files are written, and what follows is their syncs.
  struct stat state{};
  while (::stat((monitor.file("state") + ".mayfly-new").c_str(), &state) != 0 || state.st_size == 0) {
    const OwnedFd other = connect_unix(monitor.socket_path());
    ASSERT_EQ(exchange(other.get(), "GET", "/", "").status, 200);
  }
  expect_to_leave(monitor, "the snapshot's files");
  EXPECT_NE(::access(monitor.file("state").c_str(), F_OK), 0);
  EXPECT_THROW((void)taken.get(), std::exception);
}

TEST_F(AnswersTest, ALoopThatHangsDoesNotHoldTheEnd) {
  ScratchDirectory scratch;
  const std::string image = make_file(scratch.file("image"), std::string(4096, '\0'));
  Monitor monitor{{"--no-seccomp"}, held_up("openat", 20, image)};
  auto put = std::async(std::launch::async, [&] {
    return monitor.put("/drives/hangs",
                       R"({"drive_id": "hangs", "is_root_device": false, "path_on_host": ")" + image + "\"}");
  });
  // A request behind it would not be answered: nobody can tell from outside that the loop is at it.
  ASSERT_EQ(put.wait_for(seconds{1}), std::future_status::timeout);
  expect_to_leave(monitor, "PUT /drives");
  EXPECT_THROW((void)put.get(), std::exception);
}

}  // namespace
}  // namespace mayfly::testing
