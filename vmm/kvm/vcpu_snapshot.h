#pragma once

#include "vmm/base/error.h"
#include "vmm/kvm/vcpu.h"
#include "vmm/kvm/vcpu_state.h"

#include <cstdint>
#include <span>
#include <vector>

/// Saves a vCPU for a snapshot, and restores it.
///
///   auto state = save_vcpu(vcpu, kept_msrs(*listed, others));   // parked: KVM_RUN has returned with EINTR
///   fresh_vcpu.set_cpuid(state->cpuid);             // of another VM, before its first KVM_RUN
///   restore_vcpu(fresh_vcpu, *state, 0);
///   auto left_out = msrs_left_out(fresh_vcpu, kept, *state);
///   ...                                             // it runs, and parks
///   revert_vcpu(vcpu, *state, *left_out, 0);        // the same as it was
namespace mayfly {

/// Which model-specific registers a snapshot keeps. No index is there twice.
struct KeptMsrs {
  std::vector<std::uint32_t> always;
  /// Kept where they are not 0, which is what a new vCPU has in them: most guests set few, and each costs a load time.
  std::vector<std::uint32_t> where_set;
};

/// `listed`: Kvm::msr_indices(). `others`: what the boot or the user sets. What KVM keeps for a guest and does not list
/// is added here: MTRRs, machine check banks, and what only some KVM flavours list.
[[nodiscard]] KeptMsrs kept_msrs(std::span<const std::uint32_t> listed, std::span<const std::uint32_t> others);

/// The vCPU must be parked. Errors: each KVM call's, by name.
[[nodiscard]] Result<VcpuState> save_vcpu(const Vcpu& vcpu, const KeptMsrs& kept);

/// A vCPU that has not run and was shown the state's CPUID, which says which registers and XSAVE components it has; the rest
/// hangs on that. `tsc_advance`: cycles that its time stamp counter is to be ahead of what was saved.
/// Errors: what this host's KVM does not take, by name, with the MSR where it is one.
[[nodiscard]] Status restore_vcpu(const Vcpu& vcpu, const VcpuState& state, std::uint64_t tsc_advance);

/// Whether revert_vcpu() can set it back: KVM takes some registers only before a vCPU has run. Errors: one of these is
/// another than it was; KVM's.
[[nodiscard]] Status check_can_go_back(const Vcpu& vcpu, const VcpuState& state, std::span<const MsrValue> left_out);

/// What a restored vCPU that has not run has in the registers that its saved state leaves out. Errors: KVM's.
[[nodiscard]] Result<std::vector<MsrValue>> msrs_left_out(const Vcpu& vcpu, const KeptMsrs& kept,
                                                          const VcpuState& state);

/// Sets a vCPU that was restored, and has run, back. Parked. Errors: as restore_vcpu(); the vCPU may be half set back.
[[nodiscard]] Status revert_vcpu(const Vcpu& vcpu, const VcpuState& state, std::span<const MsrValue> left_out,
                                 std::uint64_t tsc_advance);

/// What of save_vcpu() says whether an interrupt can be delivered: sregs, lapic and events. Parked. Errors: KVM's.
[[nodiscard]] Result<VcpuState> save_interrupt_state(const Vcpu& vcpu);

}  // namespace mayfly
