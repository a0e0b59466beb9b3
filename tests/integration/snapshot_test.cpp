// Snapshots of bare-metal guests on this machine's /dev/kvm, by the API.

#include "snapshot/host_cpu.h"
#include "snapshot/state_file.h"
#include "tests/integration/snapshot_fixture.h"
#include "tests/support/files.h"
#include "tests/support/monitor.h"
#include "tests/support/repeats.h"
#include "vmm/kvm/arch_capabilities.h"

#include <fcntl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <fstream>

namespace mayfly::testing {
namespace {

TEST_F(SnapshotTest, TheGuestNoticesNothingHereAndInAClone) {
  Monitor first;
  boot(first);
  round(first, 1);
  pause(first);
  must(create(first, "one"));
  EXPECT_EQ(::access(file("one.state.mayfly-new").c_str(), F_OK), -1);
  EXPECT_EQ(::access(file("one.mem.mayfly-new").c_str(), F_OK), -1);
  resume(first);
  round(first, 2);
  end(first);
  for (int clone = 0; clone < 2; ++clone) {
    Monitor again;
    must(load(again, "one.state", "one.mem"));
    round(again, 2);
    round(again, 3);
    end(again);
  }
}

TEST_F(SnapshotTest, LoadedWithoutResumeItWaitsPaused) {
  Monitor first;
  boot(first);
  pause(first);
  must(create(first, "one"));
  Monitor again;
  must(load(again, "one.state", "one.mem", ""));
  EXPECT_NE(again.get("/").body.find("Paused"), std::string::npos);
  EXPECT_NE(again.get("/machine-config").body.find("\"mem_size_mib\":128"), std::string::npos);
  EXPECT_NE(again.get("/vm/config").body.find("survivor"), std::string::npos);
  resume(again);
  round(again, 1);
  end(again);
}

TEST_F(SnapshotTest, SeveralVcpusAndMemoryAboveTheHole) {
  Monitor first;
  boot(first, R"("mem_size_mib": 3400, "vcpu_count": 4)", "console=ttyS0 dirty_mib=16");
  round(first, 1);
  pause(first);
  must(create(first, "one"));
  Monitor again;
  must(load(again, "one.state", "one.mem"));
  round(again, 2);
  end(again);
}

TEST_F(SnapshotTest, TheMemoryFileTakesWhatWasTouched) {
  Monitor first;
  boot(first, R"("mem_size_mib": 512, "vcpu_count": 1, "huge_pages": "None")", "console=ttyS0 dirty_mib=32");
  pause(first);
  must(create(first, "one"));
  struct stat status{};
  ASSERT_EQ(::stat(file("one.mem").c_str(), &status), 0);
  const auto used = static_cast<double>(status.st_blocks) * 512;
  EXPECT_GT(used, 32 << 20);
  EXPECT_LT(used, 34 << 20);  // the guest itself and the tables take under 2 MiB
}

/// Checks the guest's model-specific registers here, in a clone, and in a clone of that one.
class MsrTest : public SnapshotTest {
 protected:
  static void expect_registers(Monitor& monitor) {
    monitor.type("c");
    monitor.console_until("msrs ok\n");
  }
  void expect_registers_in_clones(Monitor& first) const {
    pause(first);
    must(create(first, "0"));
    for (int link = 0; link < 2; ++link) {
      Monitor again;
      must(load(again, std::to_string(link) + ".state", std::to_string(link) + ".mem"));
      expect_registers(again);
      pause(again);
      must(create(again, std::to_string(link + 1)));
      resume(again);
      end(again);
    }
  }
};

TEST_F(MsrTest, RegistersThatKvmDoesNotListSurvive) {
  Monitor first;
  must(first.put("/machine-config", R"({"vcpu_count": 2, "mem_size_mib": 32})"));
  first.boot("msrs");
  first.console_until("msrs set\n");
  expect_registers_in_clones(first);
}

TEST_F(MsrTest, ARegisterThatTheUserEditedSurvives) {
  // IA32_MTRR_PHYSBASE6: on every host, in no list of KVM's, and not touched by the guest.
  Monitor first;
  must(first.put("/machine-config", R"({"vcpu_count": 1, "mem_size_mib": 32})"));
  must(first.put("/cpu-config",
                 R"({"msr_modifiers": [{"addr": "0x20c", "bitmap": "0b1010000000000000000000000000110"}]})"));
  first.boot("msrs", "console=ttyS0 msr=0x20c value=0x50000006");
  first.console_until("msrs set\n");
  expect_registers_in_clones(first);
}

/// The request is refused with a sentence that has `words`, and the API goes on.
void expect_refused_and_alive(Monitor& monitor, const HttpAnswer& answer, const std::string& words) {
  EXPECT_EQ(answer.status, 400);
  EXPECT_NE(answer.body.find(words), std::string::npos) << answer.body;
  EXPECT_NE(monitor.get("/").body.find("Not started"), std::string::npos);
}

void store(const Snapshot& snapshot, const std::string& path) {
  const auto bytes = encode_snapshot(snapshot);
  make_file(path, {reinterpret_cast<const char*>(bytes.data()), bytes.size()});
}

/// Snapshots of hosts with another CPU: states that are changed.
TEST_F(SnapshotTest, AnotherModelIsLoadedUnlessItsGuestWasShownWhatThisHostLacks) {
  {
    Monitor first;
    boot(first);
    round(first, 1);
    pause(first);
    must(create(first, "one"));
  }
  auto snapshot = read_state_file(file("one.state"));
  ASSERT_TRUE(snapshot) << snapshot.error().message;
  ++snapshot->host.model;
  store(*snapshot, file("one.state"));
  {
    Monitor again;
    must(load(again, "one.state", "one.mem"));
    round(again, 2);
    end(again);
  }
  constexpr std::uint32_t kAvx512er = 1U << 27;  // of a few processors that nobody makes any more
  for (kvm_cpuid_entry2& leaf : snapshot->vcpus.front().cpuid)
    if (leaf.function == 7 && leaf.index == 0) leaf.ebx |= kAvx512er;
  for (const unsigned models_away : {1U, 0U}) {  // microcode and hypervisors mask features, too
    snapshot->host.model = this_host_cpu().model + models_away;
    store(*snapshot, file("one.state"));
    Monitor again;
    expect_refused_and_alive(again, load(again, "one.state", "one.mem"),
                             "the guest was shown avx512er, and this host does not have that");
  }
}

/// A guest leaves mitigations out by it.
TEST_F(SnapshotTest, AHostWhoseCpuNeedsMoreMitigationsIsRefused) {
  {
    Monitor first;
    boot(first);
    pause(first);
    must(create(first, "one"));
  }
  auto snapshot = read_state_file(file("one.state"));
  ASSERT_TRUE(snapshot) << snapshot.error().message;
  VcpuState& vcpu = snapshot->vcpus.front();
  const bool has_capabilities = shows_capabilities(vcpu.cpuid);
  if (has_capabilities) {
    const auto found = std::ranges::find(vcpu.msrs, kMsrArchCapabilities, &kvm_msr_entry::index);
    ASSERT_NE(found, vcpu.msrs.end());
    found->data |= 1ULL << 61;  // what no host has
  } else {
    for (kvm_cpuid_entry2& leaf : vcpu.cpuid)
      if (leaf.function == 7 && leaf.index == 0) leaf.edx |= 1U << 29;
  }
  const std::string lacking = has_capabilities ? "MSR 0x10a bit 61" : "arch_capabilities";
  for (const unsigned models_away : {1U, 0U}) {
    if (models_away == 0 && !has_capabilities) continue;  // KVM makes that bit: it is not looked for on such a host
    snapshot->host.model = this_host_cpu().model + models_away;
    store(*snapshot, file("one.state"));
    Monitor again;
    expect_refused_and_alive(again, load(again, "one.state", "one.mem"),
                             "the guest was shown " + lacking + ", and this host does not have that");
  }
}

std::string printed_features(const std::vector<std::string>& files = {}) {
  std::vector<std::string> words = {monitor_binary(), "doctor", "--cpu"};
  words.insert(words.end(), files.begin(), files.end());
  Pipe output;
  ChildProcess doctor{words, {.out = output.write.get()}};
  output.write.reset();
  std::string text;
  read_until(output.read.get(), text, "");
  EXPECT_EQ(doctor.wait(), 0);
  return text;
}

TEST_F(SnapshotTest, AMachineThatBootsWithItsHostsFeaturesIsRestored) {
  const std::string here = printed_features();
  EXPECT_EQ(printed_features({make_file(file("a.json"), here), make_file(file("b.json"), here)}), here);
  {
    Monitor first;
    must(first.put("/cpu-config", here));
    boot(first);
    round(first, 1);
    pause(first);
    must(create(first, "one"));
  }
  auto snapshot = read_state_file(file("one.state"));
  ASSERT_TRUE(snapshot) << snapshot.error().message;
  ++snapshot->host.model;  // KVM is asked
  store(*snapshot, file("one.state"));
  Monitor again;
  must(load(again, "one.state", "one.mem"));
  round(again, 2);
  end(again);
}

TEST_F(SnapshotTest, AMachineWhoseLimiterNeverRefillsIsRestored) {
  const std::string image = make_file(file("image"), std::string(4096, 'x'));
  constexpr const char* kNever =
      R"({"ops": {"size": 1000, "refill_time": 9223372036854775807, "one_time_burst": 9223372036854775807}})";
  {
    Monitor first;
    must(first.put("/drives/data", R"({"drive_id": "data", "is_root_device": false, "is_read_only": true, )"
                                   R"("path_on_host": ")" +
                                       image + R"(", "rate_limiter": )" + kNever + "}"));
    boot(first);
    pause(first);
    must(create(first, "one"));
  }
  Monitor again;
  must(load(again, "one.state", "one.mem"));
  round(again, 1);
  end(again);
}

TEST_F(SnapshotTest, ChainsOfTenSnapshotAfterRestoreAfterSnapshot) {
  {
    Monitor first;
    boot(first);
    pause(first);
    must(create(first, "0"));
  }
  for (unsigned link = 1; link <= 10; ++link) {
    Monitor again;
    const std::string before = std::to_string(link - 1);
    must(load(again, before + ".state", before + ".mem"));
    round(again, link);
    pause(again);
    must(create(again, std::to_string(link)));
    if (link == 10) {
      resume(again);
      end(again);
    }
  }
}

class TrackedDiffTest : public SnapshotTest, public ::testing::WithParamInterface<bool> {};

TEST_P(TrackedDiffTest, DiffsOnDiffsMergeToWhatTheGuestKnows) {
  const std::string track = std::string{R"("track_dirty_pages": )"} + (GetParam() ? "true" : "false");
  Monitor first;
  boot(first, R"("mem_size_mib": 128, "vcpu_count": 1, )" + track);
  pause(first);
  must(create(first, "base"));
  struct stat status{};
  for (unsigned link = 1; link <= 3; ++link) {
    resume(first);
    round(first, link);
    pause(first);
    const std::string name = "diff" + std::to_string(link);
    must(create(first, name, "Diff"));
    ASSERT_EQ(::stat(file(name + ".mem").c_str(), &status), 0);
    // A third of 4 MiB a round, and little else; without tracking, everything since the start.
    if (GetParam()) {
      EXPECT_LT(status.st_blocks * 512, 2 << 20);
    }
    // A diff alone is no memory.
    Monitor alone;
    const HttpAnswer refused = load(alone, name + ".state", name + ".mem");
    EXPECT_EQ(refused.status, 400);
    EXPECT_NE(refused.body.find("is a diff"), std::string::npos) << refused.body;
    EXPECT_EQ(alone.get("/").status, 200);

    const std::string merged = file("base.mem");
    ChildProcess merge{
        {monitor_binary(), "snapshot", "merge", "--base", merged, "--diff", file(name + ".mem"), "--output", merged},
        {}};
    ASSERT_EQ(merge.wait(), 0);
    Monitor again;
    must(load(again, name + ".state", "base.mem"));
    round(again, link + 1);
    end(again);
  }
}

INSTANTIATE_TEST_SUITE_P(All, TrackedDiffTest, ::testing::Bool(),
                         [](const auto& info) { return info.param ? "Tracked" : "Untracked"; });

TEST_F(SnapshotTest, ADiffOfARestoredMachineIsOfTheSnapshotThatItCameFrom) {
  Monitor first;
  boot(first);
  pause(first);
  must(create(first, "base"));
  for (const char* track : {"true", "false"}) {
    Monitor again;
    must(load(again, "base.state", "base.mem", std::string{R"(, "resume_vm": true, "track_dirty_pages": )"} + track));
    round(again, 1);
    pause(again);
    const std::string name = std::string{"diff-"} + track;
    must(create(again, name, "Diff"));
    struct stat status{};
    ASSERT_EQ(::stat(file(name + ".mem").c_str(), &status), 0);
    EXPECT_LT(status.st_blocks * 512, 2 << 20);
    ChildProcess merge{{monitor_binary(), "snapshot", "merge", "--base", file("base.mem"), "--diff",
                        file(name + ".mem"), "--output", file("merged.mem")},
                       {}};
    ASSERT_EQ(merge.wait(), 0);
    Monitor third;
    must(load(third, name + ".state", "merged.mem"));
    round(third, 2);
    end(third);
  }
}

TEST_F(SnapshotTest, HundredsOfPausesAndSnapshotsDoNoHarm) {
  Monitor monitor;
  boot(monitor, R"("mem_size_mib": 128, "vcpu_count": 2)", "console=ttyS0 dirty_mib=1");
  for (int i = 0; i < 300; ++i) {
    pause(monitor);
    if (i % 30 == 0) must(create(monitor, "same"));
    resume(monitor);
  }
  round(monitor, 1);
  end(monitor);
}

TEST_F(SnapshotTest, ABusyDriveIsSnapshottedAgainAndAgain) {
  std::string image(8 << 20, '\0');
  for (std::uint64_t at = 0; at < image.size(); at += sizeof at) std::memcpy(&image[at], &at, sizeof at);
  Monitor monitor;
  must(monitor.put("/drives/data", R"({"drive_id": "data", "is_root_device": false, "cache_type": "Writeback", )"
                                   R"("path_on_host": ")" +
                                       make_file(file("disk"), image) + "\"}"));
  monitor.boot("block", "console=ttyS0 until_key=1");
  constexpr unsigned kLinks = repeats(10U, 3U);
  for (unsigned link = 0; link < kLinks; ++link) {
    monitor.console_until("round " + std::to_string(link) + " done");
    for (int i = 0; i < 20; ++i) {
      pause(monitor);
      resume(monitor);
    }
    pause(monitor);
    must(create(monitor, "busy" + std::to_string(link)));
    std::filesystem::copy_file(file("disk"), file("copy" + std::to_string(link)));
    resume(monitor);
  }
  monitor.type("q");
  EXPECT_NE(monitor.console_to_end().find("GUEST PASS"), std::string::npos) << monitor.log_until("");
  EXPECT_EQ(monitor.wait(), 0);
  for (unsigned link = 0; link < kLinks; ++link) {
    const std::string name = "busy" + std::to_string(link);
    Monitor again;
    must(load(again, name + ".state", name + ".mem",
              R"(, "resume_vm": true, "drive_overrides": [{"drive_id": "data", "path_on_host": ")" +
                  file("copy" + std::to_string(link)) + "\"}]"));
    again.type("q");
    EXPECT_NE(again.console_to_end().find("GUEST PASS"), std::string::npos) << again.log_until("");
    EXPECT_EQ(again.wait(), 0);
  }
}

