// Live snapshots: the machine stands still for a moment, and goes on while its memory is written.

#include "snapshot/verify.h"
#include "tests/integration/answers_fixture.h"
#include "tests/integration/snapshot_fixture.h"
#include "tests/support/loop_device.h"
#include "tests/support/repeats.h"

#include <fcntl.h>
#include <pty.h>
#include <sys/resource.h>
#include <unistd.h>

#include <charconv>
#include <cstring>
#include <filesystem>
#include <fstream>

namespace mayfly::testing {
namespace {

namespace fs = std::filesystem;

constexpr const char* kLive = R"("live": true)";
constexpr std::uint64_t kPage = 4096;
constexpr std::uint64_t kBase = 32 << 20;  // of the counter's pages

std::string line_of(const fs::path& file, std::string_view key) {
  std::ifstream lines{file};
  for (std::string line; std::getline(lines, line);)
    if (line.starts_with(key)) return line.substr(line.find_first_not_of(" \t", key.size()));
  return "";
}

pid_t parent_of(pid_t process) {
  const std::string text = line_of("/proc/" + std::to_string(process) + "/status", "PPid:");
  pid_t parent = 0;
  std::from_chars(text.data(), text.data() + text.size(), parent);
  return parent;
}

/// The processes that hold memory for a monitor, which may be below its jailer.
std::vector<pid_t> holders_of(pid_t monitor) {
  std::vector<pid_t> found;
  for (const auto& entry : fs::directory_iterator{"/proc"}) {
    const std::string name = entry.path().filename().string();
    pid_t process = 0;
    if (std::from_chars(name.data(), name.data() + name.size(), process).ec != std::errc{}) continue;
    if (line_of(entry.path() / "status", "Name:") != "memory-holder") continue;
    const pid_t parent = parent_of(process);
    if (parent == monitor || parent_of(parent) == monitor) found.push_back(process);
  }
  return found;
}

std::vector<std::string> live_options() { return {"--live-snapshots"}; }

/// That memory is of one moment: the counter's pages up to one have a number, those behind it the number before. In the
/// page between them the first word may be ahead of the last. The number.
std::uint64_t expect_one_moment(const std::string& memory_file, std::uint64_t pages) {
  const OwnedFd file{::open(memory_file.c_str(), O_RDONLY | O_CLOEXEC)};
  std::vector<std::byte> bytes(pages * kPage);
  EXPECT_EQ(::pread(file.get(), bytes.data(), bytes.size(), kBase), static_cast<ssize_t>(bytes.size()));
  const auto word = [&](std::uint64_t at) {
    std::uint64_t value = 0;
    std::memcpy(&value, bytes.data() + at, sizeof value);
    return value;
  };
  const std::uint64_t ahead = word(0);
  std::uint64_t steps = 0;
  std::uint64_t before = ahead;
  for (std::uint64_t page = 0; page < pages; ++page)
    for (const std::uint64_t offset : {std::uint64_t{0}, kPage - 8}) {
      const std::uint64_t now = word(page * kPage + offset);
      if (now == before) continue;
      ++steps;
      EXPECT_EQ(now + 1, before) << "page " << page << " of " << memory_file;
      before = now;
    }
  EXPECT_LE(steps, 1U) << "more than one moment in " << memory_file;
  return ahead;
}

class LiveTest : public SnapshotTest {
 protected:
  static constexpr unsigned kMib = 8;
  static constexpr std::uint64_t kPages = kMib * 256;

