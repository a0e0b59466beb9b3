#include "vmm/kvm/host_features.h"

#include "vmm/base/printable.h"
#include "vmm/base/try.h"
#include "vmm/kvm/arch_capabilities.h"
#include "vmm/kvm/cpu_features.h"

#include <algorithm>
#include <cstring>
#include <tuple>

namespace mayfly {
namespace {

using enum CpuidRegister;

constexpr std::uint32_t kWholeWord = ~0U;
/// Leaf 0, in the order of the vendor's letters.
constexpr std::array kVendorRegisters = {Ebx, Edx, Ecx};

/// As KVM marks them: KVM_SET_CPUID2 takes a leaf without subleaves for any subleaf.
std::uint32_t flags_of(std::uint32_t leaf) {
  return leaf == 0x7 || leaf == kXsaveLeaf || leaf == 0x24 ? KVM_CPUID_FLAG_SIGNIFCANT_INDEX : 0U;
}

std::string place_of(std::uint32_t leaf, std::uint32_t subleaf, CpuidRegister reg) {
  constexpr std::array kNames = {"eax", "ebx", "ecx", "edx"};
  return fmt::format("leaf {:#x} subleaf {:#x} register {}", leaf, subleaf, kNames.at(static_cast<std::size_t>(reg)));
}

/// The edits of a /cpu-config, each to be taken once.
class Edits {
 public:
  [[nodiscard]] static Result<Edits> of(const CpuConfig& config) {
    if (!config.capabilities.empty()) return fail(ErrorKind::InvalidArgument, "it has kvm_capabilities");
    Edits edits;
    for (const CpuidEdit& edit : config.cpuid) {
      if (edit.flags != flags_of(edit.leaf))
        return fail(ErrorKind::InvalidArgument, "{} has flags {}, not {}", place_of(edit.leaf, edit.subleaf, edit.reg),
                    edit.flags, flags_of(edit.leaf));
      if (!edits.cpuid_.try_emplace({edit.leaf, edit.subleaf, edit.reg}, edit.bits).second)
        return fail(ErrorKind::InvalidArgument, "{} is there twice", place_of(edit.leaf, edit.subleaf, edit.reg));
    }
    for (const MsrEdit& edit : config.msrs)
      if (!edits.msrs_.try_emplace(edit.address, edit.bits).second)
        return fail(ErrorKind::InvalidArgument, "MSR {:#x} is there twice", edit.address);
    return edits;
  }

  [[nodiscard]] Result<std::uint32_t> take(std::uint32_t leaf, std::uint32_t subleaf, CpuidRegister reg,
                                           std::uint32_t mask) {
    const auto taken = cpuid_.extract({leaf, subleaf, reg});
    if (taken.empty()) return fail(ErrorKind::InvalidArgument, "{} is not there", place_of(leaf, subleaf, reg));
    if (taken.mapped().mask != mask)
      return fail(ErrorKind::InvalidArgument, "{} fixes bits {:#x}, not {:#x}", place_of(leaf, subleaf, reg),
                  taken.mapped().mask, mask);
    return taken.mapped().value;
  }

  [[nodiscard]] Result<std::uint64_t> take_msr(std::uint32_t address, std::uint64_t mask) {
    const auto taken = msrs_.extract(address);
    if (taken.empty()) return fail(ErrorKind::InvalidArgument, "MSR {:#x} is not there", address);
    if (taken.mapped().mask != mask)
      return fail(ErrorKind::InvalidArgument, "MSR {:#x} fixes bits {:#x}, not {:#x}", address, taken.mapped().mask,
                  mask);
    return taken.mapped().value;
  }

  /// Error: something is left.
  [[nodiscard]] Status finish() const {
    if (!cpuid_.empty()) {
      const auto& [leaf, subleaf, reg] = cpuid_.begin()->first;
      return fail(ErrorKind::InvalidArgument, "{} is none that a host is described by", place_of(leaf, subleaf, reg));
    }
    if (!msrs_.empty())
      return fail(ErrorKind::InvalidArgument, "MSR {:#x} is none that a host is described by", msrs_.begin()->first);
    return {};
  }

