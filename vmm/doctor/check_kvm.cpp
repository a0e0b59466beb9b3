#include "vmm/base/error.h"
#include "vmm/doctor/checks.h"

#include <linux/kvm.h>

#include <array>
#include <cerrno>

namespace mayfly::doctor {
namespace {

constexpr std::string_view kDevice = "dev/kvm";

struct Capability {
  int number;
  std::string_view name;
  std::string_view cost;  ///< Empty: Mayfly cannot do without.
};

constexpr std::array kCapabilities = {
    Capability{KVM_CAP_USER_MEMORY, "KVM_CAP_USER_MEMORY", ""},
    Capability{KVM_CAP_SPLIT_IRQCHIP, "KVM_CAP_SPLIT_IRQCHIP", ""},
    Capability{KVM_CAP_SIGNAL_MSI, "KVM_CAP_SIGNAL_MSI", ""},
    Capability{KVM_CAP_IRQ_ROUTING, "KVM_CAP_IRQ_ROUTING", ""},
    Capability{KVM_CAP_IRQFD, "KVM_CAP_IRQFD", ""},
    Capability{KVM_CAP_IOEVENTFD, "KVM_CAP_IOEVENTFD", ""},
    Capability{KVM_CAP_IMMEDIATE_EXIT, "KVM_CAP_IMMEDIATE_EXIT", ""},
    Capability{KVM_CAP_EXT_CPUID, "KVM_CAP_EXT_CPUID", ""},
    Capability{KVM_CAP_TSC_DEADLINE_TIMER, "KVM_CAP_TSC_DEADLINE_TIMER",
               "Linux guests calibrate their local timer at boot, which takes them 200 ms"},
    Capability{KVM_CAP_X2APIC_API, "KVM_CAP_X2APIC_API", "interrupt messages cannot name APIC ids above 255"},
    Capability{KVM_CAP_XSAVE, "KVM_CAP_XSAVE", "snapshots cannot be taken: the FPU's state cannot be read whole"},
    Capability{KVM_CAP_ADJUST_CLOCK, "KVM_CAP_ADJUST_CLOCK", "a restored guest's paravirtual clock jumps"},
    Capability{KVM_CAP_GET_TSC_KHZ, "KVM_CAP_GET_TSC_KHZ",
               "guests must calibrate their time stamp counter at boot (30 ms on peers)"},
};

constexpr auto capability_numbers() {
  std::array<int, kCapabilities.size()> numbers{};
  for (std::size_t index = 0; index < numbers.size(); ++index) numbers[index] = kCapabilities[index].number;
  return numbers;
}

/// False where the device cannot be opened.
bool check_device(const HostRoot& root, const HostCalls& calls, Findings& findings) {
  const int error = root.exists(kDevice) ? calls.try_open(root.path(kDevice)) : ENOENT;
  if (error == 0) {
    findings.push_back({Severity::Ok, "kvm-device", "/dev/kvm can be opened", "", ""});
    return true;
  }
  Finding finding{Severity::Broken, "kvm-device", fmt::format("/dev/kvm cannot be opened: {}", errno_text(error)),
                  "no machine can run", ""};
  if (error == ENOENT || error == ENXIO || error == ENODEV)
    finding.remedy =
        "load the module (modprobe kvm_amd or kvm_intel); turn virtualization on in the firmware, or, in a virtual "
        "machine, nested virtualization on its host";
  else if (error == EACCES || error == EPERM)
    finding.remedy =
        "add the user to the device's group (usermod -aG kvm USER, then log in again), or give access to one user "
        "(setfacl -m u:USER:rw /dev/kvm)";
  else
    finding.remedy = "see the kernel's log (dmesg)";
  findings.push_back(std::move(finding));
  return false;
}

void check_capabilities(const HostCalls::KvmAnswers& answers, Findings& findings) {
  bool complete = true;
  for (std::size_t index = 0; index < kCapabilities.size(); ++index) {
    const Capability& capability = kCapabilities[index];
    if (index < answers.capabilities.size() && answers.capabilities[index] > 0) continue;
    complete = false;
    const bool needed = capability.cost.empty();
    findings.push_back({needed ? Severity::Broken : Severity::Costly, "kvm-capabilities",
                        fmt::format("{} is missing", capability.name),
                        needed ? "no machine can run" : std::string{capability.cost},
                        "use a newer kernel on the host"});
  }
  if (complete)
    findings.push_back({Severity::Ok, "kvm-capabilities",
                        fmt::format("all {} that Mayfly uses are there", kCapabilities.size()), "", ""});
}

void check_api(const HostRoot& root, const HostCalls& calls, Findings& findings) {
  constexpr auto kNumbers = capability_numbers();
  const auto answers = calls.ask_kvm(root.path(kDevice), kNumbers);
  if (!answers || answers->api_version != KVM_API_VERSION) {
    findings.push_back({Severity::Broken, "kvm-api",
                        answers ? fmt::format("KVM's API version is {}, not {}", answers->api_version, KVM_API_VERSION)
                                : std::string{"/dev/kvm does not answer"},
                        "no machine can run", "use a kernel with a stable KVM API (any since 2.6.22)"});
    return;
  }
  findings.push_back({Severity::Ok, "kvm-api", fmt::format("API version {}", KVM_API_VERSION), "", ""});
  check_capabilities(*answers, findings);
}

void check_nx_huge_pages(const HostRoot& root, Findings& findings) {
  const auto setting = root.read("sys/module/kvm/parameters/nx_huge_pages");
  if (!setting) return;
  Finding finding{Severity::Ok, "nx-huge-pages", fmt::format("kvm.nx_huge_pages is {}", *setting), "", ""};
  if (*setting != "never") {
    const bool split = *setting == "Y";
    finding.severity = split ? Severity::Costly : Severity::Note;
    finding.cost = fmt::format(
        "{}every new machine starts a kernel thread and moves it between control groups (together with the cgroup and "
        "kernel findings 27 to 130 ms a machine, measured on peers)",
        split ? "2 MiB pages that a guest executes are split into 4 KiB pages; " : "");
    finding.remedy =
        "on CPUs that are not affected (see /sys/devices/system/cpu/vulnerabilities/itlb_multihit): "
        "echo 'options kvm nx_huge_pages=never' > /etc/modprobe.d/kvm.conf, and load the kvm module again";
  }
  findings.push_back(std::move(finding));
}

void check_halt_polling(const HostRoot& root, Findings& findings) {
  const auto nanoseconds = root.read_number("sys/module/kvm/parameters/halt_poll_ns");
  if (!nanoseconds) return;
  Finding finding{Severity::Ok, "halt-polling", fmt::format("kvm.halt_poll_ns is {}", *nanoseconds), "", ""};
  if (*nanoseconds > 0) {
    finding.severity = Severity::Note;
    finding.cost = fmt::format(
        "a vCPU that halts keeps its CPU busy for up to {} us, hoping to be woken: lower latency for one machine, less "
        "room for many",
        *nanoseconds / 1000);
    finding.remedy = "for density: echo 0 > /sys/module/kvm/parameters/halt_poll_ns";
  }
  findings.push_back(std::move(finding));
}

}  // namespace

void check_kvm(const HostRoot& root, const HostCalls& calls, Findings& findings) {
  if (check_device(root, calls, findings)) check_api(root, calls, findings);
  check_nx_huge_pages(root, findings);
  check_halt_polling(root, findings);
}

}  // namespace mayfly::doctor
