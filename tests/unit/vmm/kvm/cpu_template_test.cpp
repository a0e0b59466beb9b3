#include "vmm/kvm/cpu_template.h"

#include "api/schema.h"
#include "vmm/kvm/cpuid.h"

#include <algorithm>
#include <cstring>
#include <span>

#include <fmt/format.h>
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

/// What the dialect publishes of each, as bodies of PUT /cpu-config: leaf, subleaf, register, bits.
struct PublishedMask {
  std::uint32_t leaf;
  std::uint32_t subleaf;
  const char* reg;
  const char* bitmap;
};
constexpr PublishedMask kOfT2Family[] = {
    {0x1, 0, "eax", "0bxxxx000000000011xx00011011110010"}, {0x1, 0, "ecx", "0bxxxxxxxxxxxxx0xx00xx00x0000000xx"},
    {0x1, 0, "edx", "0b000x0xxxx00xx0xxxxx1xxxx1xxxxxxx"}, {0x7, 0, "ebx", "0b00000000000x000000x00x1xxxx0x0xx"},
    {0x7, 0, "ecx", "0bx0xxxxxxx0xxxxx0x0x00000x0x0000x"}, {0x7, 0, "edx", "0bxxxxxxxxxxxxxxxxxxxxxxx0xxx000xx"},
    {0xD, 0, "eax", "0bxxxxxxxxxxxxxxxxxxxxxx0x00000xxx"}, {0xD, 1, "eax", "0bxxxxxxxxxxxxxxxxxxxxxxxxxxxx000x"}};
constexpr PublishedMask kOfT2SAlone[] = {{0x80000001, 0, "ecx", "0bxx0xxxxxxxxxxxxxxxxxxxx0xxxxxxxx"},
                                         {0x80000001, 0, "edx", "0bxxxxx0xxxxxxxxxxxxxxxxxxxxxxxxxx"},
                                         {0x80000008, 0, "ebx", "0bxxxxxxxxxxxxxxxxxxxxxx0xxxxxxxxx"}};
constexpr PublishedMask kOfT2CLAlone[] = {{0x80000001, 0, "ecx", "0bxx0xxxxxxxxxxxxxxxxxxxx000xxxxxx"},
                                          {0x80000001, 0, "edx", "0bxxxxx00000xxxxxxxxxxxxxxxxxxxxxx"},
                                          {0x80000008, 0, "ebx", "0bxxxxxxxxxxxxxxxxxxxxxx0xxxxxxxxx"}};
constexpr PublishedMask kOfT2AAlone[] = {{0x80000001, 0, "ecx", "0bxx0xxxxxxxxxxxxxxxxxxxx000xxxxxx"},
                                         {0x80000001, 0, "edx", "0bxxxxx00000xxxxxxxxxxxxxxxxxxxxxx"},
                                         {0x80000008, 0, "ebx", "0bxxxxxxxxxxxx11xxxxxxxx0xxxxxx0x0"}};
constexpr PublishedMask kOfC3[] = {{0x1, 0, "eax", "0bxxxx000000000011xx00011011100100"},
                                   {0x1, 0, "ecx", "0bxxxxxxxxx0xxxxxx00x000x0xx0000xx"},
                                   {0x1, 0, "edx", "0b0x0x0xxxx00xx0xxxxx1xxxx1xxxxxxx"},
                                   {0x7, 0, "ebx", "0b000000000x0x000000x000x0xx0000xx"},
                                   {0x7, 0, "ecx", "0bx0xxxxxxx0xxxxx0x0xx0xxxxxx0000x"},
                                   {0x7, 0, "edx", "0bxxxxxxxxxxxxxxxxxxxxxxxxxxxx00xx"},
                                   {0xD, 0, "eax", "0bxxxxxxxxxxxxxxxxxxxxxx0x00000xxx"},
                                   {0xD, 1, "eax", "0bxxxxxxxxxxxxxxxxxxxxxxxxxxxx000x"},
                                   {0x80000001, 0, "ecx", "0bxxxxxxxxxxxxxxxxxxxxxxx0xx0xxxxx"},
                                   {0x80000001, 0, "edx", "0bxxxxx0xxxxxxxxxxxxxxxxxxxxxxxxxx"}};

