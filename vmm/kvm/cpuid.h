#pragma once

#include "vmm/config/configuration.h"
#include "vmm/kvm/abi.h"

#include <cstdint>
#include <span>
#include <vector>

/// What a guest sees of its CPU: the host's supported leaves made true for this machine.
///
///   auto table = *kvm.supported_cpuid();
///   prepare_cpuid(table, {.vcpu_count = 4, .tsc_khz = 2'445'405}, edits);   // once a machine
///   set_apic_id(table, index);                                              // once a vCPU
///
/// Pure functions on the table; tested without KVM.
namespace mayfly {

/// What the table is made true for. APIC ids are 0 to vcpu_count - 1, in one package.
struct CpuIdentity {
  unsigned vcpu_count = 1;
  bool smt = false;           ///< Pairs of neighbours are threads of one core (where vcpu_count is even).
  bool tsc_deadline = false;  ///< KVM_CAP_TSC_DEADLINE_TIMER.
  std::uint32_t tsc_khz = 0;  ///< 0: unknown; the frequency leaves are left out.
};

/// Everything that is the same for all vCPUs: hypervisor bit, TSC deadline, topology, caches, frequency leaves, no
/// performance counters; then the user's edits. Errors: an edit that sets bits of a leaf that the host does not have.
[[nodiscard]] Status prepare_cpuid(kvm_abi::CpuidTable& table, const CpuIdentity& identity,
                                   std::span<const CpuidEdit> edits);

/// `table` with the user's edits, and with the leaves that these name and it does not have: what a guest would be shown on a
/// host that has them.
[[nodiscard]] std::vector<kvm_cpuid_entry2> with_edits(std::span<const kvm_cpuid_entry2> table,
                                                       std::span<const CpuidEdit> edits);

/// Writes the APIC id wherever CPUID shows it (leaves 1, 0xB, 0x1F, 0x8000001E).
void set_apic_id(kvm_abi::CpuidTable& table, unsigned vcpu_index, const CpuIdentity& identity) noexcept;

/// The entry of a leaf and subleaf; nullptr where the table has none.
[[nodiscard]] kvm_cpuid_entry2* find_leaf(kvm_abi::CpuidTable& table, std::uint32_t leaf,
                                          std::uint32_t subleaf = 0) noexcept;

}  // namespace mayfly
