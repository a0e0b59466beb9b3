// Text of the kernel's files as the host's tools read them: /proc/PID/cmdline, stat, smaps_rollup and fdinfo,
// mountinfo, cgroup, limits, meminfo, cpuinfo, uid_map and the kernel's release. A part of it is written by others:
// command lines, names of programs, mounts and cgroups. The first byte says which file it is.

#include "api/client/command_line.h"
#include "api/client/top/sample.h"
#include "jailer/cgroups.h"
#include "jailer/privileges.h"
#include "jailer/small_file.h"
#include "tests/fuzz/must.h"
#include "virtio/block/lock_holder.h"
#include "vmm/base/machine_id.h"
#include "vmm/doctor/host_text.h"

#include <algorithm>
#include <cstdint>
#include <string>
#include <string_view>

namespace mayfly {
namespace {

void read_command_line(std::string_view text) {
  const auto started = parse_command_line(text);
  if (!started) return;
  must(is_machine_id(started->id));
  // The kernel ends every word, the last one too.
  if (started->socket) must(started->socket->find('\0') == std::string::npos);
}

void read_process(std::string_view text) {
  (void)top::parse_stat(text);
  (void)top::parse_smaps_rollup(text);
  (void)top::parse_metrics(text);
}

void read_doctors(const std::string& text) {
  if (const auto version = doctor::parse_kernel_version(text)) must(*version == *version);
  const auto mounts = doctor::parse_cgroup_mounts(text);
  must(!mounts.favordynmods || mounts.v1 || mounts.v2);
  const std::string limit = doctor::parse_soft_limit(text, "Max open files");
  must(limit.find_first_of(" \t\n") == std::string::npos);
  const std::string group = doctor::parse_pids_group(text);
  must(group.empty() || group.starts_with("sys/fs/cgroup"));
  // As the doctor climbs up from there: it comes to an end.
  std::size_t steps = 0;
  for (std::string at = group; at.starts_with("sys/fs/cgroup"); at.resize(at.rfind('/'))) must(++steps <= group.size());
  must(doctor::parse_cpu_flags(text).find('\n') == std::string::npos);
}

void read_cgroups(std::string_view text) {
  // What separates the two files here is in neither.
  const std::size_t end = std::min(text.find('\1'), text.size());
  const auto own = text.substr(std::min(end + 1, text.size()));
  for (const jailer::Hierarchy& each : jailer::parse_hierarchies(text.substr(0, end), own)) {
    must(each.version == 1 || each.version == 2);
    must(each.version == 1 || each.controllers.empty());
    must(each.home.empty() || each.root != "/" || own.find(each.home) != std::string_view::npos);
  }
}

}  // namespace
}  // namespace mayfly

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace mayfly;
  if (size == 0) return 0;
  const std::string_view text{reinterpret_cast<const char*>(data) + 1, size - 1};
  switch (data[0] % 6) {
    case 0:
      read_command_line(text);
      break;
    case 1:
      read_process(text);
      break;
    case 2:
      read_doctors(std::string{text});
      break;
    case 3:
      read_cgroups(text);
      break;
    case 4:
      (void)jailer::is_mapped(text, 1000);
      break;
    default:
      if (is_lock_on(text, 1234)) must(text.find("1234") != std::string_view::npos);
  }
  return 0;
}
