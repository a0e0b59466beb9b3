#include "vmm/kvm/vcpu_snapshot.h"

#include <algorithm>

#include <gtest/gtest.h>

namespace mayfly {
namespace {

using Indices = std::vector<std::uint32_t>;

bool has(const Indices& indices, std::uint32_t index) { return std::ranges::find(indices, index) != indices.end(); }

TEST(KeptMsrs, WhatKvmListsAndWhatWasSetByUsIsAlwaysKept) {
  const Indices listed{0x10, 0x277, 0x174};
  const Indices others{0x2FF, 0x1A0, 0x277, 0xC001'0141};
  const KeptMsrs kept = kept_msrs(listed, others);
  EXPECT_EQ(kept.always, (Indices{0x10, 0x277, 0x174, 0x2FF, 0x1A0, 0xC001'0141}));
}

TEST(KeptMsrs, NoRegisterIsThereTwice) {
  const Indices others{0x2FF, 0x200, 0x2FF};
  const KeptMsrs kept = kept_msrs(Indices{0x174, 0x400}, others);
  Indices all = kept.always;
  all.insert(all.end(), kept.where_set.begin(), kept.where_set.end());
  std::ranges::sort(all);
  EXPECT_EQ(std::ranges::adjacent_find(all), all.end());
}

TEST(KeptMsrs, MtrrsAndMachineCheckBanksAreKeptWhereTheyAreSet) {
  const KeptMsrs kept = kept_msrs(Indices{0x10}, Indices{});
  for (std::uint32_t index = 0x200; index <= 0x20F; ++index) EXPECT_TRUE(has(kept.where_set, index)) << index;
  for (const std::uint32_t index : {0x250U, 0x258U, 0x259U, 0x268U, 0x26FU, 0x2FFU, 0x400U, 0x47FU})
    EXPECT_TRUE(has(kept.where_set, index)) << index;
  for (const std::uint32_t index : {0x210U, 0x25AU, 0x270U, 0x480U}) EXPECT_FALSE(has(kept.where_set, index)) << index;
}

}  // namespace
}  // namespace mayfly
