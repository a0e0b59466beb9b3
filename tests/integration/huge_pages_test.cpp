// Machines with huge_pages 2M and the host's pool: empty, too small, just enough, and two machines that want the same.

#include "tests/integration/kvm_required.h"
#include "tests/integration/outside_reader.h"
#include "tests/support/files.h"
#include "tests/support/logged_file_system.h"
#include "tests/support/monitor.h"
#include "tests/support/pending_request.h"
#include "vmm/memory/huge_page_pool.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <csignal>
#include <filesystem>

#include <fmt/format.h>

namespace mayfly::testing {
namespace {

/// The pool of the host, which this process has for itself and puts back. What others use of it is left to them.
class HugePagesTest : public KvmTest {
 protected:
  static constexpr std::uint64_t kMachinePages = 64;  // of 128 MiB

  void SetUp() override {
    KvmTest::SetUp();
    if (IsSkipped()) return;
    file_ = OwnedFd{::open((pool_path_ + "/nr_hugepages").c_str(), O_RDWR | O_CLOEXEC)};
    if (!file_) GTEST_SKIP() << "the host's pool of huge pages may not be changed";
    ASSERT_EQ(::flock(file_.get(), LOCK_EX), 0);
    total_before_ = pool().total;
  }
  void TearDown() override {
    if (file_) set_total(total_before_);
  }

  [[nodiscard]] HugePagePool pool() const { return read_huge_page_pool(pool_path_).value(); }
  void set_total(std::uint64_t pages) const {
    const std::string text = std::to_string(pages);
    ASSERT_EQ(::pwrite(file_.get(), text.data(), text.size(), 0), static_cast<ssize_t>(text.size()));
  }
  /// Makes the pool so large that a new machine can have so many pages.
  void offer(std::uint64_t pages) const {
    const HugePagePool now = pool();
    set_total(now.total - now.available() + pages);
    ASSERT_EQ(pool().available(), pages) << "the host has no room for " << pages << " huge pages";
  }

  static HttpAnswer start(Monitor& monitor, const std::string& boot_args = "console=ttyS0") {
    const auto set = monitor.put("/machine-config", R"({"vcpu_count": 1, "mem_size_mib": 128, "huge_pages": "2M"})");
    EXPECT_EQ(set.status, 204) << set.body;
    const auto source = monitor.put("/boot-source", R"({"kernel_image_path": ")" + guest_path("toucher") +
                                                        R"(", "boot_args": ")" + boot_args + "\"}");
    EXPECT_EQ(source.status, 204) << source.body;
    return monitor.put("/actions", R"({"action_type": "InstanceStart"})");
  }
  void expect_shortage(const HttpAnswer& answer, std::uint64_t available) const {
    EXPECT_EQ(answer.status, 400);
    EXPECT_NE(answer.body.find("need 64 pages of 2 MiB"), std::string::npos) << answer.body;
    EXPECT_NE(answer.body.find("nr_hugepages"), std::string::npos) << answer.body;
    if (MonitorJail::wanted()) return;  // where the pool's files cannot be seen
    EXPECT_NE(answer.body.find(fmt::format("has {} to give", available)), std::string::npos) << answer.body;
  }
  static void go_on(Monitor& monitor) {
    monitor.type("f");
    monitor.console_until("filled\n");
    monitor.type("q");
    monitor.console_until("GUEST PASS");
    EXPECT_EQ(monitor.wait(), 0);
  }
  void take_snapshot(Monitor& monitor) const {
    ASSERT_EQ(monitor.patch("/vm", R"({"state": "Paused"})").status, 204);
    const auto taken = monitor.put("/snapshot/create", "{" + files() + "}");
    ASSERT_EQ(taken.status, 204) << taken.body;
  }
  [[nodiscard]] std::string files() const {
    return R"("snapshot_path": ")" + scratch_.file("state") + R"(", "mem_file_path": ")" + scratch_.file("mem") + "\"";
  }

  /// The guest fills 4 MiB at once and the rest, of which nothing was touched before, when it is told to.
  static constexpr const char* kLazy = "console=ttyS0 span_mib=4 more_mib=56";

  std::string pool_path_{kHugePagePoolPath};
  OwnedFd file_;
  std::uint64_t total_before_ = 0;
  ScratchDirectory scratch_;
};

TEST_F(HugePagesTest, AnEmptyPoolIsToldBeforeTheStart) {
  offer(0);
  Monitor monitor;
  expect_shortage(start(monitor), 0);
  offer(kMachinePages);
  const auto again = monitor.put("/actions", R"({"action_type": "InstanceStart"})");
  EXPECT_EQ(again.status, 204) << again.body;
  monitor.console_until("toucher ready");
}

TEST_F(HugePagesTest, OnePageTooFewIsToldBeforeTheStart) {
  offer(kMachinePages - 1);
  Monitor monitor;
  expect_shortage(start(monitor), kMachinePages - 1);
  EXPECT_EQ(pool().available(), kMachinePages - 1) << "a refusal keeps nothing";
}

