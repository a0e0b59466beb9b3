// Page servers (tests/support/page_server.cpp) that die or stop giving pages: the monitor goes on answering, and ends
// when it is told to.

#include "tests/integration/answers_fixture.h"
#include "tests/support/user_faults.h"

#include <fcntl.h>
#include <unistd.h>

#include <limits>

namespace mayfly::testing {
namespace {

/// Of the guest's memory, in bytes.
struct Range {
  std::uint64_t from;
  std::uint64_t to;
};

// Of tests/guests/stuck_drive.cpp.
constexpr Range kQueue{4 << 20, (4 << 20) + (16 << 10)};
constexpr Range kData{16 << 20, 17 << 20};
/// Which nothing has touched.
constexpr Range kRest{32 << 20, 64 << 20};
constexpr Range kEverything{0, std::numeric_limits<std::uint64_t>::max()};

/// The outside page server, which does not give all pages.
class PoorPageServer {
 public:
  PoorPageServer(const std::string& socket, const std::string& memory, const Range& withheld)
      : process_({page_server_binary(), socket, memory, std::to_string(withheld.from), std::to_string(withheld.to)},
                 {.in = -1, .out = out_.write.get(), .err = STDERR_FILENO}) {
    out_.write.reset();
    read_until(out_.read.get(), said_, "listening");
  }
  /// Until somebody waits for a page that never comes.
  void await_withheld() { read_until(out_.read.get(), said_, "withheld"); }

 private:
  Pipe out_;
  ChildProcess process_;
  std::string said_;
};

class PoorPageServerTest : public AnswersTest {
 protected:
  void SetUp() override {
    AnswersTest::SetUp();
    if (IsSkipped()) return;
    if (!user_faults_are_permitted()) GTEST_SKIP() << "userfaultfd is not permitted";
    make_file(file("image"), std::string(8 << 20, 'x'));
    Monitor monitor;
    must(monitor.put("/machine-config", R"({"mem_size_mib": 64, "vcpu_count": 1})"));
    must(monitor.put("/drives/data",
                     R"({"drive_id": "data", "is_root_device": false, "path_on_host": ")" + file("image") + "\"}"));
    monitor.boot("stuck_drive", guest_arguments());
    monitor.console_until("stuck_drive ready");
    must(monitor.patch("/vm", kPaused));
    must(begin_snapshot(monitor, "one").answer_within(kPatienceSeconds));
    expect_ends(monitor);  // which frees the image; of a monitor that is killed, the kernel does so later
  }

