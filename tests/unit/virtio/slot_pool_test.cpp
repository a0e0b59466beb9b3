#include "virtio/slot_pool.h"

#include <cinttypes>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <set>
#include <string>

#include <gtest/gtest.h>

namespace mayfly {
namespace {

struct Counted {
  explicit Counted(int& alive_in) noexcept : alive(alive_in) { ++alive; }
  Counted(const Counted&) = delete;
  Counted& operator=(const Counted&) = delete;
  ~Counted() { --alive; }
  int& alive;
  Counted* next = nullptr;
};

TEST(SlotPool, GivesEachSlotOnceUntilAllAreInUse) {
  int alive = 0;
  {
    SlotPool<Counted, 3> pool;
    ASSERT_TRUE(pool.reserve());
    EXPECT_TRUE(pool.made().empty());
    std::set<Counted*> taken;
    std::set<std::size_t> indices;
    for (int i = 0; i < 3; ++i) {
      Counted* const slot = pool.take(alive);
      ASSERT_NE(slot, nullptr);
      taken.insert(slot);
      indices.insert(pool.index_of(*slot));
    }
    EXPECT_EQ(taken.size(), 3U);
    EXPECT_EQ(indices, (std::set<std::size_t>{0, 1, 2}));
    EXPECT_EQ(pool.take(alive), nullptr);
    EXPECT_EQ(pool.in_use(), 3U);
    EXPECT_EQ(alive, 3);
  }
  EXPECT_EQ(alive, 0);
}

TEST(SlotPool, TakesTheSlotThatWasUsedLastAndMakesNoMoreThanTheDepth) {
  int alive = 0;
  SlotPool<Counted, 8> pool;
  ASSERT_TRUE(pool.reserve());
  Counted* const first = pool.take(alive);
  Counted* const second = pool.take(alive);
  for (int i = 0; i < 100; ++i) {
    pool.give_back(*second);
    EXPECT_EQ(pool.take(alive), second);
  }
  EXPECT_EQ(alive, 2);
  pool.give_back(*second);
  pool.give_back(*first);
  EXPECT_EQ(pool.take(alive), first);
  EXPECT_EQ(pool.take(alive), second);
  EXPECT_EQ(pool.in_use(), 2U);
}

/// The flags of the mapping that holds the address: VmFlags of proc(5)'s smaps.
std::string flags_of_mapping(const void* address) {
  std::ifstream smaps{"/proc/self/smaps"};
  bool here = false;
  for (std::string line; std::getline(smaps, line);) {
    std::uintptr_t begin = 0;
    std::uintptr_t end = 0;
    if (std::sscanf(line.c_str(), "%" SCNxPTR "-%" SCNxPTR " ", &begin, &end) == 2)
      here = begin <= reinterpret_cast<std::uintptr_t>(address) && reinterpret_cast<std::uintptr_t>(address) < end;
    if (here && line.starts_with("VmFlags:")) return line + ' ';
  }
  return {};
}

TEST(SlotPool, TakesNoHugePages) {
  if (!std::filesystem::exists("/sys/kernel/mm/transparent_hugepage")) return;  // nobody gives any
  int alive = 0;
  SlotPool<Counted, 1 << 18> pool;
  ASSERT_TRUE(pool.reserve());
  const std::string flags = flags_of_mapping(pool.take(alive));
  EXPECT_NE(flags.find(" nh "), std::string::npos) << flags;
}

}  // namespace
}  // namespace mayfly
