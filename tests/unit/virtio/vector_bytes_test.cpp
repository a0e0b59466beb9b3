#include "virtio/vector_bytes.h"

#include <array>
#include <string>
#include <string_view>
#include <vector>

#include <gtest/gtest.h>

namespace mayfly {
namespace {

/// "abc", "d", "efgh".
struct Pieces {
  std::string one = "abc", two = "d", three = "efgh";
  std::array<iovec, 3> vectors = {iovec{one.data(), 3}, iovec{two.data(), 1}, iovec{three.data(), 4}};
  [[nodiscard]] std::string all() const { return one + two + three; }
};

std::string text(std::span<const iovec> vectors) {
  std::string all;
  for (const iovec& vector : vectors) all.append(static_cast<const char*>(vector.iov_base), vector.iov_len);
  return all;
}

TEST(VectorBytes, ACopyRunsOverTheBordersOfBuffers) {
  const Pieces pieces;
  std::string copy(6, '.');
  EXPECT_EQ(copy_from(pieces.vectors, std::as_writable_bytes(std::span{copy})), 6u);
  EXPECT_EQ(copy, "abcdef");
}

TEST(VectorBytes, ACopyEndsWhereTheBuffersEnd) {
  const Pieces pieces;
  std::string copy(10, '.');
  EXPECT_EQ(copy_from(pieces.vectors, std::as_writable_bytes(std::span{copy})), 8u);
  EXPECT_EQ(copy, "abcdefgh..");
}

TEST(VectorBytes, BytesAreWrittenAtAnyPlace) {
  for (std::size_t at = 0; at <= 9; ++at) {
    Pieces pieces;
    const std::string_view written = "XYZ";
    std::string expected = pieces.all();
    const std::size_t room = std::min<std::size_t>(3, at < 8 ? 8 - at : 0);
    for (std::size_t i = 0; i < room; ++i) expected[at + i] = written[i];
    EXPECT_EQ(copy_to(pieces.vectors, at, std::as_bytes(std::span{written})), room) << at;
    EXPECT_EQ(pieces.all(), expected) << at;
  }
}

TEST(VectorBytes, TheFrontIsDroppedByteByByteAndBufferByBuffer) {
  for (std::size_t length = 0; length <= 9; ++length) {
    Pieces pieces;
    const auto rest = drop_front(pieces.vectors, length);
    EXPECT_EQ(text(rest), pieces.all().substr(std::min<std::size_t>(length, 8))) << length;
    for (const iovec& vector : rest) EXPECT_GT(vector.iov_len, 0u);
  }
}

}  // namespace
}  // namespace mayfly
