#pragma once

#include <compare>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

/// What the checks read in the kernel's text files. Pure, on text of any shape: what is not there is empty.
namespace mayfly::doctor {

struct KernelVersion {
  int major = 0;
  int minor = 0;
  friend auto operator<=>(const KernelVersion&, const KernelVersion&) = default;
};

/// What the mounts say of control groups.
struct CgroupMounts {
  bool v1 = false;
  bool v2 = false;
  bool favordynmods = false;
};

/// The number that a text starts with.
[[nodiscard]] std::optional<int> leading_number(std::string_view text);

/// Of /proc/sys/kernel/osrelease: "6.1.0-13-amd64".
[[nodiscard]] std::optional<KernelVersion> parse_kernel_version(std::string_view text);

/// Of /proc/self/mountinfo.
[[nodiscard]] CgroupMounts parse_cgroup_mounts(const std::string& mountinfo);

/// The soft limit of a line of /proc/self/limits: a number or "unlimited"; empty where it is not there.
[[nodiscard]] std::string parse_soft_limit(const std::string& limits, std::string_view name);

/// The directory of our control group that counts tasks, as /proc/self/cgroup has it, from the root of the host
/// ("sys/fs/cgroup..."); empty where there is none.
[[nodiscard]] std::string parse_pids_group(const std::string& own_cgroups);

/// The flags of the first CPU of /proc/cpuinfo.
[[nodiscard]] std::string parse_cpu_flags(const std::string& cpuinfo);

}  // namespace mayfly::doctor
