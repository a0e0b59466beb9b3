// Working sets of bare-metal guests on this machine's /dev/kvm, recorded and replayed by the API.

#include "snapshot/working_set.h"

#include "tests/integration/kvm_required.h"
#include "tests/support/files.h"
#include "tests/support/monitor.h"

#include <fcntl.h>
#include <unistd.h>

#include <csignal>
#include <filesystem>

namespace mayfly::testing {
namespace {

constexpr unsigned kPages = 200;

class WorkingSetTest : public KvmTest {
 protected:
  void SetUp() override {
    KvmTest::SetUp();
    if (IsSkipped()) return;
    Monitor monitor{{"--boot-timer"}};
    monitor.boot("toucher", "console=ttyS0 span_mib=48 pages=" + std::to_string(kPages));
    monitor.console_until("toucher ready");
    ASSERT_EQ(monitor.patch("/vm", R"({"state": "Paused"})").status, 204);
    const HttpAnswer created = monitor.put("/snapshot/create", R"({"snapshot_path": ")" + file("state") +
                                                                   R"(", "mem_file_path": ")" + file("memory") + "\"}");
    ASSERT_EQ(created.status, 204) << created.body;
  }
  [[nodiscard]] std::string file(const std::string& name) const { return scratch_.file(name); }
  [[nodiscard]] HttpAnswer load(Monitor& monitor, const std::string& working_set, const std::string& more = "") const {
    return monitor.put("/snapshot/load", R"({"snapshot_path": ")" + file("state") +
                                             R"(", "resume_vm": true, "mem_backend": {"backend_type": "File", )" +
                                             R"("backend_path": ")" + file("memory") + R"("}, "working_set": {)" +
                                             working_set + R"(, "path": ")" + file("set") + "\"}" + more + "}");
  }
  /// Loads; false where this host has no userfaultfd for us, which a recording needs.
  [[nodiscard]] bool record(Monitor& monitor, const std::string& more = "") const {
    const HttpAnswer answer = load(monitor, R"("mode": "Record")" + more);
    if (answer.body.find("no userfaultfd") != std::string::npos) return false;
    EXPECT_EQ(answer.status, 204) << answer.body;
    return true;
  }
  static void touch(Monitor& monitor) {
    monitor.type("g");
    monitor.console_until("touched");
  }
  static void must(bool holds) { ASSERT_TRUE(holds); }
  static void end(Monitor& monitor) {
    monitor.type("q");
    EXPECT_NE(monitor.console_to_end().find("GUEST PASS"), std::string::npos);
    EXPECT_EQ(monitor.wait(), 0);
  }
  [[nodiscard]] WorkingSet recorded() const {
    const std::string bytes = content_of(file("set"));
    auto set = decode_working_set(std::as_bytes(std::span{bytes}));
    EXPECT_TRUE(set.has_value()) << set.error().message;
    return set ? *set : WorkingSet{};
  }
  /// That all of what the guest touches is there: it touches some pages twice, and others of its own.
  void expect_what_was_touched() const {
    const std::uint64_t pages = bytes_in(recorded().ranges) / kGuestPageSize;
    EXPECT_GT(pages, kPages * 9 / 10);
    EXPECT_LT(pages, kPages + 40);
    // The guest reads them; its stack, and what the monitor writes, are others.
    const std::uint64_t changed = bytes_in(recorded().written) / kGuestPageSize;
    EXPECT_GT(changed, 0U);
    EXPECT_LT(changed, 40U);
  }

  ScratchDirectory scratch_;
};