  static void boot_counter(Monitor& monitor, const std::string& more = "") {
    must(monitor.put("/machine-config", R"({"mem_size_mib": 64, "vcpu_count": 1)" + more + "}"));
    monitor.boot("counter", "console=ttyS0 mib=" + std::to_string(kMib));
    monitor.console_until("counter ready");
  }
  [[nodiscard]] std::string body(const std::string& state, const std::string& memory, const std::string& type = "Full",
                                 const std::string& more = kLive) const {
    return R"({"snapshot_type": ")" + type + R"(", "snapshot_path": ")" + file(state) + R"(", "mem_file_path": ")" +
           file(memory) + "\"" + (more.empty() ? "" : ", " + more) + "}";
  }
  [[nodiscard]] HttpAnswer live(Monitor& monitor, const std::string& state, const std::string& memory,
                                const std::string& type = "Full") const {
    return monitor.put("/snapshot/create", body(state, memory, type));
  }
  void expect_pair(const std::string& state, const std::string& memory) const {
    const auto pair = verify_pair(file(state), file(memory));
    EXPECT_TRUE(pair) << pair.error().message;
  }
  /// The guest is in the round after the one that it says it has ended.
  static void expect_counts(Monitor& monitor) {
    monitor.type("t");
    monitor.console_until("round ");
  }
  static void expect_state(Monitor& monitor, const std::string& state) {
    EXPECT_NE(monitor.get("/").body.find("\"state\":\"" + state + "\""), std::string::npos);
  }
};

TEST_F(LiveTest, FiftyOfARunningGuestAreEachOfOneMoment) {
  constexpr int kTimes = repeats(50, 10);
  Monitor monitor{live_options()};
  boot_counter(monitor);
  std::uint64_t first = 0;
  std::uint64_t last = 0;
  for (int i = 0; i < kTimes; ++i) {
    must(live(monitor, "state", "memory"));
    if (HasFatalFailure()) return;
    expect_pair("state", "memory");
    const std::uint64_t round = expect_one_moment(file("memory"), kPages);
    EXPECT_GE(round, last) << "snapshot " << i;
    if (i == 0) first = round;
    last = round;
  }
  EXPECT_GT(last, first) << "the guest went on meanwhile";
  expect_state(monitor, "Running");
  EXPECT_TRUE(holders_of(monitor.process().pid()).empty());
  end(monitor);
}

TEST_F(LiveTest, TheGuestGoesOnFromOneAndSoDoesOneOfTheRestoredMachine) {
  Monitor first{live_options()};
  boot_counter(first);
  must(live(first, "0", "0.mem"));
  Monitor second{live_options()};  // its memory is mapped from a file
  must(load(second, "0", "0.mem"));
  expect_counts(second);
  must(live(second, "1", "1.mem"));
  expect_one_moment(file("1.mem"), kPages);
  Monitor third;
  must(load(third, "1", "1.mem"));
  for (Monitor* each : {&first, &second, &third}) {
    expect_counts(*each);
    end(*each);
  }
}

TEST_F(LiveTest, OneOfAPausedMachineLeavesItPaused) {
  Monitor monitor{live_options()};
  boot_counter(monitor);
  pause(monitor);
  must(live(monitor, "0", "0.mem"));
  must(monitor.put("/snapshot/create", body("1", "1.mem", "Full", "")));
  expect_state(monitor, "Paused");
  EXPECT_EQ(expect_one_moment(file("0.mem"), kPages), expect_one_moment(file("1.mem"), kPages));
  resume(monitor);
  end(monitor);
}

TEST_F(LiveTest, ManyVcpusStandStillAtOnce) {
  Monitor monitor{live_options()};
  boot(monitor, R"("mem_size_mib": 128, "vcpu_count": 4)");
  must(live(monitor, "state", "memory"));
  round(monitor, 1);
  Monitor again;
  must(load(again, "state", "memory"));
  round(again, 1);
  end(again);
  end(monitor);
}

class LiveDiffTest : public LiveTest, public ::testing::WithParamInterface<bool> {
 protected:
  [[nodiscard]] static std::string tracking() {
    return GetParam() ? R"(, "track_dirty_pages": true)" : R"(, "track_dirty_pages": false)";
  }
  void expect_goes_on(const std::string& state, const std::vector<std::string>& memory) const {
    Monitor again;
    must(load(again, state, memory));
    expect_counts(again);
    end(again);
  }
};

TEST_P(LiveDiffTest, DiffsAfterALiveSnapshotAreWholeLiveOrNot) {
  Monitor monitor{live_options()};
  boot_counter(monitor, tracking());
  must(live(monitor, "0", "0.mem"));
  must(live(monitor, "1", "1.diff", "Diff"));
  expect_goes_on("1", {"0.mem", "1.diff"});
  pause(monitor);
  must(monitor.put("/snapshot/create", body("2", "2.diff", "Diff", "")));
  resume(monitor);
  expect_goes_on("2", {"0.mem", "1.diff", "2.diff"});
  must(live(monitor, "3", "3.diff", "Diff"));
  expect_goes_on("3", {"0.mem", "1.diff", "2.diff", "3.diff"});
  end(monitor);
}

TEST_P(LiveDiffTest, ALiveDiffOntoItsBaseIsMergedAgainAndAgain) {
  Monitor monitor{live_options()};
  boot_counter(monitor, tracking());
  must(live(monitor, "state", "memory"));
  for (int i = 0; i < 3; ++i) {
    must(live(monitor, "state", "memory", "Diff"));
    expect_pair("state", "memory");
    expect_one_moment(file("memory"), kPages);
  }
  expect_goes_on("state", {"memory"});
  end(monitor);
}

INSTANTIATE_TEST_SUITE_P(All, LiveDiffTest, ::testing::Bool(),
                         [](const auto& info) { return info.param ? "Tracked" : "Untracked"; });

TEST_F(LiveTest, ARevertGoesBackAfterOne) {
  Monitor first{live_options()};
  boot_counter(first);
  must(live(first, "0", "0.mem"));
  end(first);
  Monitor monitor{live_options()};
  must(load(monitor, "0", "0.mem", R"(, "resume_vm": true, "revertible": true)"));
  const std::uint64_t before = expect_one_moment(file("0.mem"), kPages);
  for (int i = 0; i < 3; ++i) {
    expect_counts(monitor);
    must(live(monitor, "1", "1.mem"));
    EXPECT_GE(expect_one_moment(file("1.mem"), kPages), before);
    must(monitor.put("/snapshot/revert", R"({"resume_vm": true})"));
  }
  end(monitor);
}

TEST_F(LiveTest, DrivesPlainAndInLayersAreAsTheyWereInThePause) {
  const std::string image(1 << 20, 'x');
  Monitor monitor{live_options()};
  const std::string plain = make_file(file("plain"), image);
  must(monitor.put("/drives/plain",
                   R"({"drive_id": "plain", "is_root_device": false, "path_on_host": ")" + plain + "\"}"));
  must(monitor.put("/drives/layers", R"({"drive_id": "layers", "is_root_device": false, "path_on_host": ")" +
                                         file("overlay") + R"(", "base_path": ")" + make_file(file("base"), image) +
                                         "\"}"));
  boot_counter(monitor);
  must(live(monitor, "state", "memory"));
  expect_pair("state", "memory");
  end(monitor);
  Monitor again;
  must(load(again, "state", "memory"));
  expect_counts(again);
  end(again);
  fs::last_write_time(plain, fs::last_write_time(plain) + std::chrono::seconds{1});
  Monitor refused;
  EXPECT_NE(load(refused, "state", "memory").body.find("drive plain: " + plain + " has changed"), std::string::npos);
}

