#include "vmm/doctor/doctor.h"

#include <linux/kvm.h>
#include <sys/types.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>

#include <gtest/gtest.h>

namespace mayfly {
namespace {

/// A host made of files in a temporary directory. As made, there is nothing to mend.
class FakeHost {
 public:
  FakeHost() {
    std::string pattern = (std::filesystem::temp_directory_path() / "mayfly-doctor-XXXXXX").string();
    if (::mkdtemp(pattern.data()) == nullptr) std::abort();
    path_ = pattern;
    put("dev/kvm", "");
    put("dev/net/tun", "");
    put("dev/userfaultfd", "");
    put("proc/cpuinfo", "processor\t: 0\nflags\t\t: fpu vme svm sse\nbogomips\t: 5\n");
    put_pool(64, 60, 10);
    put("proc/swaps", "Filename\tType\tSize\tUsed\tPriority\n");
    put("proc/self/limits",
        "Limit       Soft Limit  Hard Limit  Units\n"
        "Max core file size        0                    unlimited            bytes     \n"
        "Max open files            20000                20000                files     \n"
        "Max locked memory         8388608              8388608              bytes     \n"
        "Max processes             96365                96365                processes \n");
    put("proc/self/cgroup", "0::/vms/vm-7\n");
    put("proc/sys/kernel/core_pattern", "core\n");
    put("proc/sys/kernel/pid_max", "4194304\n");
    put("proc/sys/kernel/threads-max", "192730\n");
    put("sys/fs/cgroup/vms/pids.max", "20000\n");
    put("sys/fs/cgroup/vms/vm-7/pids.max", "max\n");
    put("proc/self/mountinfo",
        "31 23 0:28 / /sys/fs/cgroup rw,relatime - cgroup2 cgroup2 rw,nsdelegate,favordynmods\n");
    put("proc/self/ns/user", "");
    put("proc/sys/kernel/osrelease", "6.12.3-amd64\n");
    put("proc/sys/kernel/io_uring_disabled", "0\n");
    put("proc/sys/kernel/seccomp/actions_avail", "kill_process kill_thread trap errno allow\n");
    put("proc/sys/user/max_user_namespaces", "96365\n");
    put("proc/sys/vm/overcommit_memory", "0\n");
    put("sys/devices/system/clocksource/clocksource0/current_clocksource", "tsc\n");
    put("sys/devices/system/cpu/cpu0/cpufreq/scaling_governor", "performance\n");
    put("sys/devices/system/cpu/smt/active", "0\n");
    put("sys/devices/system/cpu/vulnerabilities/meltdown", "Not affected\n");
    put("sys/kernel/mm/ksm/run", "0\n");
    put("sys/kernel/mm/transparent_hugepage/enabled", "always [madvise] never\n");
    put("sys/module/kvm/parameters/halt_poll_ns", "0\n");
    put("sys/module/kvm/parameters/nx_huge_pages", "never\n");
  }
  FakeHost(const FakeHost&) = delete;
  FakeHost& operator=(const FakeHost&) = delete;
  ~FakeHost() { std::filesystem::remove_all(path_); }

  void put(std::string_view name, std::string_view text) const {
    std::filesystem::create_directories((path_ / name).parent_path());
    std::ofstream{path_ / name} << text;
  }
  void put_pool(unsigned total, unsigned free, unsigned reserved) const {
    const std::string pool = "sys/kernel/mm/hugepages/hugepages-2048kB/";
    put(pool + "nr_hugepages", std::to_string(total) + "\n");
    put(pool + "free_hugepages", std::to_string(free) + "\n");
    put(pool + "resv_hugepages", std::to_string(reserved) + "\n");
  }
  void remove(std::string_view name) const { std::filesystem::remove(path_ / name); }
  [[nodiscard]] HostRoot root() const { return HostRoot{path_}; }

 private:
  std::filesystem::path path_;
};

/// System calls that give the answers they were told to; everything works unless told otherwise.
class FakeCalls : public HostCalls {
 public:
  [[nodiscard]] int try_open(const std::string& path) const override {
    const auto error = open_errors.find(std::filesystem::path{path}.filename().string());
    return error == open_errors.end() ? 0 : error->second;
  }
  [[nodiscard]] std::optional<KvmAnswers> ask_kvm(const std::string& /*path*/,
                                                  std::span<const int> capabilities) const override {
    KvmAnswers answers{.api_version = api_version, .capabilities = {}};
    for (const int capability : capabilities) answers.capabilities.push_back(capability == missing_capability ? 0 : 1);
    return answers;
  }
  [[nodiscard]] int try_user_faults(const std::string& /*path*/) const override { return user_fault_error; }
  [[nodiscard]] int try_io_uring() const override { return io_uring_error; }
  [[nodiscard]] int landlock_version() const override { return landlock; }