CpuConfig published(std::initializer_list<std::span<const PublishedMask>> parts) {
  std::string leaves;
  for (const auto part : parts)
    for (const PublishedMask& each : part)
      leaves += fmt::format(
          R"({}{{"leaf": "{:#x}", "subleaf": "{:#x}", "flags": 0, "modifiers": [{{"register": "{}", "bitmap": "{}"}}]}})",
          leaves.empty() ? "" : ",", each.leaf, each.subleaf, each.reg, each.bitmap);
  const auto json = parse_json(fmt::format(R"({{"cpuid_modifiers": [{}]}})", leaves), "it");
  EXPECT_TRUE(json);
  auto config = read_cpu_config(*json, "it");
  EXPECT_TRUE(config);
  return *std::move(config);
}

/// Applied to hosts that have every feature, and none, the template does what the published masks do.
void expect_as_published(CpuTemplate wanted, const CpuConfig& config) {
  for (const std::uint32_t fill : {0U, ~0U, 0x5A5A'A5A5U}) {
    auto by_template = maker_table("GenuineIntel");
    for (kvm_cpuid_entry2& entry : std::span{by_template.entries}.first(by_template.count))
      if (entry.function != 0) entry.eax = entry.ebx = entry.ecx = entry.edx = fill;
    auto by_masks = by_template;
    apply_cpu_template(by_template, wanted);
    for (const CpuidEdit& edit : config.cpuid) {
      kvm_cpuid_entry2& entry = *find_leaf(by_masks, edit.leaf, edit.subleaf);
      std::uint32_t& word = edit.reg == CpuidRegister::Eax   ? entry.eax
                            : edit.reg == CpuidRegister::Ebx ? entry.ebx
                            : edit.reg == CpuidRegister::Ecx ? entry.ecx
                                                             : entry.edx;
      word = edit.bits.apply(word);
    }
    for (std::uint32_t index = 0; index < by_masks.count; ++index)
      EXPECT_EQ(std::memcmp(&by_template.entries[index], &by_masks.entries[index], sizeof(kvm_cpuid_entry2)), 0)
          << fmt::format("leaf {:#x}", by_masks.entries[index].function);
  }
}

TEST(CpuTemplate, MasksAreThoseThatTheDialectPublishes) {
  expect_as_published(CpuTemplate::T2S, published({kOfT2Family, kOfT2SAlone}));
  expect_as_published(CpuTemplate::T2CL, published({kOfT2Family, kOfT2CLAlone}));
  expect_as_published(CpuTemplate::T2A, published({kOfT2Family, kOfT2AAlone}));
  expect_as_published(CpuTemplate::C3, published({kOfC3}));
}

TEST(CpuTemplate, T2HidesAtLeastWhatItsPublishedMaskHides) {
  auto table = maker_table("GenuineIntel");
  apply_cpu_template(table, CpuTemplate::T2);
  EXPECT_EQ(find_leaf(table, 1)->ecx & 0x0004'CDFC, 0U);
  EXPECT_EQ(find_leaf(table, 1)->edx & 0xE864'0000, 0U);
  EXPECT_EQ(find_leaf(table, 7)->ebx & 0xFFEF'F854, 0U);
  EXPECT_EQ(find_leaf(table, 7)->ecx & 0x4041'5F5E, 0U);
  EXPECT_EQ(find_leaf(table, 7)->edx & 0x11C, 0U);
  EXPECT_EQ(find_leaf(table, 0xD)->eax & 0x2F8, 0U);
  EXPECT_EQ(find_leaf(table, 0x8000'0001)->ecx & 0x2000'0100, 0U);
}

TEST(CpuTemplate, MsrsAreThoseThatTheDialectPublishes) {
  for (const CpuTemplate none : {CpuTemplate::None, CpuTemplate::T2, CpuTemplate::T2A, CpuTemplate::C3})
    EXPECT_TRUE(template_msrs(none).empty());
  ASSERT_EQ(template_msrs(CpuTemplate::T2S).size(), 1U);
  EXPECT_EQ(template_msrs(CpuTemplate::T2S).front().address, 0x10AU);
  EXPECT_EQ(template_msrs(CpuTemplate::T2S).front().bits.apply(0), 0xC4CU);
  EXPECT_EQ(template_msrs(CpuTemplate::T2S).front().bits.apply(~0ULL), 0xC4CU);
  ASSERT_EQ(template_msrs(CpuTemplate::T2CL).size(), 1U);
  EXPECT_EQ(template_msrs(CpuTemplate::T2CL).front().bits.apply(~0ULL), 0x1D0A'E1FFU);
}

std::string refused_host(CpuTemplate wanted, const char* maker, std::uint32_t signature) {
  auto table = maker_table(maker);
  find_leaf(table, 1)->eax = signature;
  const auto checked = check_template_host(table, wanted);
  return checked ? "" : checked.error().message;
}

TEST(CpuTemplate, EachIsForTheProcessorsThatTheDialectNames) {
  struct Case {
    const char* maker;
    std::uint32_t signature;
    std::vector<CpuTemplate> fitting;
  };
  using enum CpuTemplate;
  const Case cases[] = {{"GenuineIntel", 0x50654, {C3, T2S}},  {"GenuineIntel", 0x50657, {C3, T2S, T2CL}},
                        {"GenuineIntel", 0x606A6, {C3, T2CL}}, {"GenuineIntel", 0x806F8, {}},
                        {"AuthenticAMD", 0x00A00F11, {T2A}},   {"AuthenticAMD", 0x00A10F11, {}},
                        {"AuthenticAMD", 0x50657, {}}};
  for (const Case& host : cases) {
    for (const CpuTemplate any : {None, T2}) EXPECT_EQ(refused_host(any, host.maker, host.signature), "");
    for (const CpuTemplate wanted : {T2S, T2CL, T2A, C3})
      EXPECT_EQ(refused_host(wanted, host.maker, host.signature) == "", std::ranges::count(host.fitting, wanted) == 1)
          << host.maker << host.signature;
  }
  EXPECT_EQ(
      refused_host(T2CL, "AuthenticAMD", 0x00A00F11),
      "machine-config.cpu_template T2CL is for processors of GenuineIntel: Cascade Lake (signature 0x50657), Ice Lake "
      "(signature 0x606a6); this host's is of AuthenticAMD, with signature 0xa00f11; leave cpu_template out, and "
      "describe the CPU with PUT /cpu-config (mayfly doctor --cpu prints what hosts have)");
}

}  // namespace
}  // namespace mayfly
