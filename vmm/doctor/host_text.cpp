#include "vmm/doctor/host_text.h"

#include <charconv>
#include <sstream>

namespace mayfly::doctor {

std::optional<int> leading_number(std::string_view text) {
  int number = 0;
  if (std::from_chars(text.data(), text.data() + text.size(), number).ec != std::errc{}) return std::nullopt;
  return number;
}

std::optional<KernelVersion> parse_kernel_version(std::string_view text) {
  const std::size_t dot = text.find('.');
  if (dot == std::string_view::npos) return std::nullopt;
  const auto major = leading_number(text);
  const auto minor = leading_number(text.substr(dot + 1));
  if (!major || !minor) return std::nullopt;
  return KernelVersion{*major, *minor};
}

CgroupMounts parse_cgroup_mounts(const std::string& mountinfo) {
  CgroupMounts mounts;
  std::istringstream lines{mountinfo};
  for (std::string line; std::getline(lines, line);) {
    // proc(5): fields, a lone "-", then the type, the source and the options of the whole file system.
    const std::size_t separator = line.find(" - ");
    if (separator == std::string::npos) continue;
    const std::string_view rest = std::string_view{line}.substr(separator + 3);
    if (!rest.starts_with("cgroup")) continue;
    (rest.starts_with("cgroup2 ") ? mounts.v2 : mounts.v1) = true;
    if (rest.contains("favordynmods")) mounts.favordynmods = true;
  }
  return mounts;
}

std::string parse_soft_limit(const std::string& limits, std::string_view name) {
  std::istringstream lines{limits};
  for (std::string line; std::getline(lines, line);) {
    if (!line.starts_with(name)) continue;
    std::istringstream fields{line.substr(name.size())};
    std::string soft;
    fields >> soft;
    return soft;
  }
  return {};
}

std::string parse_pids_group(const std::string& own_cgroups) {
  std::istringstream lines{own_cgroups};
  std::string unified;
  for (std::string line; std::getline(lines, line);) {
    // cgroups(7): hierarchy, controllers of version 1 with commas between them, path
    const std::size_t first = line.find(':');
    const std::size_t second = line.find(':', first + 1);
    if (first == std::string::npos || second == std::string::npos) continue;
    const std::string controllers = line.substr(first + 1, second - first - 1);
    const std::string path = line.ends_with(":/") ? "" : line.substr(second + 1);
    if (("," + controllers + ",").contains(",pids,")) return "sys/fs/cgroup/pids" + path;
    if (controllers.empty()) unified = "sys/fs/cgroup" + path;
  }
  return unified;
}

std::string parse_cpu_flags(const std::string& cpuinfo) {
  const std::size_t line = cpuinfo.starts_with("flags") ? 0 : cpuinfo.find("\nflags");
  if (line == std::string::npos) return {};
  const std::size_t start = cpuinfo.find(':', line);
  if (start == std::string::npos) return {};
  return cpuinfo.substr(start + 1, cpuinfo.find('\n', start) - start - 1);
}

}  // namespace mayfly::doctor
