#include "vmm/kvm/host_features.h"

#include "api/schema.h"
#include "vmm/base/json_writer.h"
#include "vmm/kvm/cpu_features.h"
#include "vmm/kvm/cpuid.h"

#include <algorithm>
#include <random>

#include <gtest/gtest.h>

namespace mayfly {
namespace {

using Entries = std::vector<kvm_cpuid_entry2>;

kvm_cpuid_entry2 entry_with(std::uint32_t leaf, std::uint32_t subleaf, std::array<std::uint32_t, 4> words) {
  kvm_cpuid_entry2 entry{};
  entry.function = leaf;
  entry.index = subleaf;
  entry.eax = words[0];
  entry.ebx = words[1];
  entry.ecx = words[2];
  entry.edx = words[3];
  return entry;
}

constexpr std::array<std::uint32_t, 4> kAmd = {0x10, 0x68747541, 0x444D4163, 0x69746E65};
constexpr std::array<std::uint32_t, 4> kIntel = {0x1B, 0x756E6547, 0x6C65746E, 0x49656E69};

/// Any host of that vendor; components of XSAVE lie where all have them.
Entries any_host(std::mt19937& random, std::array<std::uint32_t, 4> vendor = kAmd) {
  Entries table = {entry_with(0, 0, vendor)};
  const auto add = [&](std::uint32_t leaf, std::uint32_t subleaf) {
    if (entry_of(table, leaf, subleaf) != nullptr || random() % 8 == 0) return;  // some hosts have fewer leaves
    const auto word = [&] { return static_cast<std::uint32_t>(random()); };
    table.push_back(entry_with(leaf, subleaf, {word(), word(), word(), word()}));
  };
  for (const FeatureRegister& where : feature_registers()) add(where.leaf, where.subleaf);
  for (const FeatureLimit& limit : feature_limits()) add(limit.leaf, limit.subleaf);
  const kvm_cpuid_entry2* const xsave = entry_of(table, kXsaveLeaf, 0);
  const std::uint32_t components = xsave == nullptr ? 0 : xsave->eax;
  for (unsigned component = kFirstXsaveComponent; component < kXsaveComponents; ++component)
    if ((components >> component & 1U) != 0)
      table.push_back(entry_with(kXsaveLeaf, component, {64 * component, 576 + 4096 * component, 0, 0}));
  return table;
}

HostFeatures any_features(std::mt19937& random) { return HostFeatures::of(any_host(random), random()); }

HostFeatures common(const HostFeatures& a, const HostFeatures& b) {
  auto both = a.in_common_with(b);
  EXPECT_TRUE(both) << both.error().message;
  return *std::move(both);
}

std::string text_of(const HostFeatures& host) {
  JsonWriter json;
  write_cpu_config(json, host.to_cpu_config());
  return std::move(json).take();
}

TEST(HostFeatures, AreTheSameAfterTheyWereWrittenAndRead) {
  std::mt19937 random{1};
  for (int round = 0; round < 50; ++round) {
    const HostFeatures host = any_features(random);
    const auto json = parse_json(text_of(host), "it");
    ASSERT_TRUE(json);
    const auto config = read_cpu_config(*json, "cpu-config");
    ASSERT_TRUE(config) << config.error().message;
    const auto again = HostFeatures::read(*config);
    ASSERT_TRUE(again) << again.error().message;
    EXPECT_EQ(*again, host);
  }
}

TEST(HostFeatures, FitIntoARequestWithItsDefaultLimit) {
  std::mt19937 random{2};
  EXPECT_LT(text_of(any_features(random)).size(), 51'200U / 2);
}

TEST(HostFeatures, InCommonAreTheSameInAnyOrderAndAreIdempotent) {
  std::mt19937 random{3};
  for (int round = 0; round < 50; ++round) {
    const HostFeatures a = any_features(random);
    const HostFeatures b = any_features(random);
    const HostFeatures c = any_features(random);
    EXPECT_EQ(common(a, a), a);
    EXPECT_EQ(common(a, b), common(b, a));
    EXPECT_EQ(common(common(a, b), c), common(a, common(b, c)));
    EXPECT_EQ(common(common(a, b), a), common(a, b));
  }
}

/// The table of a machine on `host` that boots with `features`.
Entries shown_with(const Entries& host, const HostFeatures& features) {
  auto table = std::make_unique<kvm_abi::CpuidTable>();
  std::ranges::copy(host, table->entries.begin());
  table->count = static_cast<std::uint32_t>(host.size());
  const auto config = features.to_cpu_config();
  const auto prepared = prepare_cpuid(*table, {.vcpu_count = 2, .tsc_khz = 1000}, config.cpuid);
  EXPECT_TRUE(prepared) << prepared.error().message;
  return {table->entries.begin(), table->entries.begin() + table->count};
}

const Entries& nothing_else() {
  static const Entries nothing;
  return nothing;
}

/// What it is all for.
TEST(HostFeatures, AMachineThatBootsWithThoseInCommonMayBeRestoredOnEachHost) {
  std::mt19937 random{4};
  for (int round = 0; round < 50; ++round) {
    const std::array hosts = {any_host(random), any_host(random), any_host(random)};
    HostFeatures all = HostFeatures::of(hosts[0], 0);
    for (const Entries& host : hosts) all = common(all, HostFeatures::of(host, 0));
    for (const Entries& host : hosts) {
      const Entries shown = shown_with(host, all);
      EXPECT_EQ(HostFeatures::of(shown, 0), all) << "exactly these";
      EXPECT_TRUE(check_shown(shown, host, nothing_else));
      for (const Entries& other : hosts) {
        const auto loaded = check_features({.cpuid = shown}, "it", {.cpuid = other}, nothing_else);
        EXPECT_TRUE(loaded) << loaded.error().message;
      }
    }
  }
}

TEST(HostFeatures, LeaveModelTopologyAndFrequenciesAsTheHostHasThem) {
  std::mt19937 random{5};
  const auto config = any_features(random).to_cpu_config();
  for (const CpuidEdit& edit : config.cpuid) {
    EXPECT_TRUE(edit.leaf != 1 || edit.reg == CpuidRegister::Ecx || edit.reg == CpuidRegister::Edx);
    for (const std::uint32_t leaf : {0x4U, 0xBU, 0x15U, 0x16U, 0x1FU, 0x4000'0010U, 0x8000'001EU})
      EXPECT_NE(edit.leaf, leaf);
  }
}

TEST(HostFeatures, CountsAreTheSmallest) {
  const auto host = [](std::uint32_t bits) {
    return HostFeatures::of(Entries{entry_with(0, 0, kAmd), entry_with(0x80000008, 0, {0x3000 | bits, 0, 0, 0})}, 0);
  };
  EXPECT_EQ(common(host(48), host(40)), host(40));
}

TEST(HostFeatures, CapabilitiesCountWhereBothShowThem) {
  const auto host = [](bool shows, std::uint64_t value) {
    return HostFeatures::of(Entries{entry_with(0, 0, kIntel), entry_with(7, 0, {0, 0, 0, shows ? 1U << 29 : 0})},
                            value);
  };
  EXPECT_EQ(common(host(true, 0x61), host(true, 0x25)), host(true, 0x25));  // RSBA is of either
  EXPECT_EQ(common(host(true, 0x61), host(false, 0)), host(false, 0x7F));
  EXPECT_EQ(host(true, 0x61).to_cpu_config().msrs.size(), 1U);
  EXPECT_EQ(host(false, 0x61).to_cpu_config().msrs.size(), 0U);
}

TEST(HostFeatures, OfAnotherVendorHaveNothingInCommon) {
  std::mt19937 random{6};
  const auto both = any_features(random).in_common_with(HostFeatures::of(any_host(random, kIntel), 0));
  ASSERT_FALSE(both);
  EXPECT_EQ(both.error().message,
            "its processor is of GenuineIntel, not of AuthenticAMD as those before: registers and features of the two "
            "differ, and no guest runs on both; print what the hosts of each vendor have in common");
}

TEST(HostFeatures, AComponentOfXsaveAtAnotherPlaceIsNamed) {
  const auto host = [](std::uint32_t offset) {
    return HostFeatures::of(
        Entries{entry_with(0, 0, kAmd), entry_with(kXsaveLeaf, 0, {0x207, 0, 0, 0}),
                entry_with(kXsaveLeaf, 2, {256, 576, 0, 0}), entry_with(kXsaveLeaf, 9, {8, offset, 0, 0})},
        0);
  };
  const auto both = host(2432).in_common_with(host(2688));
  ASSERT_FALSE(both);
  EXPECT_EQ(
      both.error().message,
      "its XSAVE component 9 has 8 bytes at 2688, and 8 at 2432 on those before: no guest that uses it runs on both; "
      "hide it from guests of one of the hosts");
}

std::string misread(const CpuConfig& config) {
  const auto host = HostFeatures::read(config);
  return host ? "" : host.error().message;
}

TEST(HostFeatures, AnyOtherCpuConfigIsNoHosts) {
  std::mt19937 random{7};
  const CpuConfig whole = any_features(random).to_cpu_config();
  EXPECT_EQ(misread(whole), "");
  EXPECT_EQ(misread({}), "leaf 0x0 subleaf 0x0 register ebx is not there");
  for (std::size_t index = 0; index < whole.cpuid.size(); ++index) {
    CpuConfig less = whole;
    less.cpuid.erase(less.cpuid.begin() + static_cast<std::ptrdiff_t>(index));
    EXPECT_NE(misread(less).find(" is not there"), std::string::npos) << misread(less);
    CpuConfig twice = whole;
    twice.cpuid.push_back(whole.cpuid[index]);
    EXPECT_NE(misread(twice).find(" is there twice"), std::string::npos) << misread(twice);
    CpuConfig partly = whole;
    partly.cpuid[index].bits.mask ^= 1U << 31;
    partly.cpuid[index].bits.value &= partly.cpuid[index].bits.mask;
    EXPECT_NE(misread(partly).find(" fixes bits "), std::string::npos) << misread(partly);
    CpuConfig flagged = whole;
    flagged.cpuid[index].flags ^= 1;
    EXPECT_NE(misread(flagged).find(" has flags "), std::string::npos) << misread(flagged);
  }
  CpuConfig more = whole;
  more.cpuid.push_back({.leaf = 0x16});
  EXPECT_EQ(misread(more), "leaf 0x16 subleaf 0x0 register eax is none that a host is described by");
  more = whole;
  more.msrs.push_back({.address = 0x1A0});
  EXPECT_EQ(misread(more), "MSR 0x1a0 is none that a host is described by");
  more = whole;
  more.capabilities.push_back({.number = 1});
  EXPECT_EQ(misread(more), "it has kvm_capabilities");
}

TEST(HostFeatures, ItsCapabilitiesAreThereAndWhole) {
  const auto shown =
      HostFeatures::of(Entries{entry_with(0, 0, kIntel), entry_with(7, 0, {0, 0, 0, 1U << 29})}, 1).to_cpu_config();
  CpuConfig config = shown;
  config.msrs.clear();
  EXPECT_EQ(misread(config), "MSR 0x10a is not there");
  config = shown;
  config.msrs.push_back(shown.msrs.front());
  EXPECT_EQ(misread(config), "MSR 0x10a is there twice");
  config = shown;
  config.msrs.front().bits.mask = 1;
  EXPECT_EQ(misread(config), "MSR 0x10a fixes bits 0x1, not 0xfffffffffffffff7");
}

}  // namespace
}  // namespace mayfly