TEST_F(WorkingSetTest, IsRecordedUntilARequestAndReplayed) {
  {
    Monitor monitor;
    if (!record(monitor)) GTEST_SKIP() << "this process may not use userfaultfd";
    touch(monitor);
    EXPECT_NE(::access(file("set").c_str(), F_OK), 0);
    EXPECT_EQ(monitor.put("/actions", R"({"action_type": "FinishWorkingSet"})").status, 204);
    expect_what_was_touched();
    const HttpAnswer again = monitor.put("/actions", R"({"action_type": "FinishWorkingSet"})");
    EXPECT_EQ(again.status, 400);
    EXPECT_NE(again.body.find("no working set is being recorded"), std::string::npos) << again.body;
    touch(monitor);
    end(monitor);
  }
  for (const bool cold : {true, false}) {
    const OwnedFd memory{::open(file("memory").c_str(), O_RDONLY | O_CLOEXEC)};
    if (cold) must(::posix_fadvise(memory.get(), 0, 0, POSIX_FADV_DONTNEED) == 0);
    Monitor monitor;
    const HttpAnswer answer = load(monitor, R"("mode": "Replay")");
    ASSERT_EQ(answer.status, 204) << answer.body;
    touch(monitor);
    end(monitor);
  }
}

TEST_F(WorkingSetTest, IsReplayedFromFilesInMemory) {
  {
    Monitor monitor;
    if (!record(monitor)) GTEST_SKIP() << "this process may not use userfaultfd";
    touch(monitor);
    end(monitor);
  }
  const ScratchDirectory in_memory{MonitorJail::wanted() ? "" : "/dev/shm"};  // a jail has no /dev/shm
  for (const char* name : {"state", "memory", "set"}) std::filesystem::copy_file(file(name), in_memory.file(name));
  Monitor monitor;
  const HttpAnswer answer = monitor.put(
      "/snapshot/load", R"({"snapshot_path": ")" + in_memory.file("state") +
                            R"(", "resume_vm": true, "mem_backend": {"backend_type": "File", "backend_path": ")" +
                            in_memory.file("memory") + R"("}, "working_set": {"mode": "Replay", "path": ")" +
                            in_memory.file("set") + R"("}})");
  ASSERT_EQ(answer.status, 204) << answer.body;
  touch(monitor);
  end(monitor);
}

TEST_F(WorkingSetTest, IsRecordedUntilTheGuestWritesToTheBootTimer) {
  Monitor monitor;
  if (!record(monitor, R"(, "until_boot_timer": true)")) GTEST_SKIP() << "this process may not use userfaultfd";
  touch(monitor);
  monitor.log_until("working set recorded");
  expect_what_was_touched();
  end(monitor);
}

TEST_F(WorkingSetTest, IsRecordedForATime) {
  Monitor monitor;
  if (!record(monitor, R"(, "for_ms": 20)")) GTEST_SKIP() << "this process may not use userfaultfd";
  monitor.log_until("working set recorded");
  EXPECT_LT(bytes_in(recorded().ranges) / kGuestPageSize, kPages);
  touch(monitor);
  end(monitor);
}

TEST_F(WorkingSetTest, IsRecordedUntilTheMachineEnds) {
  for (const bool killed : {false, true}) {
    Monitor monitor;
    if (!record(monitor)) GTEST_SKIP() << "this process may not use userfaultfd";
    touch(monitor);
    if (killed)
      monitor.signal(SIGTERM);
    else
      monitor.type("q");
    EXPECT_EQ(monitor.wait(), killed ? 143 : 0);
    expect_what_was_touched();
    ASSERT_EQ(::unlink(file("set").c_str()), 0);
  }
}

TEST_F(WorkingSetTest, AMachineThatIsRecordedIsSnapshotted) {
  Monitor monitor;
  if (!record(monitor)) GTEST_SKIP() << "this process may not use userfaultfd";
  touch(monitor);
  ASSERT_EQ(monitor.patch("/vm", R"({"state": "Paused"})").status, 204);
  const HttpAnswer created = monitor.put("/snapshot/create", R"({"snapshot_path": ")" + file("state") +
                                                                 R"(", "mem_file_path": ")" + file("memory") + "\"}");
  ASSERT_EQ(created.status, 204) << created.body;
  EXPECT_EQ(monitor.put("/actions", R"({"action_type": "FinishWorkingSet"})").status, 204);
  expect_what_was_touched();  // and not all that the snapshot has read
  Monitor clone;
  // It is of the snapshot that was loaded, not of the one that was taken meanwhile.
  const HttpAnswer other = load(clone, R"("mode": "Replay")");
  EXPECT_EQ(other.status, 400);
  EXPECT_NE(other.body.find("was recorded of snapshot"), std::string::npos) << other.body;
  if (!record(clone)) GTEST_SKIP();
  touch(clone);
  end(clone);
}