TEST_F(LiveTest, TheCommandLineTakesOne) {
  Monitor monitor{live_options()};
  boot_counter(monitor);
  ChildProcess command{{monitor_binary(), "snapshot", "create", monitor.socket_path(), "--live", "--state",
                        file("state"), "--memory", file("memory")},
                       {}};
  EXPECT_EQ(command.wait(), 0);
  expect_pair("state", "memory");
  expect_one_moment(file("memory"), kPages);
  expect_state(monitor, "Running");
  end(monitor);
  Monitor other;
  boot_counter(other);
  ChildProcess refused{{monitor_binary(), "snapshot", "create", other.socket_path(), "--live", "--state", file("state"),
                        "--memory", file("memory")},
                       {}};
  EXPECT_EQ(refused.wait(), 1);
  end(other);
}

// --- Refusals --------------------------------------------------------------------------------------------------------

TEST_F(LiveTest, IsRefusedWhereTheProcessMayNotOrNothingRuns) {
  Monitor monitor;
  EXPECT_NE(live(monitor, "state", "memory").body.find("after the machine has started"), std::string::npos);
  EXPECT_EQ(monitor.get("/snapshot").body, R"({"state":"None"})");
  EXPECT_NE(monitor.send("DELETE", "/snapshot").body.find("no snapshot is being written"), std::string::npos);
  boot_counter(monitor);
  const HttpAnswer answer = live(monitor, "state", "memory");
  EXPECT_EQ(answer.status, 400);
  EXPECT_NE(answer.body.find("was started without --live-snapshots"), std::string::npos) << answer.body;
  EXPECT_NE(monitor.put("/snapshot/create", body("state", "memory", "Full", ""))
                .body.find("only possible while the machine is paused"),
            std::string::npos);
  pause(monitor);
  EXPECT_NE(monitor.put("/snapshot/create", body("state", "memory", "Full", R"("max_copied_mib": 1)"))
                .body.find("max_copied_mib is for a live snapshot"),
            std::string::npos);
  resume(monitor);
  expect_state(monitor, "Running");
  end(monitor);
}

TEST_F(LiveTest, IsRefusedWhereSomebodyElseGivesPages) {
  Monitor first{live_options()};
  boot_counter(first);
  must(live(first, "0", "0.mem"));
  end(first);
  Monitor monitor{live_options()};
  must(load(monitor, "0", "0.mem",
            R"(, "resume_vm": true, "working_set": {"mode": "Record", "path": ")" + file("set") + "\"}"));
  const HttpAnswer answer = live(monitor, "1", "1.mem");
  EXPECT_EQ(answer.status, 400);
  EXPECT_NE(answer.body.find("the recording of a working set"), std::string::npos) << answer.body;
  end(monitor);
}

