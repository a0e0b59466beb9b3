#pragma once

#include "vmm/base/error.h"
#include "vmm/config/configuration.h"
#include "vmm/kvm/abi.h"

#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <vector>

/// What a host's KVM can show guests, and what several hosts have in common: a machine that boots with that can be restored
/// on each of them.
///
///   auto here = HostFeatures::of(offered, capabilities);
///   auto both = here.in_common_with(*HostFeatures::read(other_hosts_config));
///   both->to_cpu_config();                         // a body of PUT /cpu-config
///
/// A /cpu-config of this kind fixes every bit that a load compares, and no other: each feature register (cpu_features.h)
/// to what the host has, each limit, the place of each component of XSAVE, IA32_ARCH_CAPABILITIES, and the vendor. Absent
/// leaves are zeros, so that hosts that have them hide them. Functions on values; tested without KVM.
namespace mayfly {

class HostFeatures {
 public:
  /// Of KVM's table, and of its IA32_ARCH_CAPABILITIES, which counts where the table shows that there is one.
  [[nodiscard]] static HostFeatures of(std::span<const kvm_cpuid_entry2> offered,
                                       std::optional<std::uint64_t> capabilities);
  /// Of what to_cpu_config() made. Errors: it is another /cpu-config; the first difference is named.
  [[nodiscard]] static Result<HostFeatures> read(const CpuConfig& config);

  [[nodiscard]] CpuConfig to_cpu_config() const;

  /// Errors: another vendor; a component of XSAVE that both have lies at another place.
  [[nodiscard]] Result<HostFeatures> in_common_with(const HostFeatures& other) const;

  [[nodiscard]] const std::string& vendor() const noexcept { return vendor_; }
  friend bool operator==(const HostFeatures&, const HostFeatures&) = default;

 private:
  struct XsavePlace {
    std::uint32_t size = 0;
    std::uint32_t offset = 0;
    friend bool operator==(const XsavePlace&, const XsavePlace&) = default;
  };

  [[nodiscard]] std::uint32_t word(std::uint32_t leaf, std::uint32_t subleaf, CpuidRegister reg) const;
  /// The components of XSAVE that lie at a place of their own, by their bits.
  [[nodiscard]] std::uint32_t components() const;
  [[nodiscard]] bool has_capabilities() const;

  std::string vendor_ = std::string(12, '\0');
  std::vector<std::uint32_t> words_;      // by feature_registers(), only bits of their masks
  std::vector<std::uint32_t> limits_;     // by feature_limits()
  std::map<unsigned, XsavePlace> xsave_;  // by component: all of components()
  std::uint64_t capabilities_ = 0;        // only bits of kComparedCapabilities; 0 where CPUID shows none
};

}  // namespace mayfly