TEST_F(SnapshotTest, ATimeOfChangeMattersWhereTheImageIsWritten) {
  const auto put_drive = [&](Monitor& monitor, const std::string& id, const std::string& more) {
    must(monitor.put("/drives/" + id, R"({"drive_id": ")" + id + R"(", "is_root_device": false, "path_on_host": ")" +
                                          make_file(file(id), std::string(4096, 'x')) + '"' + more + "}"));
  };
  const auto touch = [&](const std::string& id) { ASSERT_EQ(::utimensat(AT_FDCWD, file(id).c_str(), nullptr, 0), 0); };
  {
    Monitor first;
    put_drive(first, "base", R"(, "is_read_only": true)");
    put_drive(first, "data", "");
    boot(first);
    pause(first);
    must(create(first, "one"));
    resume(first);
    end(first);
  }
  touch("base");
  {
    Monitor again;
    must(load(again, "one.state", "one.mem"));
    again.log_until("has another time of change");
    round(again, 1);
    end(again);
  }
  touch("data");
  Monitor refused;
  const HttpAnswer answer = load(refused, "one.state", "one.mem");
  EXPECT_EQ(answer.status, 400);
  EXPECT_NE(answer.body.find("allow_changed_drives"), std::string::npos) << answer.body;
  must(load(refused, "one.state", "one.mem", R"(, "resume_vm": true, "allow_changed_drives": true)"));
  round(refused, 1);
  end(refused);
}

