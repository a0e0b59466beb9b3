#include "vmm/kvm/cpu_template.h"

#include "vmm/kvm/cpuid.h"

#include <cstring>

#include <gtest/gtest.h>

namespace mayfly {
namespace {

kvm_cpuid_entry2& add_leaf(kvm_abi::CpuidTable& table, std::uint32_t leaf, std::uint32_t subleaf = 0) {
  kvm_cpuid_entry2& entry = table.entries[table.count++];
  entry = {
      .function = leaf, .index = subleaf, .flags = 0, .eax = ~0U, .ebx = ~0U, .ecx = ~0U, .edx = ~0U, .padding = {}};
  return entry;
}

/// A host that has every feature there could be.
kvm_abi::CpuidTable maker_table(const char* maker) {
  kvm_abi::CpuidTable table;
  kvm_cpuid_entry2& first = add_leaf(table, 0);
  std::memcpy(&first.ebx, maker, 4);
  std::memcpy(&first.edx, maker + 4, 4);
  std::memcpy(&first.ecx, maker + 8, 4);
  for (const std::uint32_t leaf : {0x1U, 0x7U, 0xDU, 0x8000'0001U, 0x8000'0008U}) add_leaf(table, leaf);
  add_leaf(table, 0x7, 1);
  add_leaf(table, 0xD, 1);
  return table;
}

TEST(CpuTemplate, NoneHidesNothing) {
  auto table = maker_table("GenuineIntel");
  apply_cpu_template(table, CpuTemplate::None);
  EXPECT_EQ(find_leaf(table, 7)->ebx, ~0U);
  EXPECT_EQ(find_leaf(table, 1)->eax, ~0U);
}

TEST(CpuTemplate, T2HidesWhatItsHostsDoNotAllHave) {
  auto table = maker_table("AuthenticAMD");
  apply_cpu_template(table, CpuTemplate::T2);
  EXPECT_EQ(find_leaf(table, 7)->ebx & 1U << 16, 0U) << "AVX512F";
  EXPECT_EQ(find_leaf(table, 7)->ebx & 1U << 18, 0U) << "RDSEED";
  EXPECT_EQ(find_leaf(table, 7)->ecx & 1U << 2, 0U) << "UMIP";
  EXPECT_EQ(find_leaf(table, 7)->edx & 1U << 23, 0U) << "AVX512_FP16";
  EXPECT_EQ(find_leaf(table, 7, 1)->eax, 0U) << "AVX-VNNI";
  EXPECT_EQ(find_leaf(table, 0xD)->eax & 0xE0, 0U) << "AVX512's state";
  EXPECT_EQ(find_leaf(table, 0xD, 1)->eax & 1U << 3, 0U) << "XSAVES";
  EXPECT_EQ(find_leaf(table, 0x8000'0001)->edx & 1U << 26, 0U) << "pages of 1 GiB";
}

TEST(CpuTemplate, T2KeepsWhatKernelsAndProgramsNeed) {
  auto table = maker_table("AuthenticAMD");
  apply_cpu_template(table, CpuTemplate::T2);
  EXPECT_NE(find_leaf(table, 1)->ecx & 1U << 26, 0U) << "XSAVE";
  EXPECT_NE(find_leaf(table, 1)->ecx & 1U << 21, 0U) << "x2APIC";
  EXPECT_NE(find_leaf(table, 1)->edx & 1U << 9, 0U) << "APIC";
  EXPECT_NE(find_leaf(table, 7)->ebx & 1U << 5, 0U) << "AVX2";
  EXPECT_NE(find_leaf(table, 7)->ebx & 1U << 20, 0U) << "SMAP";
  EXPECT_NE(find_leaf(table, 7)->edx & 1U << 26, 0U) << "IBRS";
  EXPECT_EQ(find_leaf(table, 0xD)->eax & 0x7, 0x7U) << "x87, SSE and AVX state";
  EXPECT_NE(find_leaf(table, 0x8000'0001)->edx & 1U << 29, 0U) << "long mode";
}

TEST(CpuTemplate, T2ShowsItsModelOnIntelOnly) {
  auto intel = maker_table("GenuineIntel");
  apply_cpu_template(intel, CpuTemplate::T2);
  EXPECT_EQ(find_leaf(intel, 1)->eax & 0x0FFF'3FFF, 0x0003'06F2U);
  auto amd = maker_table("AuthenticAMD");
  apply_cpu_template(amd, CpuTemplate::T2);
  EXPECT_EQ(find_leaf(amd, 1)->eax, ~0U);
}

TEST(CpuTemplate, AHostThatLacksLeavesIsLeftAsItIs) {
  kvm_abi::CpuidTable table;
  add_leaf(table, 0);
  apply_cpu_template(table, CpuTemplate::T2);
  EXPECT_EQ(table.count, 1U);
}

}  // namespace
}  // namespace mayfly
