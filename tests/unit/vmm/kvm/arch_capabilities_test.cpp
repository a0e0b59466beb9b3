#include "vmm/kvm/arch_capabilities.h"

#include <fmt/ranges.h>
#include <gtest/gtest.h>

namespace mayfly {
namespace {

std::string lacking_capabilities(std::uint64_t shown, std::uint64_t offered) {
  return fmt::format("{}", fmt::join(capabilities_lacking(shown, offered), ", "));
}

TEST(ArchCapabilities, WhatAGuestReliesOnIsNamedWhereAHostLacksIt) {
  EXPECT_EQ(lacking_capabilities(0x23, 0x23), "");
  EXPECT_EQ(lacking_capabilities(0x03, 0x23), "");
  EXPECT_EQ(lacking_capabilities(0x23, 0x02), "rdcl_no, mds_no");
  EXPECT_EQ(lacking_capabilities(1ULL << 62 | 1ULL << 40, 0), "MSR 0x10a bit 40, its_no");
}

TEST(ArchCapabilities, OfWeaknessesTheAbsenceIsReliedOn) {
  EXPECT_EQ(lacking_capabilities(1U << 2 | 1U << 19, 0), "");
  EXPECT_EQ(lacking_capabilities(0, 1U << 2 | 1U << 19), "no rsba, no rrsba");
}

TEST(ArchCapabilities, WhatIsForHypervisorsDoesNotCount) { EXPECT_EQ(lacking_capabilities(1U << 3, 0), ""); }

TEST(ArchCapabilities, WhatHostsHaveInCommonIsLackedByNone) {
  constexpr std::uint64_t kValues[] = {0,       ~0ULL,    0xC00E16D, 0x8000'0004'0008'0001,
                                       1U << 2, 1U << 19, 1U << 3,   0x5555'5555'5555'5555};
  for (const std::uint64_t a : kValues) {
    for (const std::uint64_t b : kValues) {
      const std::uint64_t both = common_capabilities(a, b);
      EXPECT_EQ(both, common_capabilities(b, a));
      EXPECT_EQ(both, common_capabilities(both, a));
      EXPECT_EQ(lacking_capabilities(both, a), "");
      EXPECT_EQ(lacking_capabilities(both, b), "");
    }
  }
}

TEST(ArchCapabilities, CpuidTellsWhetherThereAreAny) {
  kvm_cpuid_entry2 features{};
  features.function = 7;
  EXPECT_FALSE(shows_capabilities({}));
  EXPECT_FALSE(shows_capabilities({&features, 1}));
  features.edx = 1U << 29;
  EXPECT_TRUE(shows_capabilities({&features, 1}));
}

}  // namespace
}  // namespace mayfly
