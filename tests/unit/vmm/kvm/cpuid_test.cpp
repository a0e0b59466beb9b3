#include "vmm/kvm/cpuid.h"

#include <gtest/gtest.h>

namespace mayfly {
namespace {

kvm_cpuid_entry2& add(kvm_abi::CpuidTable& table, std::uint32_t leaf, std::uint32_t subleaf = 0) {
  kvm_cpuid_entry2& entry = table.entries[table.count++];
  entry.function = leaf;
  entry.index = subleaf;
  return entry;
}

/// The leaves of a host with both vendors' topology leaves, so that one table serves all tests.
kvm_abi::CpuidTable host_table() {
  kvm_abi::CpuidTable table;
  add(table, 0x0).eax = 0x1F;
  add(table, 0x1).ecx = 1U << 15;  // PDCM
  for (std::uint32_t level = 0; level < 4; ++level) {
    add(table, 0x4, level).eax = (level + 1) << 5 | 1;  // a data cache of that level
    add(table, 0x8000001D, level).eax = (level + 1) << 5 | 1;
  }
  add(table, 0xA).eax = 0x0730'0402;
  add(table, 0xB);
  add(table, 0x15);
  add(table, 0x1F);
  add(table, 0x4000'0000).eax = 0x4000'0001;
  add(table, 0x8000'0001).ecx = 1U << 23;
  add(table, 0x8000'0008).ecx = 0x707F;
  add(table, 0x8000'001E);
  return table;
}

TEST(Cpuid, SaysThatThereIsAHypervisorAndOnlyThenATscDeadline) {
  auto table = host_table();
  ASSERT_TRUE(prepare_cpuid(table, {.vcpu_count = 1}, {}));
  EXPECT_EQ(find_leaf(table, 1)->ecx, 1U << 31);
  ASSERT_TRUE(prepare_cpuid(table, {.vcpu_count = 1, .tsc_deadline = true}, {}));
  EXPECT_EQ(find_leaf(table, 1)->ecx, 1U << 31 | 1U << 24);
}

TEST(Cpuid, HidesPerformanceCounters) {
  auto table = host_table();
  ASSERT_TRUE(prepare_cpuid(table, {}, {}));
  EXPECT_EQ(find_leaf(table, 0xA)->eax, 0U);
  EXPECT_EQ(find_leaf(table, 0x80000001)->ecx & 1U << 23, 0U);
}

TEST(Cpuid, HidesNestedVirtualization) {
  auto table = host_table();
  find_leaf(table, 1)->ecx |= 1U << 5;
  find_leaf(table, 0x80000001)->ecx |= 1U << 2;
  add(table, 0x8000'000A).eax = 1;
  ASSERT_TRUE(prepare_cpuid(table, {}, {}));
  EXPECT_EQ(find_leaf(table, 1)->ecx & 1U << 5, 0U);
  EXPECT_EQ(find_leaf(table, 0x80000001)->ecx & 1U << 2, 0U);
  EXPECT_EQ(find_leaf(table, 0x8000000A)->eax, 0U);
}

TEST(Cpuid, TopologyOfEightCoresWithoutSmt) {
  auto table = host_table();
  const CpuIdentity identity{.vcpu_count = 8};
  ASSERT_TRUE(prepare_cpuid(table, identity, {}));
  set_apic_id(table, 5, identity);
  EXPECT_EQ(find_leaf(table, 1)->ebx >> 24, 5U);
  EXPECT_EQ(find_leaf(table, 1)->ebx >> 16 & 0xFF, 8U);
  EXPECT_NE(find_leaf(table, 1)->edx & 1U << 28, 0U);
  for (const std::uint32_t leaf : {0xBU, 0x1FU}) {
    EXPECT_EQ(find_leaf(table, leaf, 0)->eax, 0U);  // one thread: no bits of the APIC id
    EXPECT_EQ(find_leaf(table, leaf, 0)->ebx, 1U);
    EXPECT_EQ(find_leaf(table, leaf, 0)->ecx, 0x100U);
    EXPECT_EQ(find_leaf(table, leaf, 1)->eax, 3U);
    EXPECT_EQ(find_leaf(table, leaf, 1)->ebx, 8U);
    EXPECT_EQ(find_leaf(table, leaf, 1)->ecx, 0x201U);
    EXPECT_EQ(find_leaf(table, leaf, 2)->ecx, 2U);
    for (std::uint32_t subleaf = 0; subleaf < 3; ++subleaf) EXPECT_EQ(find_leaf(table, leaf, subleaf)->edx, 5U);
  }
  EXPECT_EQ(find_leaf(table, 0x80000008)->ecx, 0x3007U);
  EXPECT_EQ(find_leaf(table, 0x8000001E)->eax, 5U);
  EXPECT_EQ(find_leaf(table, 0x8000001E)->ebx, 5U);
}

TEST(Cpuid, SmtPairsNeighboursAndSharesTheInnerCachesBetweenThem) {
  auto table = host_table();
  const CpuIdentity identity{.vcpu_count = 6, .smt = true};
  ASSERT_TRUE(prepare_cpuid(table, identity, {}));
  set_apic_id(table, 5, identity);
  EXPECT_EQ(find_leaf(table, 0xB, 0)->eax, 1U);
  EXPECT_EQ(find_leaf(table, 0xB, 0)->ebx, 2U);
  EXPECT_EQ(find_leaf(table, 0xB, 1)->eax, 3U);  // ids up to 5 need three bits
  EXPECT_EQ(find_leaf(table, 0xB, 1)->ebx, 6U);
  EXPECT_EQ(find_leaf(table, 0x4, 0)->eax >> 14 & 0xFFF, 1U);
  EXPECT_EQ(find_leaf(table, 0x4, 2)->eax >> 14 & 0xFFF, 5U);  // level 3: all
  EXPECT_EQ(find_leaf(table, 0x4, 0)->eax >> 26, 2U);          // three cores
  EXPECT_EQ(find_leaf(table, 0x8000001E)->ebx, 2U | 1U << 8);
}

TEST(Cpuid, SmtOfAnOddCountMeansCores) {
  auto table = host_table();
  ASSERT_TRUE(prepare_cpuid(table, {.vcpu_count = 3, .smt = true}, {}));
  EXPECT_EQ(find_leaf(table, 0xB, 0)->ebx, 1U);
}

TEST(Cpuid, ASingleCpuHasNoThreadFlagAndNoIdBits) {
  auto table = host_table();
  ASSERT_TRUE(prepare_cpuid(table, {.vcpu_count = 1}, {}));
  EXPECT_EQ(find_leaf(table, 1)->edx & 1U << 28, 0U);
  EXPECT_EQ(find_leaf(table, 0xB, 1)->eax, 0U);
}

TEST(Cpuid, TellsFrequenciesWhenTheyAreKnown) {
  auto table = host_table();
  ASSERT_TRUE(prepare_cpuid(table, {}, {}));
  EXPECT_EQ(find_leaf(table, 0x4000'0010), nullptr);
  ASSERT_TRUE(prepare_cpuid(table, {.tsc_khz = 2'445'405}, {}));
  EXPECT_EQ(find_leaf(table, 0x4000'0010)->eax, 2'445'405U);
  EXPECT_EQ(find_leaf(table, 0x4000'0010)->ebx, 1'000'000U);
  EXPECT_EQ(find_leaf(table, 0x4000'0000)->eax, 0x4000'0010U);
  const auto* tsc = find_leaf(table, 0x15);  // frequency = ecx * ebx / eax
  EXPECT_EQ(std::uint64_t{tsc->ecx} * tsc->ebx / tsc->eax, 2'445'405'000U);
}

TEST(Cpuid, AnEditChangesOnlyTheBitsOfItsMask) {
  auto table = host_table();
  find_leaf(table, 0)->ebx = 0xFF00'FF00;
  const CpuidEdit edit{.leaf = 0, .reg = CpuidRegister::Ebx, .bits = {.mask = 0x0000'FFFF, .value = 0x0000'1234}};
  ASSERT_TRUE(prepare_cpuid(table, {}, std::array{edit}));
  EXPECT_EQ(find_leaf(table, 0)->ebx, 0xFF00'1234U);
}

TEST(Cpuid, AnEditOfALeafThatTheHostLacksIsRefusedByName) {
  auto table = host_table();
  const CpuidEdit edit{.leaf = 0x14, .subleaf = 2, .bits = {.mask = 1, .value = 1}};
  const auto refused = prepare_cpuid(table, {}, std::array{edit});
  ASSERT_FALSE(refused);
  EXPECT_NE(refused.error().message.find("0x14 subleaf 0x2"), std::string::npos) << refused.error().message;
}

/// A /cpu-config of what several hosts have clears leaves that only some of them have.
TEST(Cpuid, AnEditThatOnlyClearsBitsOfAnAbsentLeafHasNothingToDo) {
  auto table = host_table();
  const CpuidEdit edit{.leaf = 0x14, .subleaf = 2, .bits = {.mask = ~0U}};
  ASSERT_TRUE(prepare_cpuid(table, {}, std::array{edit}));
  EXPECT_EQ(find_leaf(table, 0x14, 2), nullptr);
}

TEST(Cpuid, WithEditsThereAreAlsoTheLeavesThatAHostLacks) {
  const auto table = host_table();
  const std::array edits = {
      CpuidEdit{.leaf = 0, .reg = CpuidRegister::Ebx, .bits = {.mask = 0xFFFF, .value = 0x1234}},
      CpuidEdit{.leaf = 0x14, .subleaf = 2, .reg = CpuidRegister::Ecx, .bits = {.mask = 6, .value = 2}},
      CpuidEdit{.leaf = 0x14, .subleaf = 2, .reg = CpuidRegister::Edx, .bits = {.mask = 1, .value = 1}}};
  const auto edited = with_edits(std::span{table.entries}.first(table.count), edits);
  ASSERT_EQ(edited.size(), table.count + 1);
  EXPECT_EQ(edited.front().ebx & 0xFFFF, 0x1234U);
  EXPECT_EQ(edited.back().function, 0x14U);
  EXPECT_EQ(edited.back().ecx, 2U);
  EXPECT_EQ(edited.back().edx, 1U);
}

TEST(Cpuid, AFullTableIsNotWrittenBeyond) {
  auto table = host_table();
  while (table.count < table.entries.size()) add(table, 0x2, table.count);
  EXPECT_TRUE(prepare_cpuid(table, {.vcpu_count = 4, .tsc_khz = 1}, {}));
  EXPECT_EQ(table.count, table.entries.size());
}

}  // namespace
}  // namespace mayfly
