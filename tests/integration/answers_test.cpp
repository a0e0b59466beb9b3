// A machine that always answers: what waits for files holds neither other clients nor the end. A system call that
// strace holds up stands for storage that does not answer.

#include "tests/support/files.h"
#include "tests/support/monitor.h"

#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <future>
#include <ios>
#include <string>
#include <thread>
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
  /// The monitor's own process id, which strace runs.
  static pid_t pid_of(Monitor& monitor) {
    const std::string strace = std::to_string(monitor.process().pid());
    return std::stoi(content_of("/proc/" + strace + "/task/" + strace + "/children"));
  }
  static void tell_to_stop(Monitor& monitor) { ASSERT_EQ(::kill(pid_of(monitor), SIGTERM), 0); }
  /// Whether memory of a process has this text, with its end, at an address.
  static bool has_at(pid_t pid, std::uintptr_t address, const std::string& text) {
    std::vector<char> found(text.size() + 1);
    const iovec here{.iov_base = found.data(), .iov_len = found.size()};
    const iovec there{.iov_base = reinterpret_cast<void*>(address), .iov_len = found.size()};
    return ::process_vm_readv(pid, &here, 1, &there, 1, 0) == static_cast<ssize_t>(found.size()) &&
           text == found.data();
  }
  /// Until a thread of the monitor is in a call, of this path if one is given: strace holds that one up.
  static void wait_until_in(Monitor& monitor, long call, const std::string& path = "") {
    const pid_t pid = pid_of(monitor);
    const auto deadline = steady_clock::now() + seconds{60};
    for (;; std::this_thread::yield()) {
      ASSERT_LT(steady_clock::now(), deadline) << "no thread is in system call " << call;
      for (const auto& task : std::filesystem::directory_iterator{"/proc/" + std::to_string(pid) + "/task"}) {
        std::ifstream shown{task.path() / "syscall"};
        long number = 0;
        std::uintptr_t first = 0;
        std::uintptr_t second = 0;
        // A thread that is in no call is shown by a word.
        if (shown >> number >> std::hex >> first >> second && number == call &&
            (path.empty() || has_at(pid, second, path)))
          return;
      }
    }
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
  // With a pause, or it would only keep a processor busy.
  while (taken.wait_for(std::chrono::milliseconds{10}) != std::future_status::ready) {
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
  Monitor monitor{{"--no-seccomp"}, held_up("fsync", 10)};
  boot_and_pause(monitor);
  auto taken = std::async(std::launch::async, [&] { return monitor.put("/snapshot/create", snapshot_of(monitor)); });
  // Not earlier: before its syncs, a snapshot that is in the way of the end is given up.
  wait_until_in(monitor, SYS_fsync);
  expect_to_leave(monitor, "the snapshot's files");
  EXPECT_NE(::access(monitor.file("state").c_str(), F_OK), 0);
  EXPECT_THROW((void)taken.get(), std::exception);
}

TEST_F(AnswersTest, ALoopThatHangsDoesNotHoldTheEnd) {
  ScratchDirectory scratch;
  const std::string image = make_file(scratch.file("image"), std::string(4096, '\0'));
  Monitor monitor{{"--no-seccomp"}, held_up("openat", 10, image)};
  auto put = std::async(std::launch::async, [&] {
    return monitor.put("/drives/hangs",
                       R"({"drive_id": "hangs", "is_root_device": false, "path_on_host": ")" + image + "\"}");
  });
  wait_until_in(monitor, SYS_openat, image);
  expect_to_leave(monitor, "PUT /drives");
  EXPECT_THROW((void)put.get(), std::exception);
}

}  // namespace
}  // namespace mayfly::testing