  std::map<std::string, int> open_errors;  // by the last part of the path
  int api_version = 12;
  int missing_capability = -1;
  int user_fault_error = 0;
  int io_uring_error = 0;
  int landlock = 6;
};

class DoctorTest : public ::testing::Test {
 protected:
  [[nodiscard]] Findings examine() const { return examine_host(host_.root(), calls_); }

  /// The only finding of this check; one without a name where there are none or several.
  [[nodiscard]] Finding find(std::string_view check) const {
    Finding found;
    for (const Finding& finding : examine()) {
      if (finding.check != check) continue;
      if (!found.check.empty()) return {};
      found = finding;
    }
    return found;
  }
  /// The severity of the only finding of this check; its name, cost and remedy must be there.
  void expect(std::string_view check, Severity severity) const {
    const Finding finding = find(check);
    EXPECT_EQ(finding.check, check);
    EXPECT_EQ(finding.severity, severity) << finding.found;
    EXPECT_FALSE(finding.found.empty());
    EXPECT_EQ(finding.cost.empty(), severity == Severity::Ok) << check;
    EXPECT_EQ(finding.remedy.empty(), severity == Severity::Ok) << check;
  }

  FakeHost host_;
  FakeCalls calls_;
};

TEST_F(DoctorTest, AHostInGoodOrderHasNothingToMend) {
  const Findings findings = examine();
  EXPECT_GE(findings.size(), 20U);
  for (const Finding& finding : findings) EXPECT_EQ(finding.severity, Severity::Ok) << finding.check << finding.found;
  EXPECT_TRUE(can_run(findings));
}

TEST_F(DoctorTest, WithoutKvmNothingCanRun) {
  host_.remove("dev/kvm");
  expect("kvm-device", Severity::Broken);
  EXPECT_NE(find("kvm-device").remedy.find("modprobe"), std::string::npos);
  EXPECT_FALSE(can_run(examine()));
  EXPECT_TRUE(find("kvm-api").check.empty());
}

TEST_F(DoctorTest, AForbiddenKvmNamesTheGroup) {
  calls_.open_errors["kvm"] = EACCES;
  expect("kvm-device", Severity::Broken);
  EXPECT_NE(find("kvm-device").remedy.find("usermod -aG kvm"), std::string::npos);
}

TEST_F(DoctorTest, AnotherApiVersionIsBroken) {
  calls_.api_version = 11;
  expect("kvm-api", Severity::Broken);
}

TEST_F(DoctorTest, AMissingCapabilityIsBrokenOrCostlyByWhatItIsFor) {
  calls_.missing_capability = KVM_CAP_SPLIT_IRQCHIP;
  expect("kvm-capabilities", Severity::Broken);
  EXPECT_NE(find("kvm-capabilities").found.find("KVM_CAP_SPLIT_IRQCHIP"), std::string::npos);
  calls_.missing_capability = KVM_CAP_TSC_DEADLINE_TIMER;
  expect("kvm-capabilities", Severity::Costly);
}

TEST_F(DoctorTest, SettingsOfTheKvmModuleAreJudged) {
  host_.put("sys/module/kvm/parameters/nx_huge_pages", "Y\n");
  expect("nx-huge-pages", Severity::Costly);
  host_.put("sys/module/kvm/parameters/nx_huge_pages", "N\n");
  expect("nx-huge-pages", Severity::Note);
  host_.put("sys/module/kvm/parameters/halt_poll_ns", "200000\n");
  expect("halt-polling", Severity::Note);
  EXPECT_NE(find("halt-polling").cost.find("200 us"), std::string::npos);
}

TEST_F(DoctorTest, ACpuWithoutVirtualizationIsCostlyAndNamesThePvmModule) {
  host_.put("proc/cpuinfo", "flags\t\t: fpu svml hypervisor\n");
  expect("cpu-virtualization", Severity::Costly);
  EXPECT_EQ(find("cpu-virtualization").found.find("kvm_pvm"), std::string::npos);
  host_.put("sys/module/kvm_pvm/refcnt", "1\n");
  EXPECT_NE(find("cpu-virtualization").found.find("kvm_pvm"), std::string::npos);
  expect("nesting", Severity::Note);
}

TEST_F(DoctorTest, TheClockSourceAndTheGovernorAreJudged) {
  host_.put("sys/devices/system/clocksource/clocksource0/current_clocksource", "acpi_pm\n");
  expect("clock-source", Severity::Costly);
  host_.put("sys/devices/system/cpu/cpu0/cpufreq/scaling_governor", "powersave\n");
  expect("cpu-governor", Severity::Note);
}

TEST_F(DoctorTest, WhatTenantsCanSeeOfEachOtherIsNoted) {
  host_.put("sys/devices/system/cpu/smt/active", "1\n");
  host_.put("sys/kernel/mm/ksm/run", "1\n");
  host_.put("sys/devices/system/cpu/vulnerabilities/spectre_v2", "Vulnerable\n");
  host_.put("sys/devices/system/cpu/vulnerabilities/mds", "Mitigation: Clear CPU buffers\n");
  expect("smt", Severity::Note);
  expect("page-merging", Severity::Note);
  expect("cpu-vulnerabilities", Severity::Note);
  EXPECT_NE(find("cpu-vulnerabilities").found.find("spectre_v2"), std::string::npos);
  EXPECT_EQ(find("cpu-vulnerabilities").found.find("mds"), std::string::npos);
  expect("cpu-mitigations", Severity::Note);
}

TEST_F(DoctorTest, AnOldKernelIsCostly) {
  for (const std::string_view release : {"6.10.9", "5.19.0-generic", "6.1.0-50-amd64"}) {
    host_.put("proc/sys/kernel/osrelease", release);
    expect("kernel", Severity::Costly);
  }
  for (const std::string_view release : {"6.11.0-rc1", "7.0.0", "unheard of"}) {
    host_.put("proc/sys/kernel/osrelease", release);
    expect("kernel", Severity::Ok);
  }
}

TEST_F(DoctorTest, ControlGroupsAreJudgedByVersionAndOption) {
  host_.put("proc/self/mountinfo", "31 23 0:28 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw,nsdelegate\n");
  expect("cgroup", Severity::Costly);
  EXPECT_EQ(find("cgroup").remedy, "mount -o remount,favordynmods /sys/fs/cgroup");
  host_.put("proc/self/mountinfo",
            "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n"
            "32 31 0:29 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n"
            "33 31 0:30 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n");
  expect("cgroup", Severity::Costly);
  EXPECT_NE(find("cgroup").found.find("hybrid"), std::string::npos);
  host_.put("proc/self/mountinfo", "32 31 0:29 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu,favordynmods\n");
  expect("cgroup", Severity::Note);
  EXPECT_NE(find("cgroup").found.find("version 1"), std::string::npos);
  host_.put("proc/self/mountinfo", "22 1 0:3 / / rw - ext4 /dev/vda rw\n");
  expect("cgroup", Severity::Note);
}

TEST_F(DoctorTest, WithoutIoUringNothingCanRun) {
  calls_.io_uring_error = EPERM;
  expect("io-uring", Severity::Broken);
  EXPECT_NE(find("io-uring").remedy.find("seccomp"), std::string::npos);
  host_.put("proc/sys/kernel/io_uring_disabled", "2\n");
  EXPECT_NE(find("io-uring").remedy.find("io_uring_disabled=0"), std::string::npos);
  EXPECT_FALSE(can_run(examine()));
  calls_.io_uring_error = 0;
  expect("io-uring", Severity::Note);
  host_.remove("proc/sys/kernel/io_uring_disabled");
  expect("io-uring", Severity::Ok);
}

TEST_F(DoctorTest, FewOpenFilesAreToldAndLockedMemoryIsNeverABother) {
  host_.put("proc/self/limits",
            "Max open files            512                  4096                 files     \n"
            "Max locked memory         65536                65536                bytes     \n");
  expect("open-files", Severity::Note);
  expect("locked-memory", Severity::Ok);
  host_.put("proc/self/limits", "Max open files            256                  4096                 files     \n");
  expect("open-files", Severity::Broken);
  host_.put("proc/self/limits", "Max open files            unlimited            unlimited            files     \n");
  expect("open-files", Severity::Ok);
}

TEST_F(DoctorTest, TheLeastOfTheLimitsOfThreadsIsJudged) {
  const auto expect_limit = [this](std::string_view found, std::string_view remedy) {
    expect("threads", Severity::Note);
    EXPECT_EQ(find("threads").found, found);
    EXPECT_NE(find("threads").remedy.find(remedy), std::string::npos) << find("threads").remedy;
  };
  EXPECT_EQ(find("threads").found, "20000 threads are allowed (pids.max of /sys/fs/cgroup/vms)");
  host_.put("proc/self/limits", "Max processes             4000                 96365                processes \n");
  expect_limit("4000 threads are allowed (the user's limit)", "LimitNPROC=");
  EXPECT_NE(find("threads").cost.find("fewer than 1334 machines"), std::string::npos) << find("threads").cost;
  host_.put("proc/sys/kernel/threads-max", "3999\n");
  expect_limit("3999 threads are allowed (kernel.threads-max)", "sysctl kernel.threads-max=");
  host_.put("proc/sys/kernel/pid_max", "3998\n");
  expect_limit("3998 threads are allowed (kernel.pid_max)", "sysctl kernel.pid_max=");
  host_.put("sys/fs/cgroup/vms/vm-7/pids.max", "100\n");
  expect_limit("100 threads are allowed (pids.max of /sys/fs/cgroup/vms/vm-7)", "TasksMax=");
  host_.put("sys/fs/cgroup/pids.max", "99\n");  // of a container
  expect_limit("99 threads are allowed (pids.max of /sys/fs/cgroup)", "TasksMax=");
  // Version 1: the controller has a tree of its own.
  host_.put("proc/self/cgroup", "4:cpu,pids:/vm-8\n0::/vms/vm-7\n");
  host_.put("sys/fs/cgroup/pids/vm-8/pids.max", "98\n");
  expect_limit("98 threads are allowed (pids.max of /sys/fs/cgroup/pids/vm-8)", "TasksMax=");
}

TEST_F(DoctorTest, WhatTheJailerNeedsIsJudged) {
  host_.remove("proc/sys/kernel/seccomp/actions_avail");
  expect("seccomp", Severity::Costly);
  host_.put("proc/sys/kernel/unprivileged_userns_clone", "0\n");
  expect("user-namespaces", Severity::Note);
  host_.remove("proc/self/ns/user");
  expect("user-namespaces", Severity::Note);
  EXPECT_NE(find("user-namespaces").remedy.find("CONFIG_USER_NS"), std::string::npos);
}

TEST_F(DoctorTest, LandlockIsJudgedByWhatItsVersionLacks) {
  calls_.landlock = 0;
  expect("landlock", Severity::Note);
  EXPECT_NE(find("landlock").remedy.find("lsm="), std::string::npos);
  calls_.landlock = 3;
  expect("landlock", Severity::Note);
  EXPECT_EQ(find("landlock").cost,
            "a jail's second fence leaves out: TCP, ioctls of devices, signals and abstract sockets");
  calls_.landlock = 7;
  expect("landlock", Severity::Ok);
}

TEST_F(DoctorTest, CoreDumpsAreNotedWhereTheyAreMade) {
  host_.put("proc/sys/kernel/core_pattern", "|/usr/bin/keeper %p\n");
  expect("core-dumps", Severity::Note);
  EXPECT_EQ(find("core-dumps").found, "core dumps are handed to /usr/bin/keeper %p");
  host_.put("proc/sys/kernel/core_pattern", "/var/cores/%p\n");
  expect("core-dumps", Severity::Ok);
  host_.put("proc/self/limits", "Max core file size        unlimited            unlimited            bytes     \n");
  expect("core-dumps", Severity::Note);
  EXPECT_NE(find("core-dumps").remedy.find("LimitCORE=0"), std::string::npos);
}

TEST_F(DoctorTest, HugePagesAreJudged) {
  host_.put("sys/kernel/mm/transparent_hugepage/enabled", "[always] madvise never\n");
  expect("transparent-huge-pages", Severity::Costly);
  host_.put("sys/kernel/mm/transparent_hugepage/enabled", "always madvise [never]\n");
  expect("transparent-huge-pages", Severity::Note);
  host_.remove("sys/kernel/mm/transparent_hugepage/enabled");
  expect("transparent-huge-pages", Severity::Note);
  EXPECT_EQ(find("huge-page-pool").found, "50 of 64 huge pages are there for new machines");
  host_.put_pool(64, 60, 60);  // free, and promised to machines that run
  expect("huge-page-pool", Severity::Note);
  EXPECT_EQ(find("huge-page-pool").cost, "no other machine with huge_pages 2M starts");
  host_.put_pool(0, 0, 0);
  expect("huge-page-pool", Severity::Note);
}

TEST_F(DoctorTest, SwapAndStrictOvercommitAreJudged) {
  host_.put("proc/swaps", "Filename\tType\tSize\tUsed\tPriority\n/dev/sda2 partition 1000 0 -2\n");
  expect("swap", Severity::Note);
  host_.put("proc/sys/vm/overcommit_memory", "2\n");
  expect("overcommit", Severity::Costly);
}

TEST_F(DoctorTest, UserFaultsAndTunAreNotedWhereTheyCannotBeUsed) {
  calls_.user_fault_error = EPERM;
  expect("user-faults", Severity::Note);
  EXPECT_NE(find("user-faults").remedy.find("setfacl"), std::string::npos);
  host_.remove("dev/userfaultfd");
  EXPECT_NE(find("user-faults").remedy.find("vm.unprivileged_userfaultfd"), std::string::npos);

  calls_.open_errors["tun"] = EACCES;
  expect("tun", Severity::Note);
  EXPECT_NE(find("tun").remedy.find("setfacl"), std::string::npos);
  host_.remove("dev/net/tun");
  EXPECT_EQ(find("tun").remedy, "modprobe tun");
}

TEST_F(DoctorTest, AHostThatShowsNothingIsStillExamined) {
  const Findings findings = examine_host(HostRoot{"/nonexistent"}, calls_);
  EXPECT_FALSE(can_run(findings));
  EXPECT_FALSE(findings.empty());
}

TEST(DoctorReport, TextHasTheWorstFirstAndASummary) {
  const Findings findings = {{Severity::Ok, "first", "fine", "", ""},
                             {Severity::Broken, "second", "gone", "everything", "bring it back"}};
  EXPECT_EQ(report_text(findings),
            "broken  second                  gone\n"
            "        cost: everything\n"
            "        mend: bring it back\n"
            "ok      first                   fine\n"
            "\n"
            "Mayfly cannot run here: 1 broken, 0 costly, 0 to note, 1 ok\n");
}

TEST(DoctorReport, JsonEscapesAndKeepsTheOrder) {
  const Findings findings = {{Severity::Note, "first", "a \"b\" \\ \n", "", ""},
                             {Severity::Costly, "second", "c", "time", "do it"}};
  EXPECT_EQ(
      report_json(findings),
      "{\"can_run\": true, \"findings\": [\n"
      "  {\"check\": \"first\", \"severity\": \"note\", \"found\": \"a \\\"b\\\" \\\\ \\u000a\", \"cost\": null, "
      "\"remedy\": null},\n"
      "  {\"check\": \"second\", \"severity\": \"costly\", \"found\": \"c\", \"cost\": \"time\", \"remedy\": \"do "
      "it\"}\n"
      "]}\n");
}

TEST(Doctor, TheHostWeAreOnCanBeExamined) {
  const Findings findings = examine_host(HostRoot{}, real_host_calls());
  EXPECT_GE(findings.size(), 10U);
}

TEST(Doctor, AReportThatIsNotWrittenDoesNotSayThatTheHostIsFine) {
  for (const bool json : {false, true}) {
    std::FILE* const full = std::fopen("/dev/full", "w");
    ASSERT_NE(full, nullptr);
    EXPECT_EQ(print_findings({}, json, full), 1);
    std::fclose(full);
    std::FILE* const sink = std::fopen("/dev/null", "w");
    ASSERT_NE(sink, nullptr);
    EXPECT_EQ(print_findings({}, json, sink), 0);
    EXPECT_EQ(print_findings({{Severity::Broken, "kvm", "gone", "all", "modprobe kvm"}}, json, sink), 1);
    std::fclose(sink);
  }
}

}  // namespace
}  // namespace mayfly
