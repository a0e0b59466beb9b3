#include "vmm/kvm/cpuid.h"

#include <algorithm>
#include <array>
#include <bit>

namespace mayfly {
namespace {

// Leaf numbers and bits as in the Intel SDM volume 2 (CPUID) and the AMD APM volume 3, appendix E.
constexpr std::uint32_t kLeafFeatures = 0x1;
constexpr std::uint32_t kLeafCaches = 0x4;
constexpr std::uint32_t kLeafPerformance = 0xA;
constexpr std::uint32_t kLeafTopology = 0xB;
constexpr std::uint32_t kLeafTsc = 0x15;
constexpr std::uint32_t kLeafTopologyV2 = 0x1F;
constexpr std::uint32_t kLeafHypervisor = 0x4000'0000;
constexpr std::uint32_t kLeafHypervisorTiming = 0x4000'0010;
constexpr std::uint32_t kLeafExtendedFeatures = 0x8000'0001;
constexpr std::uint32_t kLeafAddressSizes = 0x8000'0008;
constexpr std::uint32_t kLeafSvm = 0x8000'000A;
constexpr std::uint32_t kLeafAmdCaches = 0x8000'001D;
constexpr std::uint32_t kLeafAmdTopology = 0x8000'001E;
constexpr std::uint32_t kLeafAmdPerformance = 0x8000'0022;

constexpr std::uint32_t kHypervisorBit = 1U << 31;      // leaf 1 ECX
constexpr std::uint32_t kTscDeadlineBit = 1U << 24;     // leaf 1 ECX
constexpr std::uint32_t kPdcmBit = 1U << 15;            // leaf 1 ECX: performance capabilities MSR
constexpr std::uint32_t kVmxBit = 1U << 5;              // leaf 1 ECX
constexpr std::uint32_t kMultithreadBit = 1U << 28;     // leaf 1 EDX
constexpr std::uint32_t kAmdLegacyMultiCore = 1U << 1;  // leaf 0x80000001 ECX
constexpr std::uint32_t kSvmBit = 1U << 2;              // leaf 0x80000001 ECX
constexpr std::uint32_t kAmdPerfCounters = 1U << 23;    // leaf 0x80000001 ECX

/// KVM's LAPIC timer counts nanoseconds: so the crystal and the APIC bus that a guest sees have 1 GHz.
constexpr std::uint32_t kApicBusKhz = 1'000'000;

constexpr std::uint32_t set_field(std::uint32_t word, unsigned low_bit, unsigned width, std::uint32_t value) {
  const std::uint32_t mask = ((width == 32 ? 0U : 1U << width) - 1U) << low_bit;
  return (word & ~mask) | ((value << low_bit) & mask);
}

unsigned threads_per_core(const CpuIdentity& identity) { return identity.smt && identity.vcpu_count % 2 == 0 ? 2 : 1; }

/// Bits of an APIC id that number `count` things.
unsigned id_bits(unsigned count) { return static_cast<unsigned>(std::bit_width(count - 1)); }

/// The entry of a leaf, added where it is missing and there is room.
kvm_cpuid_entry2* find_or_add(kvm_abi::CpuidTable& table, std::uint32_t leaf, std::uint32_t subleaf,
                              std::uint32_t flags) {
  if (kvm_cpuid_entry2* found = find_leaf(table, leaf, subleaf)) return found;
  if (table.count >= table.entries.size()) return nullptr;
  kvm_cpuid_entry2& entry = table.entries[table.count++];
  entry = {};
  entry.function = leaf;
  entry.index = subleaf;
  entry.flags = flags;
  return &entry;
}

void set_features(kvm_abi::CpuidTable& table, const CpuIdentity& identity) {
  if (kvm_cpuid_entry2* leaf = find_leaf(table, kLeafFeatures)) {
    leaf->ecx |= kHypervisorBit;
    leaf->ecx &= ~(kPdcmBit | kVmxBit);
    if (identity.tsc_deadline) leaf->ecx |= kTscDeadlineBit;
    leaf->edx = identity.vcpu_count > 1 ? leaf->edx | kMultithreadBit : leaf->edx & ~kMultithreadBit;
    leaf->ebx = set_field(leaf->ebx, 16, 8, identity.vcpu_count);
  }
  if (kvm_cpuid_entry2* leaf = find_leaf(table, kLeafExtendedFeatures)) {
    leaf->ecx &= ~(kAmdPerfCounters | kSvmBit);
    if (leaf->ecx & kAmdLegacyMultiCore || find_leaf(table, kLeafAmdTopology) != nullptr)
      leaf->ecx = identity.vcpu_count > 1 ? leaf->ecx | kAmdLegacyMultiCore : leaf->ecx & ~kAmdLegacyMultiCore;
  }
  // A guest that runs guests of its own has state in KVM that no snapshot holds, and half of KVM's bugs to play with.
  if (kvm_cpuid_entry2* leaf = find_leaf(table, kLeafSvm)) leaf->eax = leaf->ebx = leaf->ecx = leaf->edx = 0;
  // Performance counters belong to the host: their values could not follow a machine to another one.
  for (const std::uint32_t performance : {kLeafPerformance, kLeafAmdPerformance})
    if (kvm_cpuid_entry2* leaf = find_leaf(table, performance)) leaf->eax = leaf->ebx = leaf->ecx = leaf->edx = 0;
}

void set_caches(kvm_abi::CpuidTable& table, const CpuIdentity& identity) {
  const unsigned threads = threads_per_core(identity);
  for (kvm_cpuid_entry2& entry : std::span{table.entries}.first(table.count)) {
    if (entry.function != kLeafCaches && entry.function != kLeafAmdCaches) continue;
    if ((entry.eax & 0x1F) == 0) continue;  // no such cache
    const std::uint32_t level = (entry.eax >> 5) & 7;
    const unsigned sharing = level >= 3 ? identity.vcpu_count : threads;
    entry.eax = set_field(entry.eax, 14, 12, sharing - 1);
    if (entry.function == kLeafCaches) entry.eax = set_field(entry.eax, 26, 6, identity.vcpu_count / threads - 1);
  }
}

void set_topology(kvm_abi::CpuidTable& table, const CpuIdentity& identity) {
  const unsigned threads = threads_per_core(identity);
  for (const std::uint32_t leaf : {kLeafTopology, kLeafTopologyV2}) {
    if (find_leaf(table, leaf) == nullptr) continue;
    struct Level {
      std::uint32_t shift, count, type;
    };
    const std::array levels = {Level{id_bits(threads), threads, 1},
                               Level{id_bits(identity.vcpu_count), identity.vcpu_count, 2}, Level{0, 0, 0}};
    for (std::uint32_t subleaf = 0; subleaf < levels.size(); ++subleaf) {
      kvm_cpuid_entry2* entry = find_or_add(table, leaf, subleaf, KVM_CPUID_FLAG_SIGNIFCANT_INDEX);
      if (entry == nullptr) return;
      entry->eax = levels[subleaf].shift;
      entry->ebx = levels[subleaf].count;
      entry->ecx = levels[subleaf].type << 8 | subleaf;
    }
  }
  // An AMD host's own core count, in the leaf that older guests read.
  if (find_leaf(table, kLeafAmdTopology) != nullptr)
    if (kvm_cpuid_entry2* leaf = find_leaf(table, kLeafAddressSizes)) {
      leaf->ecx = set_field(leaf->ecx, 0, 8, identity.vcpu_count - 1);
      leaf->ecx = set_field(leaf->ecx, 12, 4, id_bits(identity.vcpu_count));
    }
}

/// Frequencies that spare the guest its calibration against the PIT.
void set_frequencies(kvm_abi::CpuidTable& table, const CpuIdentity& identity) {
  if (identity.tsc_khz == 0) return;
  if (kvm_cpuid_entry2* leaf = find_leaf(table, kLeafTsc)) {
    leaf->eax = kApicBusKhz;
    leaf->ebx = identity.tsc_khz;
    leaf->ecx = kApicBusKhz * 1000;
    leaf->edx = 0;
  }
  kvm_cpuid_entry2* hypervisor = find_leaf(table, kLeafHypervisor);
  if (hypervisor == nullptr) return;
  if (kvm_cpuid_entry2* timing = find_or_add(table, kLeafHypervisorTiming, 0, 0)) {
    timing->eax = identity.tsc_khz;
    timing->ebx = kApicBusKhz;
    hypervisor->eax = std::max(hypervisor->eax, kLeafHypervisorTiming);
  }
}

std::uint32_t& writable_register(kvm_cpuid_entry2& entry, CpuidRegister reg) {
  switch (reg) {
    case CpuidRegister::Eax:
      return entry.eax;
    case CpuidRegister::Ebx:
      return entry.ebx;
    case CpuidRegister::Ecx:
      return entry.ecx;
    case CpuidRegister::Edx:
      break;
  }
  return entry.edx;
}

}  // namespace

kvm_cpuid_entry2* find_leaf(kvm_abi::CpuidTable& table, std::uint32_t leaf, std::uint32_t subleaf) noexcept {
  const auto entries = std::span{table.entries}.first(table.count);
  const auto found = std::ranges::find_if(
      entries, [&](const kvm_cpuid_entry2& entry) { return entry.function == leaf && entry.index == subleaf; });
  return found == entries.end() ? nullptr : &*found;
}

Status prepare_cpuid(kvm_abi::CpuidTable& table, const CpuIdentity& identity, std::span<const CpuidEdit> edits) {
  set_features(table, identity);
  set_caches(table, identity);
  set_topology(table, identity);
  set_frequencies(table, identity);
  for (const CpuidEdit& edit : edits) {
    kvm_cpuid_entry2* entry = find_leaf(table, edit.leaf, edit.subleaf);
    if (entry == nullptr && edit.bits.value == 0) continue;  // an absent leaf shows zeros
    if (entry == nullptr)
      return fail(ErrorKind::Unsupported, "cpu-config: this host has no CPUID leaf {:#x} subleaf {:#x}", edit.leaf,
                  edit.subleaf);
    std::uint32_t& word = writable_register(*entry, edit.reg);
    word = edit.bits.apply(word);
    entry->flags = edit.flags;
  }
  return {};
}

std::vector<kvm_cpuid_entry2> with_edits(std::span<const kvm_cpuid_entry2> table, std::span<const CpuidEdit> edits) {
  std::vector<kvm_cpuid_entry2> edited{table.begin(), table.end()};
  for (const CpuidEdit& edit : edits) {
    auto entry = std::ranges::find_if(
        edited, [&](const auto& each) { return each.function == edit.leaf && each.index == edit.subleaf; });
    if (entry == edited.end()) {
      entry = edited.insert(entry, kvm_cpuid_entry2{});
      entry->function = edit.leaf;
      entry->index = edit.subleaf;
    }
    std::uint32_t& word = writable_register(*entry, edit.reg);
    word = edit.bits.apply(word);
  }
  return edited;
}

void set_apic_id(kvm_abi::CpuidTable& table, unsigned vcpu_index, const CpuIdentity& identity) noexcept {
  for (kvm_cpuid_entry2& entry : std::span{table.entries}.first(table.count)) {
    switch (entry.function) {
      case kLeafFeatures:
        entry.ebx = set_field(entry.ebx, 24, 8, vcpu_index);
        break;
      case kLeafTopology:
      case kLeafTopologyV2:
        entry.edx = vcpu_index;
        break;
      case kLeafAmdTopology: {
        const unsigned threads = threads_per_core(identity);
        entry.eax = vcpu_index;
        entry.ebx = set_field(entry.ebx, 0, 8, vcpu_index / threads);
        entry.ebx = set_field(entry.ebx, 8, 8, threads - 1);
        entry.ecx = 0;  // one node
        break;
      }
      default:
        break;
    }
  }
}

}  // namespace mayfly