  [[nodiscard]] virtual std::string guest_arguments() const { return "console=ttyS0"; }
  [[nodiscard]] PendingRequest begin_load(const Monitor& monitor, const std::string& backend,
                                          const std::string& path) const {
    return begin(monitor, "PUT", "/snapshot/load",
                 R"({"snapshot_path": ")" + file("one.state") +
                     R"(", "resume_vm": true, "mem_backend": {"backend_type": ")" + backend +
                     R"(", "backend_path": ")" + path + "\"}}");
  }
  void load(const Monitor& monitor) const {
    must(begin_load(monitor, "Uffd", file("pages")).answer_within(kPatienceSeconds));
  }
  /// From the file, in a monitor that has no machine. It may refuse while another load has not ended.
  void expect_can_load(Monitor& monitor) const {
    const double deadline_us = now_us() + kPatienceSeconds * 1e6;
    std::optional<HttpAnswer> answer;
    do {
      answer = begin_load(monitor, "File", file("one.mem")).answer_within(kPatienceSeconds);
    } while (answer && answer->status == 400 && now_us() < deadline_us);
    must(answer);
    if (HasFailure()) return;
    monitor.type("od");
    monitor.console_until("done");
    expect_ends(monitor);
  }
};

// --- Pages of a restored machine

TEST_F(PoorPageServerTest, TermEndsAMachineWhoseQueueNeverComes) {
  PoorPageServer server{file("pages"), file("one.mem"), kQueue};
  Monitor monitor{{"--level", "Error"}};
  load(monitor);
  monitor.type("k");
  server.await_withheld();
  expect_ends(monitor);
}

TEST_F(PoorPageServerTest, AReadOfAMachineWhoseQueueNeverComesIsRefused) {
  PoorPageServer server{file("pages"), file("one.mem"), kQueue};
  Monitor monitor{{"--level", "Error"}};
  load(monitor);
  monitor.type("k");
  server.await_withheld();
  constexpr double kReadDeadline = 5;
  for (const double seconds : {kReadDeadline + kAtOnceSeconds, kAtOnceSeconds}) {
    const auto answer = begin(monitor, "GET", "/").answer_within(seconds);
    ASSERT_TRUE(answer) << "no answer in " << seconds << " s";
    EXPECT_EQ(answer->status, 503) << answer->body;
    EXPECT_NE(answer->body.find("has not answered"), std::string::npos) << answer->body;
  }
  expect_ends(monitor);
}

TEST_F(PoorPageServerTest, TermEndsAMachineThatReadsIntoMemoryThatNeverComes) {
  PoorPageServer server{file("pages"), file("one.mem"), kData};
  Monitor monitor;
  load(monitor);
  monitor.type("o");
  server.await_withheld();
  expect_ends(monitor);
}

TEST_F(PoorPageServerTest, AndAlsoWhenTheServerIsGone) {
  std::optional<PoorPageServer> server{std::in_place, file("pages"), file("one.mem"), kData};
  Monitor monitor;
  load(monitor);
  monitor.type("o");
  server->await_withheld();
  server.reset();
  expect_ends(monitor);
}

/// Their guest is in need of its code's pages as soon as it is loaded: it does not halt.
class BusyPageServerTest : public PoorPageServerTest {
 protected:
  [[nodiscard]] std::string guest_arguments() const override { return "console=ttyS0 poll=1"; }
};

TEST_F(BusyPageServerTest, TermEndsAMachineWhoseServerWasGoneBefore) {
  std::optional<PoorPageServer> server{std::in_place, file("pages"), file("one.mem"), kRest};
  Monitor monitor;
  load(monitor);
  server.reset();
  monitor.type("ok");
  expect_ends(monitor);
}

TEST_F(PoorPageServerTest, TermEndsAMachineWhoseSnapshotWaitsForMemory) {
  PoorPageServer server{file("pages"), file("one.mem"), kRest};
  Monitor monitor;
  load(monitor);
  must(begin(monitor, "PATCH", "/vm", kPaused).answer_within(kPatienceSeconds));
  PendingRequest snapshot = begin_snapshot(monitor, "two");
  server.await_withheld();
  expect_ends(monitor);
}

// --- A load that waits for its first page

class EmptyPageServerTest : public PoorPageServerTest {
 protected:
  void SetUp() override {
    PoorPageServerTest::SetUp();
    if (!IsSkipped()) server_.emplace(file("pages"), file("one.mem"), kEverything);
  }
  [[nodiscard]] PendingRequest begin_waiting(const Monitor& monitor) {
    PendingRequest load = begin_load(monitor, "Uffd", file("pages"));
    server_->await_withheld();
    return load;
  }
  std::optional<PoorPageServer> server_;
};

TEST_F(EmptyPageServerTest, ReadsAreAnsweredWhileALoadWaits) {
  Monitor monitor;
  PendingRequest load = begin_waiting(monitor);
  expect_answers(monitor);
  EXPECT_FALSE(load.is_answered());
  expect_ends(monitor);
}

TEST_F(EmptyPageServerTest, TermEndsTheMonitor) {
  Monitor monitor;
  PendingRequest load = begin_waiting(monitor);
  expect_ends(monitor);
}

TEST_F(EmptyPageServerTest, ASecondLoadIsRefusedOrWaits) {
  Monitor monitor;
  PendingRequest first = begin_waiting(monitor);
  PendingRequest second = begin_load(monitor, "Uffd", file("none"));
  expect_answers(monitor);
  server_.reset();
  const auto refused = first.answer_within(kPatienceSeconds);
  ASSERT_TRUE(refused);
  EXPECT_EQ(refused->status, 400) << refused->body;
  const auto other = second.answer_within(kPatienceSeconds);
  ASSERT_TRUE(other);
  EXPECT_EQ(other->status, 400) << other->body;
  expect_can_load(monitor);
}

TEST_F(EmptyPageServerTest, TheClientThatHangsUpHarmsNobody) {
  Monitor monitor;
  {
    const PendingRequest load = begin_waiting(monitor);
  }
  expect_answers(monitor);
  server_.reset();
  expect_can_load(monitor);
}

}  // namespace
}  // namespace mayfly::testing
