#pragma once

#include "vmm/base/error.h"

#include <cstdint>
#include <string>

/// Which processor and kernel a snapshot was taken on: its guest has seen that one's features, and its saved registers are
/// laid out as that one has them.
namespace mayfly {

struct HostCpu {
  std::string vendor{};  ///< "GenuineIntel", "AuthenticAMD"...
  std::uint32_t family = 0;
  std::uint32_t model = 0;
  std::uint32_t stepping = 0;
  std::string kernel{};  ///< The host's, as `uname -rv` has it; empty in snapshots of versions that did not tell.
  friend bool operator==(const HostCpu&, const HostCpu&) = default;
};

/// The kernel that this runs on, as HostCpu has it. Asked once, and before there are filters, which do not have the call.
[[nodiscard]] const std::string& this_host_kernel();

/// The processor and kernel that this runs on. Two CPUID instructions, which trap where the host is itself a guest: 20-70 us each
/// there, so it is asked once.
[[nodiscard]] const HostCpu& this_host_cpu();

/// What the processor says in leaves 0 and 1; without a kernel.
[[nodiscard]] HostCpu host_cpu_of(std::uint32_t ebx, std::uint32_t edx, std::uint32_t ecx, std::uint32_t signature);

/// Whether the registers of `saved` fit this host. Error: another vendor. Model and stepping do not matter: what the guest
/// was shown does (vmm/kvm/cpu_features.h).
[[nodiscard]] Status check_host_cpu(const HostCpu& saved, const HostCpu& here);

/// Whether both have the same model and the same kernel, so that KVM offers the same on both as far as the processor has it:
/// what may still be masked is seen there. A file that names another kernel than its host's deceives its own guest alone.
[[nodiscard]] bool is_same_host_kind(const HostCpu& saved, const HostCpu& here) noexcept;

}  // namespace mayfly