 private:
  std::map<std::tuple<std::uint32_t, std::uint32_t, CpuidRegister>, BitEdit<std::uint32_t>> cpuid_;
  std::map<std::uint32_t, BitEdit<std::uint64_t>> msrs_;
};

CpuidEdit edit_of(std::uint32_t leaf, std::uint32_t subleaf, CpuidRegister reg, std::uint32_t mask,
                  std::uint32_t value) {
  return {
      .leaf = leaf, .subleaf = subleaf, .flags = flags_of(leaf), .reg = reg, .bits = {.mask = mask, .value = value}};
}

/// Of a set of components.
auto components_in(std::uint32_t bits) {
  std::vector<unsigned> components;
  for (unsigned component = kFirstXsaveComponent; component < kXsaveComponents; ++component)
    if ((bits >> component & 1U) != 0) components.push_back(component);
  return components;
}

}  // namespace

std::uint32_t HostFeatures::word(std::uint32_t leaf, std::uint32_t subleaf, CpuidRegister reg) const {
  const auto registers = feature_registers();
  const auto found = std::ranges::find_if(
      registers, [&](const auto& each) { return each.leaf == leaf && each.subleaf == subleaf && each.reg == reg; });
  ensure(found != registers.end(), "it is a feature register");
  return words_.at(static_cast<std::size_t>(found - registers.begin()));
}

std::uint32_t HostFeatures::components() const { return word(kXsaveLeaf, 0, Eax); }

bool HostFeatures::has_capabilities() const { return (word(0x7, 0, Edx) >> 29 & 1U) != 0; }

HostFeatures HostFeatures::of(std::span<const kvm_cpuid_entry2> offered, std::optional<std::uint64_t> capabilities) {
  HostFeatures host;
  host.vendor_ = vendor_of(offered);
  host.vendor_.resize(12);
  for (const FeatureRegister& where : feature_registers())
    host.words_.push_back(feature_bits(offered, where) & where.mask);
  for (const FeatureLimit& limit : feature_limits()) host.limits_.push_back(feature_count(offered, limit));
  for (const unsigned component : components_in(host.components()))
    if (const kvm_cpuid_entry2* const entry = entry_of(offered, kXsaveLeaf, component))
      host.xsave_[component] = {.size = entry->eax, .offset = entry->ebx};
    else
      host.xsave_[component] = {};
  if (host.has_capabilities()) host.capabilities_ = capabilities.value_or(0) & kComparedCapabilities;
  return host;
}

Result<HostFeatures> HostFeatures::read(const CpuConfig& config) {
  auto edits = TRY(Edits::of(config));
  HostFeatures host;
  for (std::size_t word = 0; word < kVendorRegisters.size(); ++word) {
    const std::uint32_t letters = TRY(edits.take(0, 0, kVendorRegisters[word], kWholeWord));
    std::memcpy(host.vendor_.data() + word * sizeof letters, &letters, sizeof letters);
  }
  for (const FeatureRegister& where : feature_registers()) {
    const std::uint32_t bits = TRY(edits.take(where.leaf, where.subleaf, where.reg, where.mask));
    host.words_.push_back(bits);
  }
  for (const FeatureLimit& limit : feature_limits()) {
    const std::uint32_t count = TRY(edits.take(limit.leaf, limit.subleaf, limit.reg, limit.mask));
    host.limits_.push_back(count);
  }
  for (const unsigned component : components_in(host.components())) {
    const std::uint32_t size = TRY(edits.take(kXsaveLeaf, component, Eax, kWholeWord));
    const std::uint32_t offset = TRY(edits.take(kXsaveLeaf, component, Ebx, kWholeWord));
    host.xsave_[component] = {.size = size, .offset = offset};
  }
  if (host.has_capabilities()) {
    const std::uint64_t capabilities = TRY(edits.take_msr(kMsrArchCapabilities, kComparedCapabilities));
    host.capabilities_ = capabilities;
  }
  TRY(edits.finish());
  return host;
}

CpuConfig HostFeatures::to_cpu_config() const {
  CpuConfig config;
  for (std::size_t word = 0; word < kVendorRegisters.size(); ++word) {
    std::uint32_t letters = 0;
    std::memcpy(&letters, vendor_.data() + word * sizeof letters, sizeof letters);
    config.cpuid.push_back(edit_of(0, 0, kVendorRegisters[word], kWholeWord, letters));
  }
  for (std::size_t index = 0; const FeatureRegister& where : feature_registers())
    config.cpuid.push_back(edit_of(where.leaf, where.subleaf, where.reg, where.mask, words_.at(index++)));
  for (std::size_t index = 0; const FeatureLimit& limit : feature_limits())
    config.cpuid.push_back(edit_of(limit.leaf, limit.subleaf, limit.reg, limit.mask, limits_.at(index++)));
  for (const auto& [component, place] : xsave_) {
    config.cpuid.push_back(edit_of(kXsaveLeaf, component, Eax, kWholeWord, place.size));
    config.cpuid.push_back(edit_of(kXsaveLeaf, component, Ebx, kWholeWord, place.offset));
  }
  std::ranges::sort(config.cpuid, {},
                    [](const CpuidEdit& edit) { return std::tuple{edit.leaf, edit.subleaf, edit.reg}; });
  if (has_capabilities())
    config.msrs.push_back(
        {.address = kMsrArchCapabilities, .bits = {.mask = kComparedCapabilities, .value = capabilities_}});
  return config;
}

Result<HostFeatures> HostFeatures::in_common_with(const HostFeatures& other) const {
  if (vendor_ != other.vendor_)
    return fail(
        ErrorKind::Unsupported,
        "its processor is of {}, not of {} as those before: registers and features of the two differ, and no guest "
        "runs on both; print what the hosts of each vendor have in common",
        printable(other.vendor_, kLongestShownName), printable(vendor_, kLongestShownName));
  HostFeatures both = *this;
  for (std::size_t index = 0; index < words_.size(); ++index) both.words_[index] &= other.words_[index];
  for (std::size_t index = 0; index < limits_.size(); ++index)
    both.limits_[index] = std::min(limits_[index], other.limits_[index]);
  both.xsave_.clear();
  for (const unsigned component : components_in(both.components())) {
    const XsavePlace& mine = xsave_.at(component);
    const XsavePlace& theirs = other.xsave_.at(component);
    if (mine != theirs)
      return fail(
          ErrorKind::Unsupported,
          "its XSAVE component {} has {} bytes at {}, and {} at {} on those before: no guest that uses it runs on "
          "both; hide it from guests of one of the hosts",
          component, theirs.size, theirs.offset, mine.size, mine.offset);
    both.xsave_[component] = mine;
  }
  both.capabilities_ = both.has_capabilities() ? common_capabilities(capabilities_, other.capabilities_) : 0;
  return both;
}

}  // namespace mayfly