TEST_F(HugePagesTest, AMachineTakesItsPagesAtItsStartAndGivesThemBackAtItsEnd) {
  offer(kMachinePages);
  {
    Monitor monitor;
    const auto started = start(monitor, kLazy);
    ASSERT_EQ(started.status, 204) << started.body;
    EXPECT_EQ(pool().available(), 0U);
    monitor.console_until("toucher ready");
    EXPECT_GT(pool().free, 0U) << "what it has not touched is promised";
    go_on(monitor);
  }
  EXPECT_EQ(pool().available(), kMachinePages);
}

TEST_F(HugePagesTest, OfTwoThatWantThePoolTheSecondIsRefusedAndTheFirstRunsOn) {
  offer(kMachinePages + kMachinePages / 2);
  Monitor first;
  const auto started = start(first, kLazy);
  ASSERT_EQ(started.status, 204) << started.body;
  first.console_until("toucher ready");
  Monitor second;
  expect_shortage(start(second), kMachinePages / 2);
  go_on(first);
}

TEST_F(HugePagesTest, APoolThatIsMadeSmallerTakesNothingFromAMachineThatRuns) {
  offer(kMachinePages);
  Monitor monitor;
  const auto started = start(monitor, kLazy);
  ASSERT_EQ(started.status, 204) << started.body;
  monitor.console_until("toucher ready");
  set_total(0);
  go_on(monitor);
}

TEST_F(HugePagesTest, PagesThatAServerGivesComeFromThePoolThatWasReserved) {
  if (::access("/dev/userfaultfd", R_OK | W_OK) != 0) GTEST_SKIP() << "user faults are not permitted";
  offer(kMachinePages);
  {
    Monitor first;
    const auto started = start(first, kLazy);
    ASSERT_EQ(started.status, 204) << started.body;
    first.console_until("toucher ready");
    take_snapshot(first);
  }
  Pipe out;
  const ChildProcess server{{page_server_binary(), scratch_.file("pages"), scratch_.file("mem")},
                            {.in = -1, .out = out.write.get(), .err = STDERR_FILENO}};
  out.write.reset();
  std::string said;
  read_until(out.read.get(), said, "listening");
  const std::string load = R"({"snapshot_path": ")" + scratch_.file("state") +
                           R"(", "mem_backend": {"backend_type": "Uffd", "backend_path": ")" + scratch_.file("pages") +
                           "\"}}";
  offer(kMachinePages - 1);
  {
    Monitor refused;
    expect_shortage(refused.put("/snapshot/load", load), kMachinePages - 1);
  }
  offer(kMachinePages);
  Monitor again;
  const auto loaded = again.put("/snapshot/load", load);
  ASSERT_EQ(loaded.status, 204) << loaded.body;
  ASSERT_EQ(again.patch("/vm", R"({"state": "Resumed"})").status, 204);
  go_on(again);
}

TEST_F(HugePagesTest, AChainOfMemoryFilesIsReadIntoThePool) {
  const auto pair = [this](const std::string& name) {
    return R"("snapshot_path": ")" + scratch_.file(name + ".state") + R"(", "mem_file_path": ")" +
           scratch_.file(name + ".mem") + "\"";
  };
  offer(kMachinePages);
  {
    Monitor first;
    const auto started = start(first, kLazy);
    ASSERT_EQ(started.status, 204) << started.body;
    first.console_until("toucher ready");
    ASSERT_EQ(first.patch("/vm", R"({"state": "Paused"})").status, 204);
    ASSERT_EQ(first.put("/snapshot/create", "{" + pair("base") + "}").status, 204);
    ASSERT_EQ(first.patch("/vm", R"({"state": "Resumed"})").status, 204);
    first.type("f");
    first.console_until("filled\n");
    ASSERT_EQ(first.patch("/vm", R"({"state": "Paused"})").status, 204);
    ASSERT_EQ(first.put("/snapshot/create", "{" + pair("diff") + R"(, "snapshot_type": "Diff"})").status, 204);
  }
  Monitor again;
  const auto loaded =
      again.put("/snapshot/load", R"({"resume_vm": true, "snapshot_path": ")" + scratch_.file("diff.state") +
                                      R"(", "mem_backend": {"backend_type": "File", "backend_paths": [")" +
                                      scratch_.file("base.mem") + R"(", ")" + scratch_.file("diff.mem") + R"("]}})");
  ASSERT_EQ(loaded.status, 204) << loaded.body;
  again.type("g");
  again.console_until("touched");
  go_on(again);
}

