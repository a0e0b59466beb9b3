#include "vmm/kvm/cpu_template.h"

#include "vmm/kvm/cpuid.h"

#include <array>
#include <initializer_list>

namespace mayfly {
namespace {

/// Bits that a guest does not see, of one CPUID leaf.
struct HiddenBits {
  std::uint32_t leaf = 0;
  std::uint32_t subleaf = 0;
  std::uint32_t eax = 0;
  std::uint32_t ebx = 0;
  std::uint32_t ecx = 0;
  std::uint32_t edx = 0;
};

constexpr std::uint32_t bits(std::initializer_list<unsigned> numbers) {
  std::uint32_t word = 0;
  for (const unsigned number : numbers) word |= 1U << number;
  return word;
}

/// T2: the features that Intel's server generations from Haswell on have in common. Numbers as in the Intel SDM volume
/// 2 (CPUID) and the AMD APM volume 3, appendix E.
constexpr std::array kHiddenByT2 = {
    // ECX: DTES64, MONITOR, DS-CPL, VMX, SMX, EIST, TM2, CNXT-ID, SDBG, xTPR, PDCM, DCA; EDX: PSN, DS, ACPI, SS, TM,
    // IA-64, PBE.
    HiddenBits{
        .leaf = 0x1, .ecx = bits({2, 3, 4, 5, 6, 7, 8, 10, 11, 14, 15, 18}), .edx = bits({18, 21, 22, 27, 29, 30, 31})},
    // EBX: SGX, HLE, FDP_EXCPTN_ONLY, RTM, RDT-M, zero FPU CS and DS, MPX, RDT-A, AVX512 (F, DQ), RDSEED, ADX, AVX512
    // IFMA, PCOMMIT, CLFLUSHOPT, CLWB, PT, AVX512 (PF, ER, CD), SHA, AVX512 (BW, VL). ECX, EDX: all of it is younger,
    // but
    // what mitigations need: MD_CLEAR, IBRS, STIBP, L1D_FLUSH, ARCH_CAPABILITIES, SSBD.
    HiddenBits{.leaf = 0x7,
               .ebx = bits({2, 4, 6, 11, 12, 13, 14, 15, 16, 17, 18, 19, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31}),
               .ecx = ~0U,
               .edx = ~bits({10, 26, 27, 28, 29, 31})},
    // As young: AVX-VNNI, AVX512 BF16, AMX and so on.
    HiddenBits{.leaf = 0x7, .subleaf = 1, .eax = ~0U, .ebx = ~0U, .ecx = ~0U, .edx = ~0U},
    // The state of all but x87, SSE and AVX.
    HiddenBits{.leaf = 0xD, .eax = ~bits({0, 1, 2})},
    // XSAVEC, XGETBV with ECX 1, XSAVES.
    HiddenBits{.leaf = 0xD, .subleaf = 1, .eax = bits({1, 2, 3})},
    // ECX: PREFETCHW, MONITORX; EDX: pages of 1 GiB.
    HiddenBits{.leaf = 0x8000'0001, .ecx = bits({8, 29}), .edx = bits({26})},
    // WBNOINVD.
    HiddenBits{.leaf = 0x8000'0008, .ebx = bits({9})},
};

/// Leaf 1 EAX without its reserved bits; family 6, model 63, stepping 2.
constexpr std::uint32_t kSignatureMask = 0x0FFF'3FFF;
constexpr std::uint32_t kSignatureOfT2 = 0x0003'06F2;

/// "GenuineIntel", in the order of the registers.
bool is_intel(kvm_abi::CpuidTable& table) noexcept {
  const kvm_cpuid_entry2* maker = find_leaf(table, 0);
  return maker != nullptr && maker->ebx == 0x756E'6547 && maker->edx == 0x4965'6E69 && maker->ecx == 0x6C65'746E;
}

}  // namespace

void apply_cpu_template(kvm_abi::CpuidTable& table, CpuTemplate wanted) noexcept {
  if (wanted == CpuTemplate::None) return;
  for (const HiddenBits& hidden : kHiddenByT2) {
    kvm_cpuid_entry2* entry = find_leaf(table, hidden.leaf, hidden.subleaf);
    if (entry == nullptr) continue;
    entry->eax &= ~hidden.eax;
    entry->ebx &= ~hidden.ebx;
    entry->ecx &= ~hidden.ecx;
    entry->edx &= ~hidden.edx;
  }
  if (!is_intel(table)) return;
  if (kvm_cpuid_entry2* features = find_leaf(table, 1))
    features->eax = (features->eax & ~kSignatureMask) | kSignatureOfT2;
}

}  // namespace mayfly