// --- Refusals --------------------------------------------------------------------------------------------------------

TEST_F(SnapshotTest, BadFilesAreRefusedInWordsAndAGoodLoadIsPossibleAfterwards) {
  {
    Monitor first;
    boot(first);
    pause(first);
    must(create(first, "one"));
    must(create(first, "two"));
  }
  Monitor monitor;
  expect_refused_and_alive(monitor, load(monitor, "none", "one.mem"), "none cannot be opened");
  expect_refused_and_alive(monitor, load(monitor, "", "one.mem"), "is not a regular file");
  expect_refused_and_alive(monitor, load(monitor, "one.mem", "one.mem"), "more than any state file");
  expect_refused_and_alive(monitor, load(monitor, "one.state", "none"), "none cannot be opened");
  expect_refused_and_alive(monitor, load(monitor, "one.state", ""), "is not a regular file");
  expect_refused_and_alive(monitor, load(monitor, "one.state", "two.mem"), "belongs to snapshot");
  expect_refused_and_alive(monitor, load(monitor, "one.state", "one.state"), "was not written or copied whole");

  const std::string state = content_of(file("one.state"));
  make_file(file("short.state"), state.substr(0, state.size() / 2));
  expect_refused_and_alive(monitor, load(monitor, "short.state", "one.mem"), "ends too early");
  std::string flipped = state;
  flipped[flipped.size() / 2] = static_cast<char>(flipped[flipped.size() / 2] ^ 4);
  make_file(file("flipped.state"), flipped);
  expect_refused_and_alive(monitor, load(monitor, "flipped.state", "one.mem"), "has changed since it was written");
  std::string newer = state;
  newer[8] = 2;
  make_file(file("newer.state"), newer);
  expect_refused_and_alive(monitor, load(monitor, "newer.state", "one.mem"), "a newer one wrote it");
  ASSERT_EQ(::truncate(file("two.mem").c_str(), 1 << 20), 0);
  expect_refused_and_alive(monitor, load(monitor, "two.state", "two.mem"), "was not written or copied whole");

  must(load(monitor, "one.state", "one.mem"));
  round(monitor, 1);
  end(monitor);
}

