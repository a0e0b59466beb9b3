#include "virtio/slot_pool.h"

#include <set>

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

}  // namespace
}  // namespace mayfly