/// Nothing would tell a load that such a drive has changed since.
TEST_F(LiveTest, IsRefusedWhereTheGuestWritesToABlockDevice) {
  if (::geteuid() != 0) GTEST_SKIP() << "device nodes take root";
  const auto device = LoopDevice::create(make_file(file("backing"), std::string(1 << 20, 'x')));
  if (!device) GTEST_SKIP() << "this host has no loop devices to give";
  device->make_node(file("node"));
  const auto boot_on = [this](Monitor& monitor, const std::string& more) {
    must(
        monitor.put("/drives/data", R"({"drive_id": "data", "is_root_device": false, )" + more + file("node") + "\"}"));
    boot_counter(monitor);
  };
  {
    Monitor monitor{live_options()};
    boot_on(monitor, R"("path_on_host": ")");
    const std::string frozen =
        kLive + (R"(, "frozen_drives": [{"drive_id": "data", "path_on_host": ")" + file("frozen") + "\"}]");
    for (const std::string& more : {std::string{kLive}, frozen}) {
      const HttpAnswer answer = monitor.put("/snapshot/create", body("state", "memory", "Full", more));
      EXPECT_EQ(answer.status, 400);
      for (const std::string& word : {std::string{"drive data"}, file("node"), std::string{"base_path"},
                                      std::string{"is_read_only"}, std::string{"pause the machine"}})
        EXPECT_NE(answer.body.find(word), std::string::npos) << answer.body;
    }
    EXPECT_FALSE(fs::exists(file("state")));
    // The host can copy the device before the machine goes on.
    pause(monitor);
    must(monitor.put("/snapshot/create", body("0", "0.mem", "Full", "")));
    resume(monitor);
    end(monitor);
  }
  {
    Monitor again;
    must(load(again, "0", "0.mem"));
    end(again);
  }
  for (const std::string& more : {std::string{R"("is_read_only": true, "path_on_host": ")"},
                                  R"("path_on_host": ")" + file("overlay") + R"(", "base_path": ")"}) {
    Monitor monitor{live_options()};
    boot_on(monitor, more);
    must(live(monitor, "state", "memory"));
    end(monitor);
  }
}

TEST_F(LiveTest, AFullDiskLeavesTheOldPairAndTheMachineRunning) {
  Monitor monitor{live_options()};
  boot_counter(monitor);
  must(live(monitor, "state", "memory"));
  const rlimit small{.rlim_cur = 40 << 20, .rlim_max = RLIM_INFINITY};
  rlimit usual{};
  ASSERT_EQ(::prlimit(monitor.process().pid(), RLIMIT_FSIZE, &small, &usual), 0);
  const HttpAnswer answer = live(monitor, "state", "memory");
  EXPECT_EQ(answer.status, 400);
  EXPECT_NE(answer.body.find("cannot write"), std::string::npos) << answer.body;
  ASSERT_EQ(::prlimit(monitor.process().pid(), RLIMIT_FSIZE, &usual, nullptr), 0);
  expect_pair("state", "memory");
  for (const fs::directory_entry& entry : fs::directory_iterator{file("")})
    EXPECT_FALSE(entry.path().string().ends_with(".mayfly-new")) << entry.path();
  EXPECT_TRUE(holders_of(monitor.process().pid()).empty());
  must(live(monitor, "state", "memory", "Diff"));  // of the one before
  expect_one_moment(file("memory"), kPages);
  end(monitor);
}

// --- While one is written: to a disk that does not answer ------------------------------------------------------------

class HungLiveTest : public HangingDiskTest {
 protected:
  static constexpr std::uint64_t kPages = 32 * 256;

  void boot(Monitor& monitor, const std::string& more = "") {
    must(monitor.put("/machine-config", R"({"mem_size_mib": 128, "vcpu_count": 1)" + more + "}"));
    monitor.boot("counter", "console=ttyS0 mib=32");
    monitor.console_until("counter ready");
  }
  [[nodiscard]] std::string body(const std::string& name) const {
    return R"({"live": true, "snapshot_path": ")" + file("disk/" + name + ".state") + R"(", "mem_file_path": ")" +
           file("disk/" + name + ".mem") + "\"}";
  }
  /// One that has come to its memory's first write.
  [[nodiscard]] PendingRequest begin_hung(const Monitor& monitor) {
    hang(DiskRequest::Kind::Write);
    PendingRequest snapshot = begin(monitor, "PUT", "/snapshot/create", body("one"));
    disk_->await_held(1);
    return snapshot;
  }
  static void expect_counts(Monitor& monitor, const std::string& what) {
    monitor.type("t");
    monitor.console_until(what);
  }
  [[nodiscard]] std::string on_disk() const {
    std::string names;
    for (const auto& entry : fs::directory_iterator{file("disk")}) names += entry.path().filename().string() + " ";
    return names;
  }
  static void expect_no_holder(pid_t holder) {
    // It may still be on its way out where nobody has waited for it: of a monitor that was killed.
    const double begin = now_us();
    while (::kill(holder, 0) == 0 && line_of("/proc/" + std::to_string(holder) + "/status", "State:").front() != 'Z')
      ASSERT_LT(now_us() - begin, kEndSeconds * 1e6) << "process " << holder << " is left over";
  }
  static void end(Monitor& monitor) {
    monitor.type("q");
    EXPECT_NE(monitor.console_to_end().find("GUEST PASS"), std::string::npos);
    EXPECT_EQ(monitor.wait(), 0);
  }
};

