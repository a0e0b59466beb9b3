#pragma once

#include "vmm/kvm/abi.h"

#include <cstdint>
#include <span>
#include <string>
#include <vector>

/// IA32_ARCH_CAPABILITIES, the one MSR that says what a processor has: which attacks it withstands, and what else there is
/// to mitigate them by. A guest reads it once, at its boot, and leaves mitigations out.
///
///   if (shows_capabilities(saved.cpuid)) lacking = capabilities_lacking(saved_value, *kvm.feature_msr(kMsrArchCapabilities));
namespace mayfly {

inline constexpr std::uint32_t kMsrArchCapabilities = 0x10A;

/// Those that matter: all but SKIP_L1DFL_VMENTRY, which is for hypervisors, and no guest of ours is one.
inline constexpr std::uint64_t kComparedCapabilities = ~(std::uint64_t{1} << 3);

/// Whether CPUID tells the guest that there is such a register.
[[nodiscard]] bool shows_capabilities(std::span<const kvm_cpuid_entry2> table) noexcept;

/// What a guest that was shown `shown` relies on and a host of `offered` does not have, by name. RSBA and RRSBA say what a
/// processor suffers from: there the guest relies on their absence.
[[nodiscard]] std::vector<std::string> capabilities_lacking(std::uint64_t shown, std::uint64_t offered);

/// What a guest may rely on on either host; only bits of kComparedCapabilities.
[[nodiscard]] std::uint64_t common_capabilities(std::uint64_t a, std::uint64_t b) noexcept;

}  // namespace mayfly