TEST_F(HugePagesTest, ARestoreThatThePoolCannotHoldIsRefusedAndOneThatItCanRuns) {
  offer(kMachinePages);
  {
    Monitor first;
    const auto started = start(first, kLazy);
    ASSERT_EQ(started.status, 204) << started.body;
    first.console_until("toucher ready");
    take_snapshot(first);
    Monitor clone;
    expect_shortage(clone.put("/snapshot/load", "{" + files() + "}"), 0);
  }
  Monitor again;
  const auto loaded = again.put("/snapshot/load", "{" + files() + "}");
  ASSERT_EQ(loaded.status, 204) << loaded.body;
  set_total(0);
  ASSERT_EQ(again.patch("/vm", R"({"state": "Resumed"})").status, 204);
  go_on(again);
}

TEST_F(HugePagesTest, MemoryThatIsReadFromOutsideIsCountedByTheirSize) {
  offer(kMachinePages);
  Monitor monitor;
  ASSERT_EQ(start(monitor).status, 204);
  monitor.console_until("ready");
  const OutsideReader reader{monitor};
  EXPECT_EQ(reader.page_size(), 2U << 20);
  EXPECT_EQ(reader.pages(), kMachinePages);
  const auto resident = reader.bits("/memory", "resident");
  const auto empty = reader.bits("/memory", "empty");
  EXPECT_TRUE(resident[0]);
  EXPECT_FALSE(empty[0]) << "the guest's tables";
  EXPECT_LT(std::ranges::count(resident, true), 64);
  go_on(monitor);
}

/// Its memory is read, not mapped.
TEST_F(HugePagesTest, AMachineIsAnsweredAndEndsWhileItsMemoryIsReadSlowly) {
  if (::geteuid() != 0 || ::access("/dev/fuse", R_OK | W_OK) != 0)
    GTEST_SKIP() << "a file system of this test's own needs root and /dev/fuse";
  enter_own_mounts();
  const ScratchDirectory scratch;
  LoggedFileSystem disk{scratch.file("disk"), {}};
  const std::string base = make_file(scratch.file("base"), std::string(1 << 20, 'x'));
  const std::string memory = scratch.file("disk/memory");
  {
    Monitor first;
    EXPECT_EQ(first.put("/machine-config", R"({"mem_size_mib": 128, "vcpu_count": 1})").status, 204);
    EXPECT_EQ(first
                  .put("/drives/data", R"({"drive_id": "data", "is_root_device": false, "base_path": ")" + base +
                                           R"(", "path_on_host": ")" + scratch.file("overlay") + "\"}")
                  .status,
              204);
    first.boot("counter", "console=ttyS0 mib=32");
    first.console_until("counter ready");
    EXPECT_EQ(first.patch("/vm", R"({"state": "Paused"})").status, 204);
    const auto taken = first.put("/snapshot/create", R"({"snapshot_path": ")" + scratch.file("state") +
                                                         R"(", "mem_file_path": ")" + memory + "\"}");
    EXPECT_EQ(taken.status, 204) << taken.body;
    first.signal(SIGTERM);
    EXPECT_EQ(first.wait(), 128 + SIGTERM);
  }
  offer(kMachinePages);
  const std::string clone = scratch.file("clone");
  const std::string request = R"({"resume_vm": true, "huge_pages": "2M", "snapshot_path": ")" + scratch.file("state") +
                              R"(", "mem_backend": {"backend_type": "File", "backend_path": ")" + memory +
                              R"("}, "drive_overrides": [{"drive_id": "data", "path_on_host": ")" + clone + "\"}]}";
  disk.delay([](const DiskRequest& each) { return each.kind == DiskRequest::Kind::Read ? 200'000.0 : 0.0; });
  {
    Monitor monitor;
    PendingRequest load{monitor.socket_path(), "PUT", "/snapshot/load", request};
    disk.await_held(1);
    const auto answer = PendingRequest{monitor.socket_path(), "GET", "/", ""}.answer_within(3);
    ASSERT_TRUE(answer);
    EXPECT_EQ(answer->status, 200) << answer->body;
    EXPECT_FALSE(load.is_answered());
    EXPECT_TRUE(std::filesystem::exists(clone));
    monitor.signal(SIGTERM);
    EXPECT_EQ(monitor.wait(), 128 + SIGTERM);
    EXPECT_EQ(monitor.log_until("").find("did not end in 5 s"), std::string::npos) << monitor.log_until("");
    EXPECT_FALSE(std::filesystem::exists(clone)) << "an overlay of a machine that never was";
    EXPECT_FALSE(std::filesystem::exists(monitor.socket_path()));
  }
  disk.delay({});
  Monitor monitor;
  const auto loaded = monitor.put("/snapshot/load", request);
  EXPECT_EQ(loaded.status, 204) << loaded.body;
  monitor.type("q");
  EXPECT_NE(monitor.console_to_end().find("GUEST PASS"), std::string::npos);
  EXPECT_EQ(monitor.wait(), 0);
}

}  // namespace
}  // namespace mayfly::testing