TEST_F(SnapshotTest, CreateWhileRunningAndLoadAfterTheStartAreRefused) {
  Monitor monitor;
  boot(monitor);
  HttpAnswer refused = create(monitor, "one");
  EXPECT_EQ(refused.status, 400);
  EXPECT_NE(refused.body.find("while the machine is paused"), std::string::npos) << refused.body;
  EXPECT_EQ(::access(file("one.state").c_str(), F_OK), -1);
  pause(monitor);
  must(create(monitor, "one"));
  refused = load(monitor, "one.state", "one.mem");
  EXPECT_EQ(refused.status, 400);
  EXPECT_NE(refused.body.find("before the machine starts"), std::string::npos) << refused.body;
  resume(monitor);
  round(monitor, 1);

  Monitor configured;
  must(configured.put("/machine-config", R"({"mem_size_mib": 128, "vcpu_count": 1})"));
  refused = load(configured, "one.state", "one.mem");
  EXPECT_EQ(refused.status, 400);
  EXPECT_NE(refused.body.find("a machine has been configured"), std::string::npos) << refused.body;
}

TEST_F(SnapshotTest, AFullDiskLeavesTheOldPairAndARunningMachine) {
  Monitor monitor;
  boot(monitor);
  pause(monitor);
  must(create(monitor, "one"));
  const std::string before = content_of(file("one.state"));
  // A limit on file sizes fails writes as a full disk does.
  const rlimit small{.rlim_cur = 1 << 20, .rlim_max = RLIM_INFINITY};
  ASSERT_EQ(::prlimit(monitor.process().pid(), RLIMIT_FSIZE, &small, nullptr), 0);
  const HttpAnswer refused = create(monitor, "one");
  EXPECT_EQ(refused.status, 400);
  EXPECT_NE(refused.body.find("cannot write"), std::string::npos) << refused.body;
  EXPECT_EQ(content_of(file("one.state")), before);
  EXPECT_EQ(::access(file("one.mem.mayfly-new").c_str(), F_OK), -1);
  EXPECT_EQ(::access(file("one.state.mayfly-new").c_str(), F_OK), -1);
  resume(monitor);
  round(monitor, 1);
  end(monitor);
  Monitor again;
  must(load(again, "one.state", "one.mem"));
  round(again, 1);
  end(again);
}

