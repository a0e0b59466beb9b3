#pragma once

#include "vmm/config/configuration.h"
#include "vmm/kvm/abi.h"

/// The dialect's static CPU templates: what guests see of their CPU is cut down to what hosts of a kind have in common.
///
///   apply_cpu_template(table, CpuTemplate::T2);   // before prepare_cpuid(), whose edits then have the last word
///
/// A pure function on the table; tested without KVM.
namespace mayfly {

/// Hides what the template's kind of host does not have, on hosts of any maker, and on Intel's shows its model. Adds
/// nothing: features and leaves that this host lacks stay absent.
void apply_cpu_template(kvm_abi::CpuidTable& table, CpuTemplate wanted) noexcept;

}  // namespace mayfly
