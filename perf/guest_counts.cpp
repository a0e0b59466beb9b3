#include "perf/guest_counts.h"

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>
#include <string_view>

namespace mayfly::perf {

namespace fs = std::filesystem;

namespace {

double context_switches(pid_t pid) {
  double sum = 0;
  for (const auto& thread : fs::directory_iterator{"/proc/" + std::to_string(pid) + "/task"}) {
    std::ifstream status{thread.path() / "status"};
    for (std::string line; std::getline(status, line);)
      if (line.find("ctxt_switches:") != std::string::npos) sum += std::atof(line.c_str() + line.find(':') + 1);
  }
  return sum;
}

/// proc(5): minflt is the 10th field of stat, majflt the 12th; the second one, in parentheses, may have spaces.
double page_faults(pid_t pid) {
  std::ifstream file{"/proc/" + std::to_string(pid) + "/stat"};
  std::string line;
  std::getline(file, line);
  std::istringstream fields{line.substr(line.rfind(')') + 2)};
  double minor = 0, major = 0;
  std::string word;
  for (int field = 3; fields >> word && field <= 12; ++field) {
    if (field == 10) minor = std::atof(word.c_str());
    if (field == 12) major = std::atof(word.c_str());
  }
  return minor + major;
}

/// KVM's own count, of the VM whose folder's name begins with the id of the thread that made it.
double mapped_pages(pid_t pid) {
  std::error_code none;
  for (const auto& vm : fs::directory_iterator{"/sys/kernel/debug/kvm", none}) {
    const std::string name = vm.path().filename().string();
    const std::size_t end = name.find('-');
    if (end == std::string::npos || !fs::exists("/proc/" + std::to_string(pid) + "/task/" + name.substr(0, end)))
      continue;
    double count = 0;
    std::ifstream{vm.path() / "pf_fixed"} >> count;
    return count;
  }
  return 0;
}

}  // namespace

Counts counts_of(MayflyGuest& guest) {
  const pid_t pid = guest.process().pid();
  Counts counts{.switches = context_switches(pid), .host_faults = page_faults(pid), .guest_faults = mapped_pages(pid)};
  for (const auto& [name, value] : guest.metrics()) {
    if (name.starts_with("mayfly_vcpu_exit")) counts.exits += value;
    if (name.starts_with("mayfly_vcpu_exit_mmio")) counts.mmio_exits += value;
    if (name.starts_with("mayfly_virtio_interrupts")) counts.interrupts += value;
  }
  return counts;
}

Counts operator-(const Counts& after, const Counts& before) {
  return {.exits = after.exits - before.exits,
          .mmio_exits = after.mmio_exits - before.mmio_exits,
          .interrupts = after.interrupts - before.interrupts,
          .switches = after.switches - before.switches,
          .host_faults = after.host_faults - before.host_faults,
          .guest_faults = after.guest_faults - before.guest_faults};
}

Counts operator/(const Counts& all, double requests) {
  return {.exits = all.exits / requests,
          .mmio_exits = all.mmio_exits / requests,
          .interrupts = all.interrupts / requests,
          .switches = all.switches / requests,
          .host_faults = all.host_faults / requests,
          .guest_faults = all.guest_faults / requests};
}

}  // namespace mayfly::perf