// --- Crashes and failures while a snapshot is made
// ---------------------------------------------------------------------

/// What befalls the monitor at its `when`th call of `call` (counted from 1): strace's words for it.
struct Accident {
  const char* call;
  int when;
  const char* what;
};

void PrintTo(const Accident& accident, std::ostream* out) {
  *out << accident.what << " at " << accident.call << " " << accident.when;
}

class AccidentTest : public SnapshotTest, public ::testing::WithParamInterface<Accident> {
 protected:
  /// A monitor to which it happens. Its leaks cannot be looked for: that needs ptrace, too.
  [[nodiscard]] static std::vector<std::string> doomed() {
    const Accident& accident = GetParam();
    const std::string when = ":when=" + std::to_string(accident.when);
    return {"/usr/bin/env",
            "ASAN_OPTIONS=detect_leaks=0",
            "/usr/bin/strace",
            "-f",
            "-qq",
            "-o",
            "/dev/null",
            "-e",
            std::string{"trace="} + accident.call,
            "-e",
            std::string{"inject="} + accident.call + ":" + accident.what + when};
  }
  /// The pair of `name` restores, and is one of two: the number of the guest's next round is `first` or `second`.
  void expect_either(const std::string& name, unsigned first, unsigned second) {
    Monitor again;
    must(load(again, name + ".state", name + ".mem"));
    again.type("r");
    const std::string& console = again.console_until(" ok");
    const auto said = [&](unsigned round) {
      return console.find("round " + std::to_string(round) + " ok") != std::string::npos;
    };
    EXPECT_TRUE(said(first) || said(second)) << console;
    end(again);
  }
};

