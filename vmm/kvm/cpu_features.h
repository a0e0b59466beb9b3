#pragma once

#include "vmm/base/error.h"
#include "vmm/config/configuration.h"
#include "vmm/kvm/abi.h"

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

/// The features of a CPU by CPUID: which a guest was shown, and which a host offers. What is a feature, and what counts
/// something, is decided here alone: for loads, for CPU templates, and for files of hosts (host_features.h).
///
///   const auto lacking = features_lacking(saved.cpuid, offered);   // {"avx512f", "avx512bw"}: refuse the guest
///
/// Left alone are the processor's model, caches, topology and frequencies, which no guest fails by, and the sizes of
/// XSAVE's area, which KVM computes. Functions on tables; tested without KVM.
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

/// A field of CPUID that counts something: a guest that was shown more than a host has cannot run there.
struct FeatureLimit {
  std::uint32_t leaf = 0;
  std::uint32_t subleaf = 0;
  CpuidRegister reg = CpuidRegister::Eax;
  std::uint32_t mask = 0;  ///< From bit 0 on.
  const char* name = "";   ///< With {} for the count.
};

/// All of them, in the order of their leaves. None is in a register of feature_registers().
[[nodiscard]] std::span<const FeatureLimit> feature_limits() noexcept;

/// Where XSAVE keeps components that it does not keep where FXSAVE does: subleaf N of this leaf has component N.
inline constexpr std::uint32_t kXsaveLeaf = 0xD;
inline constexpr unsigned kFirstXsaveComponent = 2;
inline constexpr unsigned kXsaveComponents = 32;

/// The entry of a leaf and subleaf; nullptr where the table has none.
[[nodiscard]] const kvm_cpuid_entry2* entry_of(std::span<const kvm_cpuid_entry2> table, std::uint32_t leaf,
                                               std::uint32_t subleaf) noexcept;

/// The value of a register of an entry.
[[nodiscard]] std::uint32_t register_of(const kvm_cpuid_entry2& entry, CpuidRegister reg) noexcept;

/// What leaf 0 says: "GenuineIntel"; empty where there is none.
[[nodiscard]] std::string vendor_of(std::span<const kvm_cpuid_entry2> table);

/// The value of a register in a table; 0 where the leaf is absent.
[[nodiscard]] std::uint32_t feature_bits(std::span<const kvm_cpuid_entry2> table,
                                         const FeatureRegister& where) noexcept;

/// The number that a limit has in a table; 0 where the leaf is absent.
[[nodiscard]] std::uint32_t feature_count(std::span<const kvm_cpuid_entry2> table, const FeatureLimit& limit) noexcept;

/// What a guest that was shown `shown` may use and `offered` does not have, by name: features, components of XSAVE that
/// lie elsewhere, address bits. Empty: the guest can run there.
[[nodiscard]] std::vector<std::string> features_lacking(std::span<const kvm_cpuid_entry2> shown,
                                                        std::span<const kvm_cpuid_entry2> offered);

/// The leaves of feature_registers() and feature_limits() as the processor itself has them. Asked once: the instruction traps
/// where the host is itself a guest.
[[nodiscard]] const std::vector<kvm_cpuid_entry2>& cpuid_of_processor();

/// What a guest sees of its CPU, or what KVM offers.
struct CpuView {
  std::span<const kvm_cpuid_entry2> cpuid;
  std::optional<std::uint64_t> capabilities{};  ///< arch_capabilities.h; empty: unknown, and not compared.
};

/// What KVM does not offer is there all the same if the processor has it: some hosts' KVM cannot hide it, and shows guests
/// more than it offers. Asked only where KVM's word is not enough.
using ProcessorCpuid = const std::vector<kvm_cpuid_entry2>& (*)();

/// Whether the processor itself has all features that a guest was shown, those that KVM makes aside: on a host of the guest's
/// first one's model and kernel, KVM need not be asked then, which executes CPUID for each leaf that it knows. What is
/// compared so is what microcode, firmware, a hypervisor below and the kernel's command line may mask. KVM's own features and
/// places of XSAVE's components are taken from model and kernel: parameters of KVM's modules that differ are not seen.
[[nodiscard]] bool processor_has(std::span<const kvm_cpuid_entry2> shown,
                                 ProcessorCpuid processor = cpuid_of_processor);

/// Whether this host has all features that the guest was shown on `saved_host`. Error: features are lacking, which are
/// named.
[[nodiscard]] Status check_features(const CpuView& shown, const std::string& saved_host, const CpuView& offered,
                                    ProcessorCpuid processor = cpuid_of_processor);

/// Whether this host has all features that a machine would be shown by its template and cpu-config: else its programs
/// fail at an instruction, and no host of this kind loads its snapshots. Errors: another vendor; features are lacking,
/// which are named.
[[nodiscard]] Status check_shown(std::span<const kvm_cpuid_entry2> shown, std::span<const kvm_cpuid_entry2> offered,
                                 ProcessorCpuid processor = cpuid_of_processor);

}  // namespace mayfly
