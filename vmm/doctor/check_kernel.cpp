#include "vmm/base/error.h"
#include "vmm/doctor/checks.h"
#include "vmm/doctor/host_text.h"

#include <algorithm>
#include <array>
#include <cerrno>

namespace mayfly::doctor {
namespace {

constexpr KernelVersion kQuickRestore{6, 11};

void check_version(const HostRoot& root, Findings& findings) {
  const auto release = root.read("proc/sys/kernel/osrelease");
  if (!release) return;
  Finding finding{Severity::Ok, "kernel", fmt::format("Linux {}", *release), "", ""};
  const auto version = parse_kernel_version(*release);
  if (version && *version < kQuickRestore) {
    finding.severity = Severity::Costly;
    finding.cost =
        "making and restoring machines is slower on older kernels: peers saw the same program restore in 126-158 ms on "
        "one kernel and in 2-4 ms on another";
    finding.remedy = "use Linux 6.11 or later on the host";
  }
  findings.push_back(std::move(finding));
}

void check_cgroups(const HostRoot& root, Findings& findings) {
  const CgroupMounts mounts = parse_cgroup_mounts(root.read("proc/self/mountinfo").value_or(""));
  if (!mounts.v1 && !mounts.v2) {
    findings.push_back({Severity::Note, "cgroup", "no control groups are mounted",
                        "the jailer cannot limit a machine's CPU, memory and I/O",
                        "mount -t cgroup2 -o favordynmods none /sys/fs/cgroup"});
    return;
  }
  const std::string layout = !mounts.v1 ? "version 2" : mounts.v2 ? "hybrid (versions 1 and 2)" : "version 1";
  Finding finding{Severity::Ok, "cgroup",
                  fmt::format("control groups: {}, {} favordynmods", layout, mounts.favordynmods ? "with" : "without"),
                  "", ""};
  if (!mounts.favordynmods || mounts.v1) {
    finding.severity = mounts.favordynmods ? Severity::Note : Severity::Costly;
    if (!mounts.favordynmods)
      finding.cost =
          "moving a new machine's process and threads into its group waits for a grace period of the kernel (together "
          "with the nx-huge-pages and kernel findings 27 to 130 ms a machine, measured on peers)";
    if (mounts.v1) {
      finding.cost += finding.cost.empty() ? "" : "; ";
      finding.cost += "with version 1, each controller is a tree of its own, to be joined one by one";
      finding.remedy = "boot with systemd.unified_cgroup_hierarchy=1";
    }
    if (!mounts.favordynmods) {
      finding.remedy += finding.remedy.empty() ? "" : ", then ";
      finding.remedy += "mount -o remount,favordynmods /sys/fs/cgroup";
    }
  }
  findings.push_back(std::move(finding));
}

void check_io_uring(const HostRoot& root, const HostCalls& calls, Findings& findings) {
  const std::int64_t disabled = root.read_number("proc/sys/kernel/io_uring_disabled").value_or(0);
  const int error = calls.try_io_uring();
  if (error != 0) {
    Finding finding{Severity::Broken, "io-uring", fmt::format("io_uring cannot be used: {}", errno_text(error)),
                    "no machine can run: Mayfly's event loop is a ring", ""};
    if (disabled != 0)
      finding.remedy = "sysctl kernel.io_uring_disabled=0 (or 1, with the user in the group kernel.io_uring_group)";
    else if (error == ENOSYS)
      finding.remedy = "use a kernel that is built with CONFIG_IO_URING";
    else if (error == EPERM)
      finding.remedy = "allow io_uring_setup, io_uring_enter and io_uring_register in the container's seccomp profile";
    else
      finding.remedy = "see the kernel's log (dmesg)";
    findings.push_back(std::move(finding));
    return;
  }
  if (disabled != 0) {
    findings.push_back({Severity::Note, "io-uring", fmt::format("kernel.io_uring_disabled is {}", disabled),
                        "this user may use io_uring, but the user that the jailer changes to may not",
                        "sysctl kernel.io_uring_disabled=0, or put that user into the group kernel.io_uring_group"});
    return;
  }
  findings.push_back({Severity::Ok, "io-uring", "io_uring works", "", ""});
}

std::string soft_limit(const HostRoot& root, std::string_view name) {
  return parse_soft_limit(root.read("proc/self/limits").value_or(""), name);
}

void check_limits(const HostRoot& root, Findings& findings) {
  constexpr int kEnoughFiles = 1024;
  constexpr int kLeastFiles = 320;  // the ring's table of files
  if (const std::string files = soft_limit(root, "Max open files"); !files.empty()) {
    Finding finding{Severity::Ok, "open-files", fmt::format("{} open files are allowed", files), "", ""};
    // "unlimited" has no number.
    if (leading_number(files).value_or(kEnoughFiles) < kEnoughFiles) {
      finding.severity = leading_number(files) < kLeastFiles ? Severity::Broken : Severity::Note;
      finding.cost = "no machine starts below 320, and one needs two or three more for each drive, interface and queue";
      finding.remedy = "ulimit -n 1024, or LimitNOFILE= in the service";
    }
    findings.push_back(std::move(finding));
  }
  if (const std::string locked = soft_limit(root, "Max locked memory"); !locked.empty())
    findings.push_back({Severity::Ok, "locked-memory",
                        fmt::format("{}{} may be locked, which is not needed: guest memory is never locked or "
                                    "registered",
                                    locked, locked == "unlimited" ? " memory" : " bytes"),
                        "", ""});
}

/// How many threads something allows, what it is, and how to have more.
struct ThreadLimit {
  std::int64_t threads;
  std::string name;
  std::string_view remedy;
};

std::vector<ThreadLimit> thread_limits(const HostRoot& root) {
  std::vector<ThreadLimit> limits;
  const auto add = [&limits](std::optional<std::int64_t> threads, std::string name, std::string_view remedy) {
    if (threads) limits.push_back({*threads, std::move(name), remedy});
  };
  // "unlimited" and "max" have no number.
  add(leading_number(soft_limit(root, "Max processes")), "the user's limit",
      "ulimit -u N, or LimitNPROC=N in the service");
  add(root.read_number("proc/sys/kernel/threads-max"), "kernel.threads-max", "sysctl kernel.threads-max=N");
  add(root.read_number("proc/sys/kernel/pid_max"), "kernel.pid_max", "sysctl kernel.pid_max=N");
  // Those above it limit it, too.
  for (std::string group = parse_pids_group(root.read("proc/self/cgroup").value_or(""));
       group.starts_with("sys/fs/cgroup"); group.resize(group.rfind('/')))
    add(root.read_number(group + "/pids.max"), "pids.max of /" + group,
        "write N to that file, or TasksMax=N in the service");
  return limits;
}

void check_threads(const HostRoot& root, Findings& findings) {
  constexpr std::int64_t kThreadsOfSmallest = 3;  // loop, API, one vCPU
  constexpr std::int64_t kEnoughThreads = 4096;
  const std::vector<ThreadLimit> limits = thread_limits(root);
  if (limits.empty()) return;
  const ThreadLimit& least = *std::ranges::min_element(limits, {}, &ThreadLimit::threads);
  Finding finding{Severity::Ok, "threads", fmt::format("{} threads are allowed ({})", least.threads, least.name), "",
                  ""};
  if (least.threads < kEnoughThreads) {
    finding.severity = Severity::Note;
    finding.cost = fmt::format(
        "a machine has two threads and one for each vCPU, and the kernel adds workers for its I/O: with all else that "
        "counts, fewer than {} machines run at once, and the next does not start",
        least.threads / kThreadsOfSmallest + 1);
    finding.remedy = least.remedy;
  }
  findings.push_back(std::move(finding));
}

/// What of a jail's second fence a version adds, where Mayfly asks for it.
struct FencePart {
  int version;
  std::string_view name;
};
constexpr std::array kFenceParts = {FencePart{2, "renames between directories"}, FencePart{3, "truncation"},
                                    FencePart{4, "TCP"}, FencePart{5, "ioctls of devices"},
                                    FencePart{6, "signals and abstract sockets"}};

void check_landlock(const HostCalls& calls, Findings& findings) {
  const int version = calls.landlock_version();
  if (version == 0) {
    findings.push_back({Severity::Note, "landlock", "the kernel has no Landlock",
                        "a jail has one fence, its root directory: a way out of that leads to every file that the "
                        "machine's user may open",
                        "use a kernel that is built with CONFIG_SECURITY_LANDLOCK, and with landlock in lsm= on its "
                        "command line where that is there"});
    return;
  }
  Finding finding{Severity::Ok, "landlock", fmt::format("Landlock has version {}", version), "", ""};
  std::string missing;
  for (const FencePart& part : kFenceParts)
    if (version < part.version) missing += fmt::format("{}{}", missing.empty() ? "" : ", ", part.name);
  if (!missing.empty()) {
    finding.severity = Severity::Note;
    finding.cost = fmt::format("a jail's second fence leaves out: {}", missing);
    finding.remedy = "use Linux 6.12 or later";
  }
  findings.push_back(std::move(finding));
}

/// Guest memory is in no dump; metadata, which can be secrets, are.
void check_core_dumps(const HostRoot& root, Findings& findings) {
  const auto pattern = root.read("proc/sys/kernel/core_pattern");
  if (!pattern) return;
  // The limit does not hold for what is handed to a program (core(5)).
  const bool piped = pattern->starts_with('|');
  if (!piped && soft_limit(root, "Max core file size") == "0") {
    findings.push_back({Severity::Ok, "core-dumps", "core dumps are not written", "", ""});
    return;
  }
  findings.push_back({Severity::Note, "core-dumps",
                      piped ? fmt::format("core dumps are handed to {}", std::string_view{*pattern}.substr(1))
                            : fmt::format("core dumps are written to {}", *pattern),
                      "that of a monitor that crashes has its metadata and its guest's registers, though not the "
                      "guest's memory",
                      piped ? "where metadata are secrets: sysctl kernel.core_pattern=core, and ulimit -c 0"
                            : "where metadata are secrets: ulimit -c 0, or LimitCORE=0 in the service"});
}

void check_jail(const HostRoot& root, const HostCalls& calls, Findings& findings) {
  const std::string actions = root.read("proc/sys/kernel/seccomp/actions_avail").value_or("");
  if (has_word(actions, "trap"))
    findings.push_back({Severity::Ok, "seccomp", "system call filters are there", "", ""});
  else
    findings.push_back(
        {Severity::Costly, "seccomp", "the kernel has no system call filters",
         "a guest that takes over its monitor can make every system call of the host",
         "use a kernel that is built with CONFIG_SECCOMP_FILTER; without, machines start with --no-seccomp alone"});
  check_landlock(calls, findings);

  const bool supported = root.exists("proc/self/ns/user");
  const bool allowed = root.read_number("proc/sys/user/max_user_namespaces").value_or(0) > 0 &&
                       root.read_number("proc/sys/kernel/unprivileged_userns_clone").value_or(1) != 0;
  if (supported && allowed)
    findings.push_back({Severity::Ok, "user-namespaces", "user namespaces may be made", "", ""});
  else
    findings.push_back(
        {Severity::Note, "user-namespaces",
         supported ? "user namespaces may not be made without privilege" : "the kernel has no user namespaces",
         "the jailer works only when it is started by root",
         supported ? "sysctl user.max_user_namespaces=10000 (and kernel.unprivileged_userns_clone=1)"
                   : "use a kernel that is built with CONFIG_USER_NS"});
}

}  // namespace

void check_kernel(const HostRoot& root, const HostCalls& calls, Findings& findings) {
  check_version(root, findings);
  check_cgroups(root, findings);
  check_io_uring(root, calls, findings);
  check_limits(root, findings);
  check_threads(root, findings);
  check_jail(root, calls, findings);
  check_core_dumps(root, findings);
}

}  // namespace mayfly::doctor
