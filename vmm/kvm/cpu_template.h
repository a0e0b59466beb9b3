#pragma once

#include "vmm/base/error.h"
#include "vmm/config/configuration.h"
#include "vmm/kvm/abi.h"

#include <span>

/// The dialect's static CPU templates: what guests see of their CPU is cut down to what hosts of a kind have in common.
///
///   auto can = check_template_host(table, CpuTemplate::T2CL);
///   apply_cpu_template(table, CpuTemplate::T2CL);   // before prepare_cpuid(), whose edits then have the last word
///   msrs = template_msrs(CpuTemplate::T2CL);        // of each vCPU
///
/// T2S, T2CL, T2A and C3 are the masks that the dialect publishes, for the processors that it publishes them for. T2 is taken on
/// any host, since clients send it as a matter of course: it hides all that its mask hides and what is younger, and adds
/// nothing. Where the dialect takes it, the guest sees the same. Pure functions on the table; tested without KVM.
namespace mayfly {

/// Error: the template is for other processors, which are named.
[[nodiscard]] Status check_template_host(kvm_abi::CpuidTable& table, CpuTemplate wanted);

/// Sets and clears what the template does, in the leaves that are there. T2 shows its model on Intel's hosts alone.
void apply_cpu_template(kvm_abi::CpuidTable& table, CpuTemplate wanted) noexcept;

/// What it changes of MSRs.
[[nodiscard]] std::span<const MsrEdit> template_msrs(CpuTemplate wanted) noexcept;

}  // namespace mayfly