TEST_P(AccidentTest, LeavesTheOldPairOrTheNewOne) {
  if (::access("/usr/bin/strace", X_OK) != 0) GTEST_SKIP() << "strace is missing";
  {
    Monitor first;
    boot(first);
    pause(first);
    must(create(first, "one"));
  }
  // Without filters: for a call that strace makes fail the kernel asks them about number -1.
  Monitor monitor{{"--no-seccomp"}, doomed()};
  must(load(monitor, "one.state", "one.mem"));
  round(monitor, 1);
  pause(monitor);
  const std::string old_state = content_of(file("one.state"));
  const bool killed = std::string{GetParam().what}.starts_with("signal");
  if (killed) {
    EXPECT_ANY_THROW((void)create(monitor, "one"));
    monitor.log_until("");
  } else {
    const HttpAnswer refused = create(monitor, "one");
    EXPECT_EQ(refused.status, 400) << refused.body;
    // Only where it says so has anything changed.
    const bool says_new = refused.body.find("the new snapshot is in place") != std::string::npos;
    EXPECT_EQ(says_new, content_of(file("one.state")) != old_state) << refused.body;
    resume(monitor);
    round(monitor, 2);
    end(monitor);
  }
  expect_either("one", 1, 2);
  // What was left over is in nobody's way: the next snapshot to the same names is whole.
  Monitor again;
  must(load(again, "one.state", "one.mem"));
  pause(again);
  must(create(again, "one"));
  expect_either("one", 1, 2);
}