TEST_F(WorkingSetTest, IsOnTheDiskBeforeItHasItsName) {
  if (::access("/usr/bin/strace", X_OK) != 0) GTEST_SKIP() << "strace is missing";
  // The first fsync of a recording's end is of the file, on a thread of its own; without filters, which would see
  // strace's call -1.
  Monitor monitor{{"--no-seccomp"},
                  {"/usr/bin/env", "ASAN_OPTIONS=detect_leaks=0", "/usr/bin/strace", "-f", "-qq", "-o", "/dev/null",
                   "-e", "trace=fsync", "-e", "inject=fsync:error=EIO:when=1"}};
  if (!record(monitor)) GTEST_SKIP() << "this process may not use userfaultfd";
  touch(monitor);
  const HttpAnswer refused = monitor.put("/actions", R"({"action_type": "FinishWorkingSet"})");
  EXPECT_EQ(refused.status, 400);
  EXPECT_NE(refused.body.find("cannot put it on stable storage"), std::string::npos) << refused.body;
  EXPECT_NE(::access(file("set").c_str(), F_OK), 0);
  EXPECT_NE(::access(file("set.mayfly-new").c_str(), F_OK), 0);
  // It goes on being recorded; strace counts for each thread, so that the next one is refused as well.
  EXPECT_EQ(monitor.put("/actions", R"({"action_type": "FinishWorkingSet"})").status, 400);
  end(monitor);
}

TEST_F(WorkingSetTest, WhatDoesNotFitIsRefusedAndNothingIsLeft) {
  Monitor monitor;
  const auto refused = [&](const std::string& working_set, const std::string& more = "") {
    const HttpAnswer answer = load(monitor, working_set, more);
    EXPECT_EQ(answer.status, 400) << answer.body;
    return answer.body;
  };
  EXPECT_NE(refused(R"("mode": "Replay")").find("working_set.path"), std::string::npos);
  make_file(file("set"), "nothing of ours");
  EXPECT_NE(refused(R"("mode": "Replay")").find("not a working set"), std::string::npos);
  EXPECT_NE(refused(R"("mode": "Record")", R"(, "huge_pages": "2M")").find("huge_pages"), std::string::npos);
  EXPECT_NE(::access(file("set.mayfly-new").c_str(), F_OK), 0);
  EXPECT_EQ(content_of(file("set")), "nothing of ours");
  const auto with_path = [&](const std::string& path) {
    const HttpAnswer answer = monitor.put(
        "/snapshot/load", R"({"snapshot_path": ")" + file("state") + R"(", "mem_file_path": ")" + file("memory") +
                              R"(", "working_set": {"mode": "Record", "path": ")" + path + "\"}}");
    EXPECT_EQ(answer.status, 400) << answer.body;
    return answer.body;
  };
  EXPECT_NE(with_path(file("memory")).find("is a file of the snapshot"), std::string::npos);
  EXPECT_NE(with_path(file("state")).find("is a file of the snapshot"), std::string::npos);
  EXPECT_NE(with_path(file("none/set")).find("working_set.path"), std::string::npos);
  EXPECT_NE(with_path(file(".")).find("working_set.path"), std::string::npos);
  const HttpAnswer early = monitor.put("/actions", R"({"action_type": "FinishWorkingSet"})");
  EXPECT_NE(early.body.find("Not started"), std::string::npos) << early.body;
  // The API still answers, and takes what fits.
  if (!record(monitor)) GTEST_SKIP() << "this process may not use userfaultfd";
  touch(monitor);
  end(monitor);
}

}  // namespace
}  // namespace mayfly::testing
