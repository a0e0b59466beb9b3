#include "vmm/kvm/cpu_features.h"

#include "vmm/kvm/arch_capabilities.h"

#include <cpuid.h>

#include <algorithm>
#include <array>
#include <cstring>

#include <fmt/ranges.h>

namespace mayfly {
namespace {

using enum CpuidRegister;

constexpr std::uint32_t but(std::initializer_list<unsigned> bits) {
  std::uint32_t mask = ~0U;
  for (const unsigned bit : bits) mask &= ~(1U << bit);
  return mask;
}

constexpr std::uint32_t kKvmLeaf = 0x4000'0001;
constexpr std::uint32_t kAddressSizesLeaf = 0x8000'0008;

/// By the Intel SDM volume 2 (CPUID), the AMD APM volume 3 (appendix E), and KVM's cpuid.rst.
constexpr std::array kRegisters = {
    // Without VMX and PDCM, which no guest is shown; the TSC deadline timer is a capability of KVM, OSXSAVE the guest's
    // own, and the hypervisor bit ours.
    FeatureRegister{.leaf = 0x1,
                    .reg = Ecx,
                    .mask = but({5, 15, 24, 27, 31}),
                    .names = "sse3 pclmulqdq dtes64 monitor ds_cpl vmx smx est tm2 ssse3 cid sdbg fma cx16 xtpr pdcm - "
                             "pcid dca sse4_1 sse4_2 x2apic movbe popcnt tsc_deadline_timer aes xsave osxsave avx f16c "
                             "rdrand hypervisor"},
    // Without HT, which is the machine's topology.
    FeatureRegister{.leaf = 0x1,
                    .reg = Edx,
                    .mask = but({28}),
                    .names = "fpu vme de pse tsc msr pae mce cx8 apic - sep mtrr pge mca cmov pat pse36 pn clflush - "
                             "dts acpi mmx fxsr sse sse2 ss ht tm ia64 pbe"},
    // Without bits 6 and 13, which say that something of the FPU is absent.
    FeatureRegister{.leaf = 0x7,
                    .reg = Ebx,
                    .mask = but({6, 13}),
                    .names = "fsgsbase tsc_adjust sgx bmi1 hle avx2 - smep bmi2 erms invpcid rtm cqm - mpx rdt_a "
                             "avx512f avx512dq rdseed adx smap avx512ifma pcommit clflushopt clwb intel_pt avx512pf "
                             "avx512er avx512cd sha_ni avx512bw avx512vl"},
    // Without OSPKE, which is the guest's own.
    FeatureRegister{.leaf = 0x7,
                    .reg = Ecx,
                    .mask = but({4}),
                    .names = "prefetchwt1 avx512vbmi umip pku ospke waitpkg avx512_vbmi2 shstk gfni vaes vpclmulqdq "
                             "avx512_vnni avx512_bitalg tme avx512_vpopcntdq - la57 - - - - - rdpid - bus_lock_detect "
                             "cldemote - movdiri movdir64b enqcmd sgx_lc pks"},
    FeatureRegister{.leaf = 0x7,
                    .reg = Edx,
                    .names = "- sgx_keys avx512_4vnniw avx512_4fmaps fsrm uintr - - avx512_vp2intersect srbds_ctrl "
                             "md_clear rtm_always_abort - tsx_force_abort serialize hybrid_cpu tsxldtrk - pconfig "
                             "arch_lbr ibt - amx_bf16 avx512_fp16 amx_tile amx_int8 spec_ctrl intel_stibp flush_l1d "
                             "arch_capabilities core_capabilities spec_ctrl_ssbd"},
    FeatureRegister{.leaf = 0x7,
                    .subleaf = 1,
                    .reg = Eax,
                    .names = "sha512 sm3 sm4 rao_int avx_vnni avx512_bf16 lass cmpccxadd - - fzrm fsrs fsrc - - - - "
                             "fred lkgs wrmsrns nmi_source amx_fp16 hreset avx_ifma - - lam msrlist"},
    FeatureRegister{.leaf = 0x7, .subleaf = 1, .reg = Ebx},
    FeatureRegister{.leaf = 0x7, .subleaf = 1, .reg = Ecx},
    FeatureRegister{.leaf = 0x7,
                    .subleaf = 1,
                    .reg = Edx,
                    .names = "- - - - avx_vnni_int8 avx_ne_convert - - amx_complex - avx_vnni_int16 - - - prefetchi - "
                             "- uiret_uif cet_sss avx10 - apx_f"},
    FeatureRegister{
        .leaf = 0x7, .subleaf = 2, .reg = Edx, .names = "intel_psfd ipred_ctrl rrsba_ctrl ddpd_u bhi_ctrl mcdt_no"},
    // What XCR0 may hold.
    FeatureRegister{.leaf = kXsaveLeaf,
                    .reg = Eax,
                    .names =
                        "xsave_x87 xsave_sse xsave_avx xsave_bndregs xsave_bndcsr xsave_avx512_opmask "
                        "xsave_avx512_zmm_hi256 xsave_avx512_hi16_zmm - xsave_pkru - - - - - - - xsave_amx_tilecfg "
                        "xsave_amx_tiledata xsave_apx"},
    FeatureRegister{.leaf = kXsaveLeaf, .reg = Edx},
    FeatureRegister{.leaf = kXsaveLeaf, .subleaf = 1, .reg = Eax, .names = "xsaveopt xsavec xgetbv1 xsaves xfd"},
    // What IA32_XSS may hold.
    FeatureRegister{.leaf = kXsaveLeaf,
                    .subleaf = 1,
                    .reg = Ecx,
                    .names =
                        "- - - - - - - - xss_pt - xss_pasid xss_cet_user xss_cet_supervisor xss_hdc xss_uintr xss_lbr "
                        "xss_hwp"},
    FeatureRegister{.leaf = kXsaveLeaf, .subleaf = 1, .reg = Edx},
    // Features of KVM itself.
    FeatureRegister{.leaf = kKvmLeaf,
                    .reg = Eax,
                    .names = "kvm_clocksource kvm_nop_io_delay kvm_mmu_op kvm_clocksource2 kvm_async_pf "
                             "kvm_steal_time kvm_pv_eoi kvm_pv_unhalt - kvm_pv_tlb_flush kvm_async_pf_vmexit "
                             "kvm_pv_send_ipi kvm_poll_control kvm_pv_sched_yield kvm_async_pf_int kvm_msi_ext_dest_id "
                             "kvm_hc_map_gpa_range kvm_migration_control - - - - - - kvm_clocksource_stable"},
    // Without CmpLegacy, which is the machine's topology; SVM and the performance counters, which no guest is shown.
    FeatureRegister{.leaf = 0x8000'0001,
                    .reg = Ecx,
                    .mask = but({1, 2, 23}),
                    .names = "lahf_lm cmp_legacy svm extapic cr8_legacy abm sse4a misalignsse 3dnowprefetch osvw ibs "
                             "xop skinit wdt - lwp fma4 tce - nodeid_msr - tbm topoext perfctr_core perfctr_nb - bpext "
                             "ptsc perfctr_llc mwaitx"},
    FeatureRegister{.leaf = 0x8000'0001,
                    .reg = Edx,
                    .names = "fpu vme de pse tsc msr pae mce cx8 apic - syscall mtrr pge mca cmov pat pse36 - mp nx - "
                             "mmxext mmx fxsr fxsr_opt pdpe1gb rdtscp - lm 3dnowext 3dnow"},
    FeatureRegister{.leaf = 0x8000'0007, .reg = Edx, .mask = 1U << 8, .names = "- - - - - - - - nonstop_tsc"},
    FeatureRegister{.leaf = kAddressSizesLeaf,
                    .reg = Ebx,
                    .names = "clzero irperf xsaveerptr - rdpru - - - - wbnoinvd - - ibpb - ibrs stibp ibrs_always_on "
                             "stibp_always_on - ibrs_same_mode - - - ppin ssbd virt_ssbd ssb_no cppc amd_psfd btc_no "
                             "ibpb_ret"},
    FeatureRegister{.leaf = 0x8000'0021,
                    .reg = Eax,
                    .names =
                        "no_nested_data_bp - lfence_rdtsc - - - null_sel_clr_base - autoibrs no_smm_ctl_msr - - - - "
                        "- - - - - - - - - - - - - sbpb ibpb_brtype srso_no"},
};

constexpr std::array kLimits = {
    FeatureLimit{.leaf = 0x24, .reg = Ebx, .mask = 0xFF, .name = "AVX10 version {}"},
    FeatureLimit{.leaf = kAddressSizesLeaf, .reg = Eax, .mask = 0xFF, .name = "{} bits of physical addresses"},
};

std::string name_of(const FeatureRegister& where, unsigned bit) {
  std::string_view left = where.names;
  for (unsigned skipped = 0; skipped < bit && !left.empty(); ++skipped)
    left.remove_prefix(std::min(left.size(), left.find(' ') == left.npos ? left.size() : left.find(' ') + 1));
  const std::string_view name = left.substr(0, left.find(' '));
  if (!name.empty() && name != "-") return std::string{name};
  constexpr std::array kRegisterNames = {"EAX", "EBX", "ECX", "EDX"};
  return fmt::format("CPUID {:#x}.{} {} bit {}", where.leaf, where.subleaf,
                     kRegisterNames.at(static_cast<std::size_t>(where.reg)), bit);
}

void compare_xsave(std::span<const kvm_cpuid_entry2> shown, std::span<const kvm_cpuid_entry2> offered,
                   std::vector<std::string>& lacking) {
  const kvm_cpuid_entry2* const components = entry_of(shown, kXsaveLeaf, 0);
  const kvm_cpuid_entry2* const here = entry_of(offered, kXsaveLeaf, 0);
  if (components == nullptr || here == nullptr) return;
  for (unsigned component = kFirstXsaveComponent; component < kXsaveComponents; ++component) {
    if ((components->eax & here->eax & 1U << component) == 0) continue;
    const kvm_cpuid_entry2* const then = entry_of(shown, kXsaveLeaf, component);
    const kvm_cpuid_entry2* const now = entry_of(offered, kXsaveLeaf, component);
    if (then == nullptr || now == nullptr || (then->eax == now->eax && then->ebx == now->ebx)) continue;
    lacking.push_back(fmt::format("XSAVE component {} at byte {} (here at {})", component, then->ebx, now->ebx));
  }
}

std::vector<kvm_cpuid_entry2> ask_processor() {
  constexpr std::uint32_t kExtended = 0x8000'0000;
  const std::uint32_t last = __get_cpuid_max(0, nullptr);
  const std::uint32_t last_extended = __get_cpuid_max(kExtended, nullptr);
  std::vector<kvm_cpuid_entry2> table;
  const auto ask = [&](std::uint32_t leaf, std::uint32_t subleaf) {
    if (leaf > (leaf < kExtended ? last : last_extended) || entry_of(table, leaf, subleaf) != nullptr) return;
    kvm_cpuid_entry2 entry{};
    entry.function = leaf;
    entry.index = subleaf;
    __cpuid_count(leaf, subleaf, entry.eax, entry.ebx, entry.ecx, entry.edx);
    table.push_back(entry);
  };
  for (const FeatureRegister& where : kRegisters)
    if (where.leaf != kKvmLeaf) ask(where.leaf, where.subleaf);  // of the KVM below, where this host is a guest
  for (const FeatureLimit& limit : kLimits) ask(limit.leaf, limit.subleaf);
  return table;
}

kvm_cpuid_entry2& entry_in(std::vector<kvm_cpuid_entry2>& table, std::uint32_t leaf, std::uint32_t subleaf) {
  if (const auto* const found = entry_of(table, leaf, subleaf))
    return table[static_cast<std::size_t>(found - table.data())];
  kvm_cpuid_entry2& added = table.emplace_back();
  added.function = leaf;
  added.index = subleaf;
  return added;
}

auto& register_in(auto& entry, CpuidRegister reg) {
  switch (reg) {
    case Eax:
      return entry.eax;
    case Ebx:
      return entry.ebx;
    case Ecx:
      return entry.ecx;
    case Edx:
      break;
  }
  return entry.edx;
}

/// Features and limits that either has. Where components of XSAVE lie, KVM alone says.
std::vector<kvm_cpuid_entry2> either(std::span<const kvm_cpuid_entry2> offered,
                                     std::span<const kvm_cpuid_entry2> processor) {
  std::vector<kvm_cpuid_entry2> both{offered.begin(), offered.end()};
  for (const FeatureRegister& where : kRegisters)
    if (const std::uint32_t bits = feature_bits(processor, where); bits != 0)
      register_in(entry_in(both, where.leaf, where.subleaf), where.reg) |= bits;
  for (const FeatureLimit& limit : kLimits) {
    const std::uint32_t here = feature_count(processor, limit);
    if (here <= feature_count(both, limit)) continue;
    std::uint32_t& value = register_in(entry_in(both, limit.leaf, limit.subleaf), limit.reg);
    value = (value & ~limit.mask) | here;
  }
  return both;
}

/// What neither KVM nor the processor has.
std::vector<std::string> lacking_here(std::span<const kvm_cpuid_entry2> shown,
                                      std::span<const kvm_cpuid_entry2> offered, ProcessorCpuid processor) {
  auto lacking = features_lacking(shown, offered);
  return lacking.empty() ? lacking : features_lacking(shown, either(offered, processor()));
}

/// What KVM shows guests of any processor, or of one that has the same by its vendor's other bit (kvm_set_cpu_caps in
/// Linux).
void add_what_kvm_makes(std::vector<kvm_cpuid_entry2>& here) {
  constexpr std::uint32_t kX2apic = 1U << 21;            // 1.ECX
  constexpr std::uint32_t kTscAdjust = 1U << 1;          // 7.EBX
  constexpr std::uint32_t kArchCapabilities = 1U << 29;  // 7.EDX; the MSR is compared by itself
  struct Pair {
    std::uint32_t intel;  // 7.EDX
    std::uint32_t amd;    // 8000_0008.EBX
  };
  constexpr std::array kPairs = {Pair{1U << 26, 1U << 12 | 1U << 14}, Pair{1U << 27, 1U << 15},
                                 Pair{1U << 31, 1U << 24}};
  entry_in(here, 0x1, 0).ecx |= kX2apic;
  std::uint32_t intel = entry_in(here, 0x7, 0).edx;
  std::uint32_t amd = entry_in(here, kAddressSizesLeaf, 0).ebx;
  for (const Pair& pair : kPairs) {
    const bool has = (intel & pair.intel) != 0 || (amd & pair.amd) == pair.amd;
    if (!has) continue;
    intel |= pair.intel;
    amd |= pair.amd;
  }
  entry_in(here, 0x7, 0).ebx |= kTscAdjust;
  entry_in(here, 0x7, 0).edx = intel | kArchCapabilities;
  entry_in(here, kAddressSizesLeaf, 0).ebx = amd;
}

}  // namespace

std::span<const FeatureRegister> feature_registers() noexcept { return kRegisters; }

std::span<const FeatureLimit> feature_limits() noexcept { return kLimits; }

const kvm_cpuid_entry2* entry_of(std::span<const kvm_cpuid_entry2> table, std::uint32_t leaf,
                                 std::uint32_t subleaf) noexcept {
  const auto found = std::ranges::find_if(
      table, [&](const kvm_cpuid_entry2& each) { return each.function == leaf && each.index == subleaf; });
  return found == table.end() ? nullptr : &*found;
}

std::uint32_t register_of(const kvm_cpuid_entry2& entry, CpuidRegister reg) noexcept { return register_in(entry, reg); }

std::string vendor_of(std::span<const kvm_cpuid_entry2> table) {
  const kvm_cpuid_entry2* const first = entry_of(table, 0, 0);
  if (first == nullptr) return {};
  const std::array words = {first->ebx, first->edx, first->ecx};
  std::string vendor(sizeof words, '\0');
  std::memcpy(vendor.data(), words.data(), sizeof words);
  return vendor;
}

std::uint32_t feature_bits(std::span<const kvm_cpuid_entry2> table, const FeatureRegister& where) noexcept {
  const kvm_cpuid_entry2* const entry = entry_of(table, where.leaf, where.subleaf);
  return entry == nullptr ? 0 : register_of(*entry, where.reg);
}

std::uint32_t feature_count(std::span<const kvm_cpuid_entry2> table, const FeatureLimit& limit) noexcept {
  return feature_bits(table, {.leaf = limit.leaf, .subleaf = limit.subleaf, .reg = limit.reg}) & limit.mask;
}

std::vector<std::string> features_lacking(std::span<const kvm_cpuid_entry2> shown,
                                          std::span<const kvm_cpuid_entry2> offered) {
  std::vector<std::string> lacking;
  for (const FeatureRegister& where : kRegisters) {
    const std::uint32_t missing = feature_bits(shown, where) & ~feature_bits(offered, where) & where.mask;
    for (unsigned bit = 0; bit < 32; ++bit) {
      if ((missing >> bit & 1U) == 0) continue;
      std::string name = name_of(where, bit);
      // AMD has some in two leaves.
      if (std::ranges::find(lacking, name) == lacking.end()) lacking.push_back(std::move(name));
    }
  }
  compare_xsave(shown, offered, lacking);
  for (const FeatureLimit& limit : kLimits) {
    const std::uint32_t then = feature_count(shown, limit);
    const std::uint32_t now = feature_count(offered, limit);
    if (then > now) lacking.push_back(fmt::format("{} (here {})", fmt::format(fmt::runtime(limit.name), then), now));
  }
  return lacking;
}

const std::vector<kvm_cpuid_entry2>& cpuid_of_processor() {
  static const std::vector<kvm_cpuid_entry2> asked = ask_processor();
  return asked;
}

bool processor_has(std::span<const kvm_cpuid_entry2> shown, ProcessorCpuid processor) {
  std::vector<kvm_cpuid_entry2> here = processor();
  if (here.empty()) return false;
  add_what_kvm_makes(here);
  if (const kvm_cpuid_entry2* const of_kvm = entry_of(shown, kKvmLeaf, 0)) here.push_back(*of_kvm);
  return features_lacking(shown, here).empty();
}

Status check_features(const CpuView& shown, const std::string& saved_host, const CpuView& offered,
                      ProcessorCpuid processor) {
  auto lacking = lacking_here(shown.cpuid, offered.cpuid, processor);
  if (shown.capabilities && offered.capabilities)
    std::ranges::move(capabilities_lacking(*shown.capabilities, *offered.capabilities), std::back_inserter(lacking));
  if (lacking.empty()) return {};
  return fail(ErrorKind::Unsupported,
              "the guest was shown {}, and this host does not have that (the snapshot's was {}); restore it on a host "
              "that has, or boot the machine with a cpu-config of what all hosts have (mayfly doctor --cpu)",
              fmt::join(lacking, ", "), saved_host);
}

Status check_shown(std::span<const kvm_cpuid_entry2> shown, std::span<const kvm_cpuid_entry2> offered,
                   ProcessorCpuid processor) {
  if (vendor_of(shown) != vendor_of(offered))
    return fail(
        ErrorKind::Unsupported,
        "cpu-config shows the guest a processor of {}, and this host's is of {}: registers and features of the two "
        "differ; give it the cpu-config of hosts of {} (mayfly doctor --cpu)",
        vendor_of(shown), vendor_of(offered), vendor_of(offered));
  const auto lacking = lacking_here(shown, offered, processor);
  if (lacking.empty()) return {};
  return fail(ErrorKind::Unsupported,
              "cpu-config shows the guest {}, and this host does not have that; give it a cpu-config of what all hosts "
              "have (mayfly doctor --cpu)",
              fmt::join(lacking, ", "));
}

}  // namespace mayfly
