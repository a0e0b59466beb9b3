#include "vmm/base/newest_bytes.h"

#include <gtest/gtest.h>

namespace mayfly {
namespace {

TEST(NewestBytes, NeverLetsAFileTakeMoreAndKeepsNearlyHalf) {
  NewestBytes kept{kLeastBound};
  std::uint64_t end = 0;
  std::uint64_t first = 0;
  unsigned holes = 0;
  for (const std::uint64_t piece : {1ULL, 4095ULL, 65536ULL, 100ULL})
    for (int i = 0; i < 1000; ++i) {
      if (const auto range = kept.to_free(end, piece)) {
        EXPECT_EQ(range->offset, first);
        EXPECT_EQ(range->length % 4096, 0U);
        first = range->offset + range->length;
        EXPECT_LE(first, end);
        EXPECT_GE(end - first, kLeastBound / 2 - 4096);
        kept.freed(*range);
        ++holes;
      }
      end += piece;
      ASSERT_LE(end - first, kLeastBound) << "after " << end;
    }
  EXPECT_GT(holes, 500U);
  EXPECT_LT(holes, 1500U) << "not one for each small write";
}

TEST(NewestBytes, FreesAllThatAnEarlierWriterLeftBeyondTheLimit) {
  NewestBytes kept{kLeastBound};
  const auto range = kept.to_free(std::uint64_t{1} << 40, 1);
  ASSERT_TRUE(range);
  EXPECT_EQ(range->offset, 0U);
  EXPECT_GT(range->length, (std::uint64_t{1} << 40) - kLeastBound);
}

TEST(NewestBytes, BeginsAnewInAFileThatWasTruncated) {
  NewestBytes kept{kLeastBound};
  kept.freed({.offset = 0, .length = 1 << 20});
  EXPECT_TRUE(kept.has_room(100, 1));
  EXPECT_FALSE(kept.to_free(100, 1)) << "its newest bytes are at the beginning";
  EXPECT_FALSE(kept.to_free(kLeastBound - 1, 1));
  EXPECT_TRUE(kept.to_free(kLeastBound, 1));
}

}  // namespace
}  // namespace mayfly
