#include "vmm/kvm/arch_capabilities.h"

#include "vmm/kvm/cpu_features.h"

#include <algorithm>
#include <array>

#include <fmt/format.h>

namespace mayfly {
namespace {

struct NamedCapability {
  unsigned bit;
  const char* name;
};

/// Intel SDM volume 4, table 2-2, "IA32_ARCH_CAPABILITIES".
constexpr std::array kCapabilityNames = {
    NamedCapability{0, "rdcl_no"},   NamedCapability{1, "ibrs_all"},      NamedCapability{2, "rsba"},
    NamedCapability{4, "ssb_no"},    NamedCapability{5, "mds_no"},        NamedCapability{6, "if_pschange_mc_no"},
    NamedCapability{7, "tsx_ctrl"},  NamedCapability{8, "taa_no"},        NamedCapability{9, "mcu_control"},
    NamedCapability{12, "doitm"},    NamedCapability{13, "sbdr_ssdp_no"}, NamedCapability{14, "fbsdp_no"},
    NamedCapability{15, "psdp_no"},  NamedCapability{17, "fb_clear"},     NamedCapability{18, "fb_clear_ctrl"},
    NamedCapability{19, "rrsba"},    NamedCapability{20, "bhi_no"},       NamedCapability{21, "xapic_disable_status"},
    NamedCapability{24, "pbrsb_no"}, NamedCapability{25, "gds_ctrl"},     NamedCapability{26, "gds_no"},
    NamedCapability{27, "rfds_no"},  NamedCapability{28, "rfds_clear"},   NamedCapability{62, "its_no"},
};

/// RSBA and RRSBA.
constexpr std::uint64_t kWeaknesses = std::uint64_t{1} << 2 | std::uint64_t{1} << 19;

std::string capability_name(unsigned bit) {
  const auto found = std::ranges::find(kCapabilityNames, bit, &NamedCapability::bit);
  if (found != kCapabilityNames.end()) return found->name;
  return fmt::format("MSR {:#x} bit {}", kMsrArchCapabilities, bit);
}

}  // namespace

bool shows_capabilities(std::span<const kvm_cpuid_entry2> table) noexcept {
  const kvm_cpuid_entry2* const features = entry_of(table, 7, 0);
  return features != nullptr && (features->edx >> 29 & 1U) != 0;
}

std::vector<std::string> capabilities_lacking(std::uint64_t shown, std::uint64_t offered) {
  // Of weaknesses, the absence is what a guest relies on.
  const std::uint64_t missing = (shown ^ kWeaknesses) & ~(offered ^ kWeaknesses) & kComparedCapabilities;
  std::vector<std::string> lacking;
  for (unsigned bit = 0; bit < 64; ++bit)
    if ((missing >> bit & 1U) != 0)
      lacking.push_back((kWeaknesses >> bit & 1U) != 0 ? "no " + capability_name(bit) : capability_name(bit));
  return lacking;
}

std::uint64_t common_capabilities(std::uint64_t a, std::uint64_t b) noexcept {
  return ((a & b & ~kWeaknesses) | ((a | b) & kWeaknesses)) & kComparedCapabilities;
}

}  // namespace mayfly
