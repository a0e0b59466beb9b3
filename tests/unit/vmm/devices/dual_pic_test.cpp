#include "vmm/devices/dual_pic.h"

#include "tests/unit/vmm/devices/fakes.h"

#include <gtest/gtest.h>

namespace mayfly {
namespace {

using fakes::load;
using fakes::store;

class DualPicTest : public ::testing::Test {
 protected:
  DualPicTest() {
    EXPECT_TRUE(ports_.attach("master", kMasterPicPort, kPicPortCount, pic_));
    EXPECT_TRUE(ports_.attach("slave", kSlavePicPort, kPicPortCount, pic_.slave_ports()));
    EXPECT_TRUE(ports_.attach("trigger", kPicTriggerPort, kPicPortCount, pic_.trigger_ports()));
  }
  void out(std::uint64_t port, std::uint8_t value) { EXPECT_TRUE(ports_.write(port, std::array{std::byte{value}})); }
  std::uint8_t in(std::uint64_t port) {
    std::array<std::byte, 1> data{};
    EXPECT_TRUE(ports_.read(port, data));
    return std::to_integer<std::uint8_t>(data[0]);
  }

  DualPic pic_;
  Bus ports_;
};

TEST_F(DualPicTest, AProbeThatWritesTheMaskReadsItBack) {
  out(0xA1, 0xFF);
  out(0x21, 0xFB);
  EXPECT_EQ(in(0x21), 0xFB);
  EXPECT_EQ(in(0xA1), 0xFF);
}

TEST_F(DualPicTest, TheInitializationSequenceIsNotTakenForMasks) {
  out(0x21, 0xAA);
  out(0x20, 0x11);
  EXPECT_EQ(in(0x21), 0x00) << "ICW1 clears the mask";
  out(0x21, 0x30);
  out(0x21, 0x04);
  out(0x21, 0x01);
  EXPECT_EQ(in(0x21), 0x00);
  out(0x21, 0x5A);
  EXPECT_EQ(in(0x21), 0x5A);
  const PicState master = pic_.state().chips[0];
  EXPECT_EQ(master.vector_base, 0x30);
  EXPECT_EQ(master.cascade, 0x04);
  EXPECT_EQ(master.mode, 0x01);
}

TEST_F(DualPicTest, ASingleChipHasNoThirdWordAndNeedNotHaveAFourth) {
  out(0xA0, 0x12);
  out(0xA1, 0x38);
  out(0xA1, 0x77);
  EXPECT_EQ(in(0xA1), 0x77);
  out(0xA0, 0x13);
  out(0xA1, 0x38);
  out(0xA1, 0x01);
  EXPECT_EQ(pic_.state().chips[1].mode, 0x01);
  out(0xA1, 0x66);
  EXPECT_EQ(in(0xA1), 0x66);
}

TEST_F(DualPicTest, NothingIsEverPendingOrInService) {
  for (const std::uint8_t word :
       std::to_array<std::uint8_t>({0x0A, 0x0B, 0x0C, 0x20, 0x60, 0xC7})) {  // read IRR, read ISR, poll, three EOIs
    out(0x20, word);
    out(0xA0, word);
    EXPECT_EQ(in(0x20), 0) << int{word};
    EXPECT_EQ(in(0xA0), 0) << int{word};
  }
}

TEST_F(DualPicTest, TriggerModesOfFixedEdgesCannotBeChanged) {
  out(0x4D0, 0xFF);
  out(0x4D1, 0xFF);
  EXPECT_EQ(in(0x4D0), 0xF8);
  EXPECT_EQ(in(0x4D1), 0xDE);
  out(0x20, 0x11);
  EXPECT_EQ(in(0x4D0), 0xF8) << "initialization leaves it";
}

TEST_F(DualPicTest, ItsStateSurvivesInTheMiddleOfASequence) {
  out(0x4D0, 0x20);
  out(0xA1, 0x42);
  out(0x20, 0x11);
  out(0x21, 0x30);
  DualPic restored;
  restored.restore(pic_.state());
  EXPECT_EQ(restored.state(), pic_.state());
  store(restored, 1, 0x04);
  store(restored, 1, 0x01);
  store(restored, 1, 0x99);
  EXPECT_EQ(load(restored, 1), 0x99);
}

TEST_F(DualPicTest, AnyAccessIsSafe) {
  fakes::torment(pic_, 1, 0x500, [](unsigned) {});
  fakes::torment(pic_.slave_ports(), 2, 16, [](unsigned) {});
  fakes::torment(pic_.trigger_ports(), 3, 16, [](unsigned) {});
}

}  // namespace
}  // namespace mayfly
