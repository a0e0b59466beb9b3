#include "vmm/kvm/cpu_template.h"

#include "vmm/kvm/arch_capabilities.h"
#include "vmm/kvm/cpu_features.h"
#include "vmm/kvm/cpuid.h"

#include <algorithm>
#include <array>
#include <initializer_list>
#include <string>
#include <vector>

#include <fmt/ranges.h>

namespace mayfly {
namespace {

/// What changes of the registers of one CPUID leaf.
struct LeafMask {
  std::uint32_t leaf = 0;
  std::uint32_t subleaf = 0;
  BitEdit<std::uint32_t> eax{};
  BitEdit<std::uint32_t> ebx{};
  BitEdit<std::uint32_t> ecx{};
  BitEdit<std::uint32_t> edx{};
};

constexpr std::uint32_t bits(std::initializer_list<unsigned> numbers) {
  std::uint32_t word = 0;
  for (const unsigned number : numbers) word |= 1U << number;
  return word;
}

constexpr BitEdit<std::uint32_t> hide(std::uint32_t mask) { return {.mask = mask}; }
constexpr BitEdit<std::uint32_t> hide(std::initializer_list<unsigned> numbers) { return {.mask = bits(numbers)}; }

/// T2: the features that Intel's server generations from Haswell on have in common. Numbers as in the Intel SDM volume
/// 2 (CPUID) and the AMD APM volume 3, appendix E.
constexpr std::array kT2 = {
    // ECX: DTES64, MONITOR, DS-CPL, VMX, SMX, EIST, TM2, CNXT-ID, SDBG, xTPR, PDCM, DCA; EDX: PSN, DS, ACPI, SS, TM,
    // IA-64, PBE.
    LeafMask{
        .leaf = 0x1, .ecx = hide({2, 3, 4, 5, 6, 7, 8, 10, 11, 14, 15, 18}), .edx = hide({18, 21, 22, 27, 29, 30, 31})},
    // EBX: SGX, HLE, FDP_EXCPTN_ONLY, RTM, RDT-M, zero FPU CS and DS, MPX, RDT-A, AVX512 (F, DQ), RDSEED, ADX, AVX512
    // IFMA, PCOMMIT, CLFLUSHOPT, CLWB, PT, AVX512 (PF, ER, CD), SHA, AVX512 (BW, VL). ECX, EDX: all of it is younger,
    // but what mitigations need: MD_CLEAR, IBRS, STIBP, L1D_FLUSH, ARCH_CAPABILITIES, SSBD.
    LeafMask{.leaf = 0x7,
             .ebx = hide({2, 4, 6, 11, 12, 13, 14, 15, 16, 17, 18, 19, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31}),
             .ecx = hide(~0U),
             .edx = hide(~bits({10, 26, 27, 28, 29, 31}))},
    // As young: AVX-VNNI, AVX512 BF16, AMX and so on.
    LeafMask{.leaf = 0x7, .subleaf = 1, .eax = hide(~0U), .ebx = hide(~0U), .ecx = hide(~0U), .edx = hide(~0U)},
    // The state of all but x87, SSE and AVX.
    LeafMask{.leaf = 0xD, .eax = hide(~bits({0, 1, 2}))},
    // XSAVEC, XGETBV with ECX 1, XSAVES.
    LeafMask{.leaf = 0xD, .subleaf = 1, .eax = hide({1, 2, 3})},
    // ECX: PREFETCHW, MONITORX; EDX: pages of 1 GiB.
    LeafMask{.leaf = 0x8000'0001, .ecx = hide({8, 29}), .edx = hide({26})},
    // WBNOINVD.
    LeafMask{.leaf = 0x8000'0008, .ebx = hide({9})},
};

/// Leaf 1 EAX without its reserved bits; family 6, model 63, stepping 2.
constexpr std::uint32_t kSignatureMask = 0x0FFF'3FFF;
constexpr std::uint32_t kSignatureOfT2 = 0x0003'06F2;
/// Family 6, model 62, stepping 4.
constexpr std::uint32_t kSignatureOfC3 = 0x0003'06E4;

/// What T2S, T2CL and T2A have in common. MCE and MTRR are on, and ERMS.
constexpr LeafMask kT2FamilyFeatures{.leaf = 0x1,
                                     .eax = {.mask = kSignatureMask, .value = kSignatureOfT2},
                                     .ecx = hide(0x0004'CDFC),
                                     .edx = {.mask = 0xE864'1080, .value = 0x1080}};
constexpr LeafMask kT2FamilyExtended{
    .leaf = 0x7, .ebx = {.mask = 0xFFEF'DA14, .value = 0x200}, .ecx = hide(0x4041'5F5E), .edx = hide(0x11C)};
/// MPX, AVX-512, PKRU; XSAVEC, XGETBV with ECX 1, XSAVES.
constexpr LeafMask kFewComponents{.leaf = 0xD, .eax = hide(0x2F8)};
constexpr LeafMask kPlainXsave{.leaf = 0xD, .subleaf = 1, .eax = hide(0xE)};

constexpr std::array kT2S = {
    kT2FamilyFeatures,
    kT2FamilyExtended,
    kFewComponents,
    kPlainXsave,
    LeafMask{.leaf = 0x8000'0001, .ecx = hide(0x2000'0100), .edx = hide(0x0400'0000)},
    LeafMask{.leaf = 0x8000'0008, .ebx = hide(0x200)},
};
/// Also without what AMD alone has there: SSE4A, MisAlignSse, MmxExt, and MMX, FXSR, FFXSR in this leaf.
constexpr LeafMask kNoneOfAmdsOwn{.leaf = 0x8000'0001, .ecx = hide(0x2000'01C0), .edx = hide(0x07C0'0000)};
constexpr std::array kT2CL = {
    kT2FamilyFeatures, kT2FamilyExtended, kFewComponents,
    kPlainXsave,       kNoneOfAmdsOwn,    LeafMask{.leaf = 0x8000'0008, .ebx = hide(0x200)},
};
/// IBRS is preferred, and of the same mode; no CLZERO, RstrFpErrPtrs, WBNOINVD.
constexpr std::array kT2A = {
    kT2FamilyFeatures, kT2FamilyExtended, kFewComponents,
    kPlainXsave,       kNoneOfAmdsOwn,    LeafMask{.leaf = 0x8000'0008, .ebx = {.mask = 0xC'0205, .value = 0xC'0000}},
};
constexpr std::array kC3 = {
    LeafMask{.leaf = 0x1,
             .eax = {.mask = kSignatureMask, .value = kSignatureOfC3},
             .ecx = hide(0x0040'DD3C),
             .edx = {.mask = 0xA864'1080, .value = 0x1080}},
    LeafMask{.leaf = 0x7, .ebx = hide(0xFFAF'DD3C), .ecx = hide(0x4041'481E), .edx = hide(0xC)},
    kFewComponents,
    kPlainXsave,
    LeafMask{.leaf = 0x8000'0001, .ecx = hide(0x120), .edx = hide(0x0400'0000)},
};

/// RSBA, SKIP_L1DFL_VMENTRY and IF_PSCHANGE_MC_NO are on, with bits 10 and 11, and nothing else.
constexpr std::array kMsrsOfT2S = {MsrEdit{.address = kMsrArchCapabilities, .bits = {.mask = ~0ULL, .value = 0xC4C}}};
/// Mitigations pass that KVM passes.
constexpr std::array kMsrsOfT2CL = {MsrEdit{.address = kMsrArchCapabilities, .bits = {.mask = 0xFFFF'FFFF'E2F5'1E00}}};

struct HostModel {
  const char* name;
  std::uint32_t signature;  // of leaf 1 EAX, within kSignatureMask
};
constexpr HostModel kSkylake{"Skylake", 0x0005'0654};
constexpr HostModel kCascadeLake{"Cascade Lake", 0x0005'0657};
constexpr HostModel kIceLake{"Ice Lake", 0x0006'06A6};
constexpr HostModel kMilan{"Milan", 0x00A0'0F11};

constexpr std::array kHostsOfC3 = {kSkylake, kCascadeLake, kIceLake};
constexpr std::array kHostsOfT2S = {kSkylake, kCascadeLake};
constexpr std::array kHostsOfT2CL = {kCascadeLake, kIceLake};
constexpr std::array kHostsOfT2A = {kMilan};

struct NamedTemplate {
  const char* name = "";
  const char* vendor = "";  ///< Empty: any host.
  std::span<const HostModel> models{};
  std::span<const LeafMask> leaves{};
  std::span<const MsrEdit> msrs{};
};

NamedTemplate named_template(CpuTemplate wanted) {
  constexpr const char* kIntel = "GenuineIntel";
  switch (wanted) {
    case CpuTemplate::None:
      break;
    case CpuTemplate::T2:
      return {.name = "T2", .leaves = kT2};
    case CpuTemplate::T2S:
      return {.name = "T2S", .vendor = kIntel, .models = kHostsOfT2S, .leaves = kT2S, .msrs = kMsrsOfT2S};
    case CpuTemplate::T2CL:
      return {.name = "T2CL", .vendor = kIntel, .models = kHostsOfT2CL, .leaves = kT2CL, .msrs = kMsrsOfT2CL};
    case CpuTemplate::T2A:
      return {.name = "T2A", .vendor = "AuthenticAMD", .models = kHostsOfT2A, .leaves = kT2A};
    case CpuTemplate::C3:
      return {.name = "C3", .vendor = kIntel, .models = kHostsOfC3, .leaves = kC3};
  }
  return {};
}

std::span<const kvm_cpuid_entry2> entries_of(const kvm_abi::CpuidTable& table) {
  return std::span{table.entries}.first(table.count);
}

}  // namespace

Status check_template_host(kvm_abi::CpuidTable& table, CpuTemplate wanted) {
  const NamedTemplate named = named_template(wanted);
  if (named.models.empty()) return {};
  const std::string vendor = vendor_of(entries_of(table));
  const kvm_cpuid_entry2* const features = find_leaf(table, 1);
  const std::uint32_t signature = features == nullptr ? 0 : features->eax & kSignatureMask;
  if (vendor == named.vendor && std::ranges::find(named.models, signature, &HostModel::signature) != named.models.end())
    return {};
  std::vector<std::string> models;
  for (const HostModel& model : named.models)
    models.push_back(fmt::format("{} (signature {:#x})", model.name, model.signature));
  return fail(
      ErrorKind::Unsupported,
      "machine-config.cpu_template {} is for processors of {}: {}; this host's is of {}, with signature {:#x}; leave "
      "cpu_template out, and describe the CPU with PUT /cpu-config (mayfly doctor --cpu prints what hosts have)",
      named.name, named.vendor, fmt::join(models, ", "), vendor, signature);
}

void apply_cpu_template(kvm_abi::CpuidTable& table, CpuTemplate wanted) noexcept {
  for (const LeafMask& mask : named_template(wanted).leaves) {
    kvm_cpuid_entry2* entry = find_leaf(table, mask.leaf, mask.subleaf);
    if (entry == nullptr) continue;
    entry->eax = mask.eax.apply(entry->eax);
    entry->ebx = mask.ebx.apply(entry->ebx);
    entry->ecx = mask.ecx.apply(entry->ecx);
    entry->edx = mask.edx.apply(entry->edx);
  }
  if (wanted != CpuTemplate::T2 || vendor_of(entries_of(table)) != "GenuineIntel") return;
  if (kvm_cpuid_entry2* features = find_leaf(table, 1))
    features->eax = (features->eax & ~kSignatureMask) | kSignatureOfT2;
}

std::span<const MsrEdit> template_msrs(CpuTemplate wanted) noexcept { return named_template(wanted).msrs; }

}  // namespace mayfly
