#pragma once

#include "vmm/base/error.h"
#include "vmm/config/configuration.h"
#include "vmm/kvm/abi.h"

#include <cstdint>
#include <span>
#include <string>
#include <vector>

/// The features of a CPU by CPUID: which a guest was shown, and which a host offers.
///
///   const auto lacking = features_lacking(saved.cpuid, offered);   // {"avx512f", "avx512bw"}: refuse the guest
///
/// Functions on tables; tested without KVM.
namespace mayfly {

/// A register of CPUID whose bits are features: where a bit is set, the guest may use something.
struct FeatureRegister {
  std::uint32_t leaf = 0;
  std::uint32_t subleaf = 0;
  CpuidRegister reg = CpuidRegister::Eax;
  std::uint32_t mask = ~0U;  ///< Without bits that depend on the machine or on the guest, or that say what is absent.
  const char* names = "";    ///< Those of bits 0, 1, ..., as /proc/cpuinfo has them; "-" for none.
};

/// All that are known to depend on the host, in the order of their leaves.
[[nodiscard]] std::span<const FeatureRegister> feature_registers() noexcept;

/// The value of a register in a table; 0 where the leaf is absent.
[[nodiscard]] std::uint32_t feature_bits(std::span<const kvm_cpuid_entry2> table,
                                         const FeatureRegister& where) noexcept;

/// What a guest that was shown `shown` may use and `offered` does not have, by name: features, components of XSAVE that
/// lie elsewhere, address bits. Empty: the guest can run there.
[[nodiscard]] std::vector<std::string> features_lacking(std::span<const kvm_cpuid_entry2> shown,
                                                        std::span<const kvm_cpuid_entry2> offered);

/// The leaves of feature_registers() as the processor itself has them.
[[nodiscard]] std::vector<kvm_cpuid_entry2> cpuid_of_processor();

/// Whether a host whose KVM offers `offered` has all features that the guest was shown on `saved_host`. A feature that KVM
/// does not offer is there all the same if the processor has it: some hosts' KVM cannot hide it, and shows guests more
/// than it offers. `processor` is asked only then. Error: features are lacking, which are named.
[[nodiscard]] Status check_features(std::span<const kvm_cpuid_entry2> shown, const std::string& saved_host,
                                    const kvm_abi::CpuidTable& offered,
                                    std::vector<kvm_cpuid_entry2> (*processor)() = cpuid_of_processor);

}  // namespace mayfly