TEST_F(HungLiveTest, TheMachineGoesOnAndItsClientsAreAnswered) {
  Monitor monitor{live_options()};
  boot(monitor);
  PendingRequest snapshot = begin_hung(monitor);
  expect_counts(monitor, "round ");
  expect_answers(monitor);
  const HttpAnswer status = monitor.get("/snapshot");
  EXPECT_NE(status.body.find(R"({"state":"Writing","snapshot_path":")" + file("disk/one.state")), std::string::npos)
      << status.body;
  EXPECT_NE(status.body.find(R"("live":true,"done_bytes":0,"total_bytes":)"), std::string::npos) << status.body;
  must(begin(monitor, "PATCH", "/vm", kPaused).answer_within(kAtOnceSeconds));
  for (const auto& [path, request] : {std::pair{"/snapshot/create", body("two")},
                                      std::pair{"/snapshot/create", R"({"snapshot_path": ")" + file("x") +
                                                                        R"(", "mem_file_path": ")" + file("y") + "\"}"},
                                      std::pair{"/snapshot/revert", std::string{"{}"}}}) {
    const auto refused = begin(monitor, "PUT", path, request).answer_within(kAtOnceSeconds);
    ASSERT_TRUE(refused);
    EXPECT_EQ(refused->status, 400);
    EXPECT_NE(refused->body.find("a live snapshot is being written"), std::string::npos) << refused->body;
  }
  must(begin(monitor, "PATCH", "/vm", kResumed).answer_within(kAtOnceSeconds));
  EXPECT_FALSE(snapshot.is_answered());
  const auto holders = holders_of(monitor.process().pid());
  ASSERT_EQ(holders.size(), 1U);
  Pipe listed;
  ChildProcess list{{monitor_binary(), "ps"}, {.out = listed.write.get()}};
  EXPECT_EQ(list.wait(), 0);
  listed.write.reset();
  std::string machines;
  read_until(listed.read.get(), machines, "");
  EXPECT_NE(machines.find(' ' + std::to_string(monitor.process().pid()) + ' '), std::string::npos) << machines;
  EXPECT_EQ(machines.find(' ' + std::to_string(holders.front()) + ' '), std::string::npos) << machines;
  EXPECT_TRUE(fs::is_empty("/proc/" + std::to_string(holders.front()) + "/fd"));
  recover();
  must(snapshot.answer_within(kPatienceSeconds));
  expect_one_moment(file("disk/one.mem"), kPages);
  EXPECT_TRUE(holders_of(monitor.process().pid()).empty());
  end(monitor);
}

TEST_F(HungLiveTest, AskingForDirtyMemoryMeanwhileForgetsNothingOfTheNextDiff) {
  for (const bool after_another : {false, true}) {
    Monitor monitor{live_options()};
    boot(monitor, R"(, "track_dirty_pages": true)");
    if (after_another) must(begin(monitor, "PUT", "/snapshot/create", body("zero")).answer_within(kPatienceSeconds));
    PendingRequest snapshot = begin_hung(monitor);
    expect_counts(monitor, "round ");
    must(begin(monitor, "PATCH", "/vm", kPaused).answer_within(kAtOnceSeconds));
    const HttpAnswer dirty = monitor.get("/memory/dirty");
    EXPECT_EQ(dirty.status, 400);
    EXPECT_NE(dirty.body.find("a live snapshot is being written"), std::string::npos) << dirty.body.substr(0, 200);
    recover();
    must(snapshot.answer_within(kPatienceSeconds));
    // The guest has not run since: only the log knows what it wrote while the first one was written.
    std::string diff = body("two");
    diff.insert(1, R"("snapshot_type": "Diff", )");
    must(begin(monitor, "PUT", "/snapshot/create", diff).answer_within(kPatienceSeconds));
    must(begin(monitor, "PATCH", "/vm", kResumed).answer_within(kAtOnceSeconds));
    end(monitor);
    Monitor again;
    must(again.put("/snapshot/load", R"({"snapshot_path": ")" + file("disk/two.state") +
                                         R"(", "mem_backend": {"backend_type": "File", "backend_paths": [")" +
                                         file("disk/one.mem") + R"(", ")" + file("disk/two.mem") +
                                         R"("]}, "resume_vm": true})"));
    expect_counts(again, "round ");
    end(again);
  }
}

TEST_F(HungLiveTest, AMachineThatCopiesTooMuchIsHeldBackUntilItIsWritten) {
  Monitor monitor{live_options()};
  boot(monitor);
  hang(DiskRequest::Kind::Write);
  std::string bounded = body("one");
  bounded.insert(1, R"("max_copied_mib": 4, )");
  PendingRequest snapshot = begin(monitor, "PUT", "/snapshot/create", bounded);
  const auto metric = [&](const std::string& name) {
    const std::string metrics = monitor.get("/metrics/prometheus").body;
    const std::string key = "\nmayfly_" + name + "_total ";
    return std::atoi(metrics.c_str() + metrics.find(key) + key.size());
  };
  const double begun = now_us();
  while (metric("snapshot_held_back_count") == 0) ASSERT_LT(now_us() - begun, kPatienceSeconds * 1e6);
  EXPECT_NE(monitor.get("/").body.find(R"("state":"Running")"), std::string::npos);
  monitor.type("t");  // which it would answer
  must(begin(monitor, "PATCH", "/vm", kPaused).answer_within(kAtOnceSeconds));
  const int said = metric("uart_write_count");  // now that it has parked
  must(begin(monitor, "PATCH", "/vm", kResumed).answer_within(kAtOnceSeconds));
  expect_answers(monitor);
  EXPECT_EQ(metric("uart_write_count"), said) << "it stands still";
  EXPECT_EQ(metric("snapshot_held_back_count"), 1);
  // When memory is written it is not held any more: the machine does not wait for the files to be on the disk.
  recover();
  hang(DiskRequest::Kind::Sync);
  expect_counts(monitor, "round ");
  EXPECT_FALSE(snapshot.is_answered());
  recover();
  must(snapshot.answer_within(kPatienceSeconds));
  expect_one_moment(file("disk/one.mem"), kPages);
  end(monitor);
}

