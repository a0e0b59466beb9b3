#include "vmm/kvm/cpu_features.h"

#include <cpuid.h>

#include <algorithm>
#include <tuple>

#include <fmt/ranges.h>
#include <gtest/gtest.h>

namespace mayfly {
namespace {

using Table = std::vector<kvm_cpuid_entry2>;

kvm_cpuid_entry2 leaf(std::uint32_t number, std::uint32_t subleaf, std::uint32_t eax, std::uint32_t ebx,
                      std::uint32_t ecx, std::uint32_t edx) {
  return {
      .function = number, .index = subleaf, .flags = 0, .eax = eax, .ebx = ebx, .ecx = ecx, .edx = edx, .padding = {}};
}

/// What KVM offered on a host with an EPYC 9004, recorded.
Table genoa() {
  return {leaf(0x1, 0, 0x00a10f11, 0x00020800, 0x81202000, 0x078bfbff),
          leaf(0x7, 0, 1, 0x01800002, 0x00000104, 0x20000000),
          leaf(0xD, 0, 0xe7, 0x980, 0x980, 0),
          leaf(0xD, 2, 0x100, 0x240, 0, 0),
          leaf(0xD, 5, 0x40, 0x340, 0, 0),
          leaf(0xD, 6, 0x200, 0x380, 0, 0),
          leaf(0xD, 7, 0x400, 0x580, 0, 0),
          leaf(0x80000001, 0, 0x00a10f11, 0x40000000, 0x00400393, 0x23d3fbff),
          leaf(0x80000007, 0, 0, 0, 0, 0x100),
          leaf(0x80000008, 0, 0x3030, 0x50020005, 0x7001, 0),
          leaf(0x80000021, 0, 0x204, 0, 6, 0),
          leaf(0x40000001, 0, 0x01007efb, 0, 0, 0)};
}

kvm_cpuid_entry2& entry(Table& table, std::uint32_t number, std::uint32_t subleaf = 0) {
  return *std::ranges::find_if(table,
                               [&](const auto& each) { return each.function == number && each.index == subleaf; });
}

std::string lacking(const Table& shown, const Table& offered) {
  return fmt::format("{}", fmt::join(features_lacking(shown, offered), ", "));
}

TEST(CpuFeatures, AHostHasWhatItOffers) { EXPECT_EQ(lacking(genoa(), genoa()), ""); }

TEST(CpuFeatures, ASubsetIsNoLack) {
  Table shown = genoa();
  entry(shown, 1).edx &= ~(1U << 19);
  entry(shown, 7).ecx = 0;
  std::erase_if(shown, [](const auto& each) { return each.function == 0x80000021; });
  EXPECT_EQ(lacking(shown, genoa()), "");
}

TEST(CpuFeatures, WhatIsLackingIsNamed) {
  Table offered = genoa();
  entry(offered, 1).ecx &= ~(1U << 13);
  entry(offered, 7).ebx &= ~(1U << 23);
  entry(offered, 0x80000001).edx &= ~(1U << 20);
  entry(offered, 0x40000001).eax &= ~(1U << 11);
  EXPECT_EQ(lacking(genoa(), offered), "cx16, clflushopt, kvm_pv_send_ipi, nx");
}

TEST(CpuFeatures, AnAbsentLeafLacksAllOfIt) {
  Table offered = genoa();
  std::erase_if(offered, [](const auto& each) { return each.function == 0x80000021; });
  EXPECT_EQ(lacking(genoa(), offered), "lfence_rdtsc, no_smm_ctl_msr");
}

TEST(CpuFeatures, BitsWithoutANameAreNamedByTheirPlace) {
  Table shown = genoa();
  entry(shown, 7).ecx |= 1U << 15;
  shown.push_back(leaf(7, 1, 0, 1U << 3, 0, 0));
  EXPECT_EQ(lacking(shown, genoa()), "CPUID 0x7.0 ECX bit 15, CPUID 0x7.1 EBX bit 3");
}

TEST(CpuFeatures, ANameThatTwoLeavesHaveIsSaidOnce) {
  Table offered = genoa();
  entry(offered, 1).edx &= ~(1U << 23);
  entry(offered, 0x80000001).edx &= ~(1U << 23);
  EXPECT_EQ(lacking(genoa(), offered), "mmx");
}

TEST(CpuFeatures, WhatDependsOnTheMachineDoesNotCount) {
  Table shown = genoa();
  entry(shown, 1).ecx |= 1U << 24 | 1U << 27 | 1U << 31;
  entry(shown, 1).edx |= 1U << 28;
  entry(shown, 7).ebx |= 1U << 6 | 1U << 13;
  entry(shown, 7).ecx |= 1U << 4;
  entry(shown, 0x80000001).ecx |= 1U << 1;
  entry(shown, 0x80000007).edx |= 1U << 9;
  EXPECT_EQ(lacking(shown, genoa()), "");
}

/// KVM keeps the area as this host has it.
TEST(CpuFeatures, AComponentOfXsaveAtAnotherPlaceIsALack) {
  Table offered = genoa();
  entry(offered, 0xD, 5).ebx = 0x440;
  EXPECT_EQ(lacking(genoa(), offered), "XSAVE component 5 at byte 832 (here at 1088)");
  Table shown = genoa();
  entry(shown, 0xD).eax = 7;  // which the guest may not use
  EXPECT_EQ(lacking(shown, offered), "");
}

TEST(CpuFeatures, MoreAddressBitsAreALack) {
  Table offered = genoa();
  entry(offered, 0x80000008).eax = 0x3028;
  EXPECT_EQ(lacking(genoa(), offered), "48 bits of physical addresses (here 40)");
  EXPECT_EQ(lacking(offered, genoa()), "");
}

TEST(CpuFeatures, EachRegisterHasNamesForItsBitsAndNoMore) {
  for (const FeatureRegister& where : feature_registers()) {
    const std::string names = where.names;
    EXPECT_LE(std::ranges::count(names, ' ') + (names.empty() ? 0 : 1), 32) << names;
    EXPECT_EQ(names.find("  "), std::string::npos) << names;
  }
}

/// What is a feature and what is a count is never told twice of one place.
TEST(CpuFeatures, NoRegisterIsListedTwice) {
  std::vector<std::tuple<std::uint32_t, std::uint32_t, CpuidRegister>> seen;
  const auto add = [&](const auto& where) {
    EXPECT_NE(where.mask, 0U);
    const std::tuple place{where.leaf, where.subleaf, where.reg};
    EXPECT_EQ(std::ranges::count(seen, place), 0) << where.leaf;
    seen.push_back(place);
  };
  for (const FeatureRegister& where : feature_registers()) add(where);
  for (const FeatureLimit& limit : feature_limits()) add(limit);
}

TEST(CpuFeatures, ANewerAvx10IsALack) {
  Table shown = genoa();
  shown.push_back(leaf(0x24, 0, 0, 0x00070002, 0, 0));
  Table offered = genoa();
  EXPECT_EQ(lacking(shown, offered), "AVX10 version 2 (here 0)");
  offered.push_back(leaf(0x24, 0, 0, 0x00070001, 0, 0));
  EXPECT_EQ(lacking(shown, offered), "AVX10 version 2 (here 1)");
  EXPECT_EQ(lacking(offered, shown), "");
}

const Table& no_processor() {
  static const Table nothing;
  return nothing;
}

const Table& avx2_alone() {
  static const Table avx2 = {leaf(7, 0, 0, 1U << 5, 0, 0)};
  return avx2;
}

TEST(CpuFeatures, TheProcessorsWordIsEnoughForAllButWhatKvmAddsOfItsOwn) {
  Table shown = {leaf(7, 0, 0, 1U << 5, 0, 0)};
  EXPECT_TRUE(processor_has(shown, avx2_alone));
  shown.push_back(leaf(0x4000'0001, 0, 0xFFFF, 0, 0, 0));
  EXPECT_TRUE(processor_has(shown, avx2_alone)) << "KVM's own";
  EXPECT_FALSE(processor_has(shown, no_processor));
  shown.front().ebx |= 1U << 16;
  EXPECT_FALSE(processor_has(shown, avx2_alone)) << "avx512f";
}

TEST(CpuFeatures, TheProcessorIsAskedForEachLeafThatItHas) {
  const Table& here = cpuid_of_processor();
  EXPECT_EQ(&here, &cpuid_of_processor()) << "once";
  const kvm_cpuid_entry2* const first = entry_of(here, 1, 0);
  ASSERT_NE(first, nullptr);
  constexpr std::uint32_t kSse2 = 1U << 26;  // which each processor of 64 bits has
  EXPECT_NE(first->edx & kSse2, 0U);
  const std::uint32_t last = __get_cpuid_max(0, nullptr);
  const std::uint32_t last_extended = __get_cpuid_max(0x8000'0000, nullptr);
  for (const FeatureRegister& where : feature_registers()) {
    const bool is_kvms = where.leaf == 0x4000'0001;
    const bool has = where.leaf <= (where.leaf < 0x8000'0000 ? last : last_extended) && !is_kvms;
    EXPECT_EQ(entry_of(here, where.leaf, where.subleaf) != nullptr, has) << std::hex << where.leaf;
  }
}

/// Of one vendor's bits it makes the other's; others it shows on any processor.
TEST(CpuFeatures, WhatKvmMakesIsNotLookedForInTheProcessor) {
  static const Table amd = {leaf(0x8000'0008, 0, 0, 1U << 12 | 1U << 14 | 1U << 15, 0, 0)};
  static const Table intel = {leaf(7, 0, 0, 0, 0, 1U << 26 | 1U << 31)};
  const auto of_amd = []() -> const Table& { return amd; };
  const auto of_intel = []() -> const Table& { return intel; };
  const Table x2apic = {leaf(1, 0, 0, 0, 1U << 21, 0), leaf(7, 0, 0, 1U << 1, 0, 1U << 29)};
  EXPECT_TRUE(processor_has(x2apic, of_amd));
  const Table stibp = {leaf(7, 0, 0, 0, 0, 1U << 26 | 1U << 27)};
  EXPECT_TRUE(processor_has(stibp, of_amd));
  EXPECT_FALSE(processor_has(stibp, of_intel)) << "its microcode lacks it";
  const Table ssbd = {leaf(0x8000'0008, 0, 0, 1U << 12 | 1U << 14 | 1U << 24, 0, 0)};
  EXPECT_TRUE(processor_has(ssbd, of_intel));
  EXPECT_FALSE(processor_has(ssbd, of_amd));
}

/// The processor knows of no places, and has numbers of its own.
TEST(CpuFeatures, PlacesAndLimitsAreRefusedWhateverTheProcessorHas) {
  static const Table processor = {leaf(0xD, 0, 0x207, 0, 0, 0), leaf(0x8000'0008, 0, 48, 0, 0, 0)};
  const auto ours = []() -> const Table& { return processor; };
  const Table shown = {leaf(0xD, 0, 0x207, 0, 0, 0), leaf(0xD, 9, 8, 2688, 0, 0)};
  const Table offered = {leaf(0xD, 0, 0x207, 0, 0, 0), leaf(0xD, 9, 8, 832, 0, 0)};
  const auto moved = check_features({.cpuid = shown}, "it", {.cpuid = offered}, ours);
  ASSERT_FALSE(moved);
  EXPECT_NE(moved.error().message.find("XSAVE component 9 at byte 2688 (here at 832)"), std::string::npos)
      << moved.error().message;
  const Table wide = {leaf(0x8000'0008, 0, 52, 0, 0, 0)};
  const Table narrow = {leaf(0x8000'0008, 0, 46, 0, 0, 0)};
  const auto wider = check_features({.cpuid = wide}, "it", {.cpuid = narrow}, ours);
  ASSERT_FALSE(wider);
  EXPECT_NE(wider.error().message.find("52 bits of physical addresses (here 48)"), std::string::npos)
      << wider.error().message;
}

TEST(CpuFeatures, FeaturesThatThisHostLacksAreNamed) {
  const Table shown = {leaf(7, 0, 0, 1U << 5 | 1U << 16, 0, 0)};
  const Table bare = {leaf(7, 0, 0, 0, 0, 0)};
  const std::string saved = "GenuineIntel, family 0x6, model 0x8f";
  EXPECT_TRUE(check_features({.cpuid = shown}, saved, {.cpuid = shown}));
  const auto checked = check_features({.cpuid = shown}, saved, {.cpuid = bare}, no_processor);
  ASSERT_FALSE(checked);
  EXPECT_EQ(checked.error().kind, ErrorKind::Unsupported);
  EXPECT_EQ(checked.error().message,
            "the guest was shown avx2, avx512f, and this host does not have that (the snapshot's was GenuineIntel, "
            "family 0x6, model 0x8f); restore it on a host that has, or boot the machine with a cpu-config of what all "
            "hosts have (mayfly doctor --cpu)");
  // KVM may show guests what it does not offer.
  const auto fewer = check_features({.cpuid = shown}, saved, {.cpuid = bare}, avx2_alone);
  ASSERT_FALSE(fewer);
  EXPECT_NE(fewer.error().message.find("was shown avx512f, and"), std::string::npos) << fewer.error().message;
}

TEST(CpuFeatures, CapabilitiesThatThisHostLacksAreNamedWhereBothAreKnown) {
  const Table same = genoa();
  const auto refused = [&](std::optional<std::uint64_t> shown, std::optional<std::uint64_t> offered) {
    const auto checked =
        check_features({.cpuid = same, .capabilities = shown}, "it", {.cpuid = same, .capabilities = offered});
    return checked ? "" : checked.error().message.substr(0, checked.error().message.find(", and"));
  };
  EXPECT_EQ(refused(0x21, 0x21), "");
  EXPECT_EQ(refused(0x01, 0x21), "");
  EXPECT_EQ(refused(0x21, 0x01), "the guest was shown mds_no");
  EXPECT_EQ(refused(0x21, std::nullopt), "");
  EXPECT_EQ(refused(std::nullopt, 0), "");
}

TEST(CpuFeatures, AMachineIsNotShownWhatItsHostLacks) {
  Table offered = genoa();
  offered.push_back(leaf(0, 0, 0xD, 0x68747541, 0x444D4163, 0x69746E65));
  EXPECT_EQ(vendor_of(offered), "AuthenticAMD");
  Table shown = offered;
  entry(shown, 7).ebx = 0;
  EXPECT_TRUE(check_shown(shown, offered, no_processor));
  entry(shown, 7).ebx = 1U << 5 | 1U << 16;
  const auto lacking = check_shown(shown, offered, no_processor);
  ASSERT_FALSE(lacking);
  EXPECT_EQ(
      lacking.error().message,
      "cpu-config shows the guest avx2, avx512f, and this host does not have that; give it a cpu-config of what all "
      "hosts have (mayfly doctor --cpu)");
  EXPECT_NE(check_shown(shown, offered, avx2_alone).error().message.find("the guest avx512f, and"), std::string::npos);
}

TEST(CpuFeatures, AMachineIsNotShownAnotherVendor) {
  const Table amd = {leaf(0, 0, 0xD, 0x68747541, 0x444D4163, 0x69746E65)};
  const Table intel = {leaf(0, 0, 0xD, 0x756E6547, 0x6C65746E, 0x49656E69)};
  const auto refused = check_shown(intel, amd, no_processor);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().message,
            "cpu-config shows the guest a processor of GenuineIntel, and this host's is of AuthenticAMD: registers and "
            "features of the two differ; give it the cpu-config of hosts of AuthenticAMD (mayfly doctor --cpu)");
}

}  // namespace
}  // namespace mayfly
