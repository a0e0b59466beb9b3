#pragma once

#include <linux/kvm.h>

#include <cstddef>
#include <cstdint>
#include <vector>

namespace mayfly {

/// Everything of a vCPU that a snapshot keeps. Saved and restored by vcpu_snapshot.h.
struct VcpuState {
  std::vector<kvm_cpuid_entry2> cpuid;
  std::uint32_t tsc_khz = 0;  ///< 0: the host cannot tell.
  kvm_mp_state mp_state{};
  kvm_regs regs{};
  kvm_sregs sregs{};
  std::vector<std::byte> xsave;  ///< As large as KVM says, at least 4096 bytes.
  kvm_xcrs xcrs{};
  kvm_debugregs debug_regs{};
  kvm_lapic_state lapic{};
  std::vector<kvm_msr_entry> msrs;  ///< By KeptMsrs, those that this vCPU has.
  kvm_vcpu_events events{};
};

}  // namespace mayfly
