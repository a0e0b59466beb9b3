#include "vmm/devices/bus.h"

#include <array>

#include <gtest/gtest.h>

namespace mayfly {
namespace {

/// Remembers the last access, and answers loads with a constant.
class Recorder : public BusDevice {
 public:
  explicit Recorder(std::byte answer) : answer_(answer) {}
  void read(std::uint64_t offset, std::span<std::byte> data) override {
    last_offset = offset;
    std::ranges::fill(data, answer_);
  }
  void write(std::uint64_t offset, std::span<const std::byte> data) override {
    last_offset = offset;
    written.assign(data.begin(), data.end());
  }
  std::uint64_t last_offset = ~0ULL;
  std::vector<std::byte> written;

 private:
  std::byte answer_;
};

class BusTest : public ::testing::Test {
 protected:
  Recorder low_{std::byte{0x11}};
  Recorder high_{std::byte{0x22}};
  Bus bus_;
};

TEST_F(BusTest, RoutesAnAccessToTheDeviceAndItsOffset) {
  ASSERT_TRUE(bus_.attach("high", 0x2000, 0x10, high_));
  ASSERT_TRUE(bus_.attach("low", 0x1000, 8, low_));
  std::array<std::byte, 2> data{};
  EXPECT_TRUE(bus_.read(0x1006, data));
  EXPECT_EQ(low_.last_offset, 6U);
  EXPECT_EQ(data[1], std::byte{0x11});
  EXPECT_TRUE(bus_.write(0x200F, std::array{std::byte{7}}));
  EXPECT_EQ(high_.last_offset, 15U);
  EXPECT_EQ(high_.written, std::vector{std::byte{7}});
}

TEST_F(BusTest, ALoadWithoutADeviceReadsAllOnes) {
  ASSERT_TRUE(bus_.attach("low", 0x1000, 8, low_));
  for (const std::uint64_t address : {0ULL, 0xFFFULL, 0x1008ULL, ~0ULL - 3}) {
    std::array<std::byte, 4> data{};
    EXPECT_FALSE(bus_.read(address, data)) << address;
    EXPECT_EQ(data[0], std::byte{0xFF});
    EXPECT_EQ(data[3], std::byte{0xFF});
  }
  EXPECT_FALSE(bus_.write(0x1008, std::array{std::byte{1}}));
}

TEST_F(BusTest, AnAccessThatLeavesTheDeviceIsRefusedWhole) {
  ASSERT_TRUE(bus_.attach("low", 0x1000, 8, low_));
  std::array<std::byte, 4> data{};
  EXPECT_FALSE(bus_.read(0x1006, data));
  EXPECT_EQ(low_.last_offset, ~0ULL);
}

TEST_F(BusTest, RefusesEmptyWrappingAndOverlappingRanges) {
  ASSERT_TRUE(bus_.attach("low", 0x1000, 0x10, low_));
  EXPECT_FALSE(bus_.attach("empty", 0x3000, 0, high_));
  EXPECT_FALSE(bus_.attach("wraps", ~0ULL - 1, 4, high_));
  for (const std::uint64_t base : {0xFFFULL, 0x1000ULL, 0x100FULL}) {
    const auto overlapping = bus_.attach("second", base, 2, high_);
    ASSERT_FALSE(overlapping) << base;
    EXPECT_NE(overlapping.error().message.find("overlap low"), std::string::npos) << overlapping.error().message;
  }
  EXPECT_TRUE(bus_.attach("after", 0x1010, 1, high_));
  EXPECT_TRUE(bus_.attach("before", 0xFFF, 1, high_));
  EXPECT_TRUE(bus_.attach("last", ~0ULL, 1, high_));
}

}  // namespace
}  // namespace mayfly
