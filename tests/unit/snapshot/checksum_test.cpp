#include "snapshot/checksum.h"

#include <algorithm>
#include <cstddef>
#include <vector>

#include <gtest/gtest.h>

namespace mayfly {
namespace {

TEST(RunningChecksum, IsThatOfAllBytesHoweverTheyCome) {
  std::vector<std::byte> bytes(100'000);
  for (std::size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<std::byte>(i * 7);
  RunningChecksum sum;
  EXPECT_EQ(sum.sum(), checksum({}));
  for (const std::size_t piece : {1U, 240U, 4096U, 99'999U, 100'000U}) {
    sum.begin();
    for (std::size_t at = 0; at < bytes.size(); at += piece)
      sum.add(std::span{bytes}.subspan(at, std::min(piece, bytes.size() - at)));
    EXPECT_EQ(sum.sum(), checksum(bytes)) << piece;
  }
}

}  // namespace
}  // namespace mayfly