TEST_F(HungLiveTest, AMachineThatIsHeldBackGoesOnWhereItsSnapshotIsCancelledAndEnds) {
  for (const bool cancels : {true, false}) {
    Monitor monitor{live_options()};
    boot(monitor);
    hang(DiskRequest::Kind::Write);
    std::string bounded = body("one");
    bounded.insert(1, R"("max_copied_mib": 1, )");
    PendingRequest snapshot = begin(monitor, "PUT", "/snapshot/create", bounded);
    const double begun = now_us();
    while (monitor.get("/metrics/prometheus").body.find("held_back_count_total 1\n") == std::string::npos)
      ASSERT_LT(now_us() - begun, kPatienceSeconds * 1e6);
    if (!cancels) {
      expect_ends(monitor);
      recover();
      continue;
    }
    PendingRequest cancel = begin(monitor, "DELETE", "/snapshot");
    recover();
    must(cancel.answer_within(kPatienceSeconds));
    expect_counts(monitor, "round ");
    end(monitor);
  }
}

TEST_F(HungLiveTest, AnInterruptedCommandCancelsIt) {
  Monitor monitor{live_options()};
  boot(monitor);
  slow_down(DiskRequest::Kind::Write, 200);  // so it would take many seconds
  ChildProcess command{{monitor_binary(), "snapshot", "create", monitor.socket_path(), "--live", "--state",
                        file("disk/one.state"), "--memory", file("disk/one.mem")},
                       {}};
  const double begun = now_us();
  while (monitor.get("/snapshot").body.find("Writing") == std::string::npos)
    ASSERT_LT(now_us() - begun, kPatienceSeconds * 1e6);
  command.signal(SIGTERM);
  EXPECT_EQ(command.wait(), 256 + SIGTERM);
  recover();
  EXPECT_EQ(monitor.get("/snapshot").body, R"({"state":"None"})");
  EXPECT_EQ(on_disk(), "");
  expect_counts(monitor, "round ");
  end(monitor);
}

TEST_F(HungLiveTest, ACancelledOneLeavesNothing) {
  Monitor monitor{live_options()};
  boot(monitor);
  PendingRequest snapshot = begin_hung(monitor);
  PendingRequest cancel = begin(monitor, "DELETE", "/snapshot");
  expect_answers(monitor);
  recover();
  must(cancel.answer_within(kPatienceSeconds));
  const auto answer = snapshot.answer_within(kPatienceSeconds);
  ASSERT_TRUE(answer);
  EXPECT_EQ(answer->status, 400);
  EXPECT_NE(answer->body.find("the snapshot was cancelled"), std::string::npos) << answer->body;
  EXPECT_EQ(on_disk(), "");
  EXPECT_TRUE(holders_of(monitor.process().pid()).empty());
  must(begin(monitor, "PUT", "/snapshot/create", body("two")).answer_within(kPatienceSeconds));
  end(monitor);
}

/// The machine stands still until its overlay's disk answers: that is part of the snapshot, to who asks and to who cancels.
TEST_F(HungLiveTest, OneThatWaitsForAnOverlaysDiskIsShownAndCancelled) {
  Monitor monitor{live_options()};
  make_file(file("base"), std::string(8 << 20, 'x'));
  must(monitor.put("/machine-config", R"({"mem_size_mib": 64, "vcpu_count": 1})"));
  must(monitor.put("/drives/data", R"({"drive_id": "data", "is_root_device": false, "base_path": ")" + file("base") +
                                       R"(", "path_on_host": ")" + file("disk/overlay") + "\"}"));
  monitor.boot("stuck_drive");
  monitor.console_until("stuck_drive ready");
  for (const std::string& frozen : {std::string{}, R"("frozen_drives": [{"drive_id": "data", "path_on_host": ")" +
                                                       file("disk/frozen") + "\"}], "}) {
    hang(DiskRequest::Kind::Sync);
    std::string request = body("one");
    request.insert(1, frozen);
    PendingRequest snapshot = begin(monitor, "PUT", "/snapshot/create", request);
    disk_->await_held(1);
    expect_answers(monitor);
    EXPECT_NE(monitor.get("/snapshot").body.find(R"("live":true,"done_bytes":0,"total_bytes":0)"), std::string::npos);
    PendingRequest cancel = begin(monitor, "DELETE", "/snapshot");
    EXPECT_FALSE(snapshot.is_answered());
    recover();
    must(cancel.answer_within(kPatienceSeconds));
    const auto answer = snapshot.answer_within(kPatienceSeconds);
    ASSERT_TRUE(answer);
    EXPECT_NE(answer->body.find("the snapshot was cancelled"), std::string::npos) << answer->body;
    EXPECT_EQ(on_disk(), "overlay ");
    EXPECT_EQ(monitor.get("/snapshot").body, R"({"state":"None"})");
  }
  must(begin(monitor, "PUT", "/snapshot/create", body("one")).answer_within(kPatienceSeconds));
  expect_ends(monitor);
}

