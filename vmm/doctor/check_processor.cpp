#include "vmm/base/error.h"
#include "vmm/doctor/checks.h"
#include "vmm/doctor/host_text.h"

#include <algorithm>
#include <array>

namespace mayfly::doctor {
namespace {

void check_virtualization(const HostRoot& root, std::string_view flags, Findings& findings) {
  for (const std::string_view flag : {"svm", "vmx"}) {
    if (!has_word(flags, flag)) continue;
    findings.push_back(
        {Severity::Ok, "cpu-virtualization", fmt::format("the CPU has hardware virtualization ({})", flag), "", ""});
    return;
  }
  const bool pvm = root.exists("sys/module/kvm_pvm");
  findings.push_back(
      {Severity::Costly, "cpu-virtualization",
       fmt::format("the CPU shows neither svm nor vmx{}", pvm ? "; KVM runs by the module kvm_pvm" : ""),
       "if KVM works at all, guest code of privilege level 0 is emulated, about 0.8 million instructions a second "
       "(measured here with kvm_pvm), and Linux guests stop at the first instruction that the emulator does not know; "
       "only programs of privilege level 3 run at full speed",
       "use a host with hardware virtualization; turn it on in the firmware, or, in a virtual machine, nested "
       "virtualization on its host"});
}

void check_nesting(std::string_view flags, Findings& findings) {
  if (!has_word(flags, "hypervisor")) {
    findings.push_back({Severity::Ok, "nesting", "this host is not a virtual machine", "", ""});
    return;
  }
  findings.push_back(
      {Severity::Note, "nesting", "this host is itself a virtual machine",
       "a guest's exits and page faults pass through the hypervisor below: each costs several times more",
       "use a host without a hypervisor below it where latency matters"});
}

void check_clock_source(const HostRoot& root, Findings& findings) {
  const auto source = root.read("sys/devices/system/clocksource/clocksource0/current_clocksource");
  if (!source) return;
  constexpr std::array<std::string_view, 3> kGood = {"tsc", "kvm-clock", "hyperv_clocksource_tsc_page"};
  Finding finding{Severity::Ok, "clock-source", fmt::format("the clock source is {}", *source), "", ""};
  if (std::ranges::find(kGood, *source) == kGood.end()) {
    finding.severity = Severity::Costly;
    finding.cost =
        "each look at the clock is a system call and a slow device access, and guests get no paravirtual clock: they "
        "calibrate at boot (30 ms on peers)";
    finding.remedy =
        "echo tsc > /sys/devices/system/clocksource/clocksource0/current_clocksource; where the kernel calls the time "
        "stamp counter unstable, see its log for the reason";
  }
  findings.push_back(std::move(finding));
}

void check_governor(const HostRoot& root, Findings& findings) {
  const auto governor = root.read("sys/devices/system/cpu/cpu0/cpufreq/scaling_governor");
  if (!governor) return;
  Finding finding{Severity::Ok, "cpu-governor", fmt::format("the frequency governor is {}", *governor), "", ""};
  if (*governor != "performance") {
    finding.severity = Severity::Note;
    finding.cost =
        "an idle CPU wakes up slow: the first milliseconds of a machine, which are the ones that count, run at "
        "a lower frequency";
    finding.remedy = "cpupower frequency-set -g performance";
  }
  findings.push_back(std::move(finding));
}

void check_sibling_threads(const HostRoot& root, Findings& findings) {
  const auto active = root.read_number("sys/devices/system/cpu/smt/active");
  if (!active) return;
  if (*active == 0) {
    findings.push_back({Severity::Ok, "smt", "no two CPUs share a core", "", ""});
    return;
  }
  findings.push_back({Severity::Note, "smt", "cores run two threads each (SMT)",
                      "machines of two tenants on one core can watch each other through caches and buffers",
                      "where tenants do not trust each other: echo off > /sys/devices/system/cpu/smt/control, or give "
                      "each tenant whole cores (cpusets, core scheduling)"});
}

void check_vulnerabilities(const HostRoot& root, Findings& findings) {
  constexpr std::string_view kFolder = "sys/devices/system/cpu/vulnerabilities";
  std::string open;
  unsigned mitigated = 0;
  const auto names = root.list(kFolder);
  for (const std::string& name : names) {
    const std::string state = root.read(fmt::format("{}/{}", kFolder, name)).value_or("");
    if (state.starts_with("Vulnerable")) open += (open.empty() ? "" : ", ") + name;
    if (state.starts_with("Mitigation")) ++mitigated;
  }
  if (names.empty()) return;
  if (!open.empty())
    findings.push_back({Severity::Note, "cpu-vulnerabilities", fmt::format("the CPU is open to {}", open),
                        "a guest may be able to read memory of the host or of other tenants",
                        "update microcode and kernel, and look at mitigations= on the kernel's command line; on hosts "
                        "of one tenant, nothing"});
  if (mitigated > 0)
    findings.push_back({Severity::Note, "cpu-mitigations", fmt::format("{} mitigations are on", mitigated),
                        "some of them make every exit of a guest and every system call slower",
                        "on hosts of one tenant alone: mitigations=off on the kernel's command line"});
  if (open.empty() && mitigated == 0)
    findings.push_back({Severity::Ok, "cpu-vulnerabilities", "the CPU has none that the kernel knows", "", ""});
}

}  // namespace

void check_processor(const HostRoot& root, Findings& findings) {
  const std::string flags = parse_cpu_flags(root.read("proc/cpuinfo").value_or(""));
  check_virtualization(root, flags, findings);
  check_nesting(flags, findings);
  check_clock_source(root, findings);
  check_governor(root, findings);
  check_sibling_threads(root, findings);
  check_vulnerabilities(root, findings);
}

}  // namespace mayfly::doctor