INSTANTIATE_TEST_SUITE_P(All, AccidentTest,
                         ::testing::Values(Accident{"ftruncate", 1, "signal=KILL"}, Accident{"fsync", 1, "signal=KILL"},
                                           Accident{"fsync", 2, "signal=KILL"}, Accident{"rename", 1, "signal=KILL"},
                                           Accident{"fsync", 3, "signal=KILL"}, Accident{"fsync", 4, "signal=KILL"},
                                           Accident{"rename", 2, "signal=KILL"}, Accident{"fsync", 5, "signal=KILL"},
                                           Accident{"ftruncate", 1, "error=ENOSPC"}, Accident{"fsync", 1, "error=EIO"},
                                           Accident{"fsync", 2, "error=EIO"}, Accident{"rename", 1, "error=EIO"},
                                           Accident{"fsync", 3, "error=EIO"}, Accident{"fsync", 4, "error=EIO"},
                                           Accident{"rename", 2, "error=EIO"}, Accident{"fsync", 5, "error=EIO"}),
                         [](const auto& info) {
                           const std::string what = info.param.what;
                           return std::string{info.param.call} + std::to_string(info.param.when) +
                                  (what.starts_with("signal") ? "Killed" : "Failed");
                         });

/// A disk that is full after so much more than a pair takes, which only the monitor sees.
class FullDiskTest : public SnapshotTest {
 protected:
  /// In a mount namespace of its own: a file system of `kib` at `disk_`, with a copy of the pair "one".
  [[nodiscard]] std::vector<std::string> on_disk_of(std::uint64_t kib) const {
    return {"unshare",
            "--mount",
            "sh",
            "-c",
            "mount -t tmpfs -o size=" + std::to_string(kib) + "k none " + disk_ + " && cp --sparse=always " +
                file("one.state") + " " + file("one.mem") + " " + disk_ + " && exec \"$@\"",
            "sh"};
  }
  [[nodiscard]] static std::uint64_t kib_of(const std::string& path) {
    struct stat status{};
    EXPECT_EQ(::stat(path.c_str(), &status), 0);
    return static_cast<std::uint64_t>(status.st_blocks) / 2;
  }

  std::string disk_ = file("disk");
};

TEST_F(FullDiskTest, AtEveryPointLeavesTheOldPairAndAMachineThatGoesOn) {
  if (::geteuid() != 0) GTEST_SKIP() << "mounting a small disk needs root";
  {
    Monitor first;
    boot(first);
    pause(first);
    must(create(first, "one"));
  }
  std::filesystem::create_directory(disk_);
  // The copy leaves every page of zeros out, which the pair itself has not: so the first of these are no surplus yet.
  const std::uint64_t pair = kib_of(file("one.state")) + kib_of(file("one.mem"));
  unsigned refusals = 0;
  bool taken = false;
  for (std::uint64_t kib = pair; !taken; kib += repeats(512U, 1024U)) {
    ASSERT_LT(kib, 4 * pair);
    Monitor monitor{{}, on_disk_of(kib)};
    const std::string root = "/proc/" + std::to_string(monitor.process().pid()) + "/root";
    must(load(monitor, "one.state", "one.mem"));
    round(monitor, 1);
    pause(monitor);
    const HttpAnswer answer = create(monitor, "disk/one");
    taken = answer.status == 204;
    if (!taken) {
      ++refusals;
      EXPECT_EQ(answer.status, 400) << answer.body;
      EXPECT_NE(answer.body.find("No space left on device"), std::string::npos) << answer.body;
      EXPECT_NE(::access((root + disk_ + "/one.mem.mayfly-new").c_str(), F_OK), 0);
      EXPECT_NE(::access((root + disk_ + "/one.state.mayfly-new").c_str(), F_OK), 0);
    }
    for (const std::string name : {"one.state", "one.mem"})
      std::filesystem::copy_file(root + disk_ + "/" + name, file("saved." + name),
                                 std::filesystem::copy_options::overwrite_existing);
    resume(monitor);
    round(monitor, 2);
    end(monitor);
    Monitor again;
    must(load(again, "saved.one.state", "saved.one.mem"));
    round(again, taken ? 2 : 1);
    end(again);
  }
  EXPECT_GT(refusals, 3U);
}

}  // namespace
}  // namespace mayfly::testing