/// The guest's memory was read before it could be told that the disk has lost what it had written.
TEST_F(HungLiveTest, ADriveWhoseDiskHasFailedMeanwhileFailsIt) {
  Monitor monitor{live_options()};
  must(monitor.put("/machine-config", R"({"mem_size_mib": 64, "vcpu_count": 1})"));
  must(monitor.put("/drives/data",
                   R"({"drive_id": "data", "is_root_device": false, "cache_type": "Writeback", "path_on_host": ")" +
                       make_file(file("disk/image"), std::string(8 << 20, 'x')) + "\"}"));
  monitor.boot("stuck_drive");
  monitor.console_until("stuck_drive ready");
  PendingRequest snapshot = begin_hung(monitor);
  disk_->fail_once(DiskRequest::Kind::Sync, "image");
  must(monitor.patch("/drives/data", R"({"drive_id": "data", "path_on_host": ")" +
                                         make_file(file("other"), std::string(8 << 20, 'y')) + "\"}"));
  monitor.log_until("which was replaced, failed");
  recover();
  const auto answer = snapshot.answer_within(kPatienceSeconds);
  ASSERT_TRUE(answer);
  EXPECT_NE(answer->body.find("drive data: " + file("disk/image") + ": a flush has failed since the pause"),
            std::string::npos)
      << answer->body;
  EXPECT_EQ(on_disk(), "image ");
  must(begin(monitor, "PUT", "/snapshot/create", body("two")).answer_within(kPatienceSeconds));
  expect_ends(monitor);
}

TEST_F(HungLiveTest, APlainOneTellsHowFarItIsAndIsCancelledToo) {
  Monitor monitor{live_options()};
  boot(monitor);
  must(begin(monitor, "PATCH", "/vm", kPaused).answer_within(kAtOnceSeconds));
  hang(DiskRequest::Kind::Write);
  PendingRequest snapshot = begin_snapshot(monitor, "disk/plain");
  disk_->await_held(1);
  EXPECT_NE(monitor.get("/snapshot").body.find(R"("live":false,"done_bytes":)"), std::string::npos);
  EXPECT_TRUE(holders_of(monitor.process().pid()).empty());
  PendingRequest cancel = begin(monitor, "DELETE", "/snapshot");
  expect_answers(monitor);
  recover();
  must(cancel.answer_within(kPatienceSeconds));
  const auto answer = snapshot.answer_within(kPatienceSeconds);
  ASSERT_TRUE(answer);
  EXPECT_NE(answer->body.find("the snapshot was cancelled"), std::string::npos) << answer->body;
  EXPECT_EQ(on_disk(), "");
  must(begin(monitor, "PATCH", "/vm", kResumed).answer_within(kAtOnceSeconds));
  end(monitor);
}

/// The base's data are read and written as well, where the file system shares no blocks.
TEST_F(HungLiveTest, ADiffOntoItsBaseHoldsNoMemoryWhileTheBaseIsCopiedAndIsCancelledAtOnce) {
  Monitor monitor{live_options()};
  boot(monitor, R"(, "track_dirty_pages": true)");
  must(begin(monitor, "PATCH", "/vm", kPaused).answer_within(kAtOnceSeconds));
  must(begin(monitor, "PUT", "/snapshot/create", body("one")).answer_within(kPatienceSeconds));
  // At least 256 writes for 32 MiB: of a piece of the base that is read at once, no more than 8.
  slow_down(DiskRequest::Kind::Write, 100);
  std::string diff = body("one");
  diff.insert(1, R"("snapshot_type": "Diff", )");
  PendingRequest snapshot = begin(monitor, "PUT", "/snapshot/create", diff);
  disk_->await_held(1);
  must(begin(monitor, "PATCH", "/vm", kResumed).answer_within(kAtOnceSeconds));
  const double begun = now_us();
  while (!holders_of(monitor.process().pid()).empty()) ASSERT_LT(now_us() - begun, kAtOnceSeconds * 1e6);
  EXPECT_FALSE(snapshot.is_answered());
  must(begin(monitor, "DELETE", "/snapshot").answer_within(kAtOnceSeconds));
  const auto answer = snapshot.answer_within(kAtOnceSeconds);
  ASSERT_TRUE(answer);
  EXPECT_NE(answer->body.find("the snapshot was cancelled"), std::string::npos) << answer->body;
  recover();
  expect_one_moment(file("disk/one.mem"), kPages);
  must(begin(monitor, "PUT", "/snapshot/create", diff).answer_within(kPatienceSeconds));
  expect_one_moment(file("disk/one.mem"), kPages);
  end(monitor);
}

