#include "vmm/base/zeros.h"

#include <vector>

#include <gtest/gtest.h>

namespace mayfly {
namespace {

TEST(Zeros, AreSeenWhereverABlockHasAnother) {
  for (const std::size_t size : {0U, 1U, 7U, 8U, 9U, 4096U}) {
    std::vector<std::byte> block(size);
    EXPECT_TRUE(is_all_zeros(block)) << size;
    for (std::byte& each : block) {
      each = std::byte{1};
      EXPECT_FALSE(is_all_zeros(block)) << size;
      each = std::byte{0};
    }
  }
}

}  // namespace
}  // namespace mayfly