TEST_F(HungLiveTest, TheCommandLineShowsHowFarOneIsOnATerminal) {
  Monitor monitor{live_options()};
  boot(monitor);
  int master = -1;
  int terminal = -1;
  ASSERT_EQ(::openpty(&master, &terminal, nullptr, nullptr, nullptr), 0);
  const OwnedFd kept{master};
  OwnedFd shown{terminal};
  slow_down(DiskRequest::Kind::Write, 20);
  ChildProcess command{{monitor_binary(), "snapshot", "create", monitor.socket_path(), "--live", "--state",
                        file("disk/one.state"), "--memory", file("disk/one.mem")},
                       {.err = shown.get()}};
  std::string text;
  read_until(kept.get(), text, "MiB");
  EXPECT_NE(text.find("\r["), std::string::npos) << text;
  EXPECT_NE(text.find(" of "), std::string::npos) << text;
  recover();
  EXPECT_EQ(command.wait(), 0);
  end(monitor);
}

TEST_F(HungLiveTest, TheHoldersDeathFailsTheSnapshotAlone) {
  Monitor monitor{live_options()};
  boot(monitor);
  PendingRequest snapshot = begin_hung(monitor);
  const auto holders = holders_of(monitor.process().pid());
  ASSERT_EQ(holders.size(), 1U);
  ASSERT_EQ(::kill(holders.front(), SIGKILL), 0);
  expect_no_holder(holders.front());
  recover();
  const auto answer = snapshot.answer_within(kPatienceSeconds);
  ASSERT_TRUE(answer);
  EXPECT_EQ(answer->status, 400);
  EXPECT_NE(answer->body.find("the process that held guest memory has ended"), std::string::npos) << answer->body;
  EXPECT_EQ(on_disk(), "");
  must(begin(monitor, "PUT", "/snapshot/create", body("two")).answer_within(kPatienceSeconds));
  expect_one_moment(file("disk/two.mem"), kPages);
  end(monitor);
}

TEST_F(HungLiveTest, TheClientThatHangsUpHarmsNobody) {
  Monitor monitor{live_options()};
  boot(monitor);
  begin_hung(monitor).hang_up();
  expect_answers(monitor);
  recover();
  const double begun = now_us();
  while (monitor.get("/snapshot").body != R"({"state":"None"})") ASSERT_LT(now_us() - begun, kPatienceSeconds * 1e6);
  expect_one_moment(file("disk/one.mem"), kPages);
  end(monitor);
}

TEST_F(HungLiveTest, TermEndsTheMachineAndLeavesNoHolder) {
  Monitor monitor{live_options()};
  boot(monitor);
  PendingRequest snapshot = begin_hung(monitor);
  const auto holders = holders_of(monitor.process().pid());
  ASSERT_EQ(holders.size(), 1U);
  expect_ends(monitor);
  expect_no_holder(holders.front());
  recover();
}

TEST_F(HungLiveTest, TermAmidASlowOneLeavesNoFiles) {
  Monitor monitor{live_options()};
  boot(monitor);
  slow_down(DiskRequest::Kind::Write, 200);
  PendingRequest snapshot = begin(monitor, "PUT", "/snapshot/create", body("one"));
  disk_->await_held(1);
  expect_ends(monitor);
  EXPECT_EQ(on_disk(), "");
}

TEST_F(HungLiveTest, AKilledMonitorLeavesNoHolderAndNoFinalName) {
  Monitor monitor{live_options()};
  boot(monitor);
  PendingRequest snapshot = begin_hung(monitor);
  const auto holders = holders_of(monitor.process().pid());
  ASSERT_EQ(holders.size(), 1U);
  monitor.signal(SIGKILL);
  expect_no_holder(holders.front());
  recover();
  (void)monitor.wait();
  EXPECT_FALSE(fs::exists(file("disk/one.mem")));
  EXPECT_FALSE(fs::exists(file("disk/one.state")));
}

TEST_F(HungLiveTest, TheGuestsEndAmidIsTheMachinesEnd) {
  Monitor monitor{live_options()};
  boot(monitor);
  slow_down(DiskRequest::Kind::Write, 200);
  PendingRequest snapshot = begin(monitor, "PUT", "/snapshot/create", body("one"));
  disk_->await_held(1);
  end(monitor);
  EXPECT_EQ(on_disk(), "");
}

}  // namespace
}  // namespace mayfly::testing
