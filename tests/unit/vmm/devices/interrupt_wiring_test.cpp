#include "vmm/devices/interrupt_wiring.h"

#include "tests/unit/vmm/devices/fakes.h"
#include "vmm/boot/layout.h"

#include <gtest/gtest.h>

namespace mayfly {
namespace {

class InterruptWiringTest : public ::testing::Test {
 protected:
  /// IRR of both chips, the slave's in the high byte.
  unsigned asked() { return chip(0) | static_cast<unsigned>(chip(1)) << 8U; }
  std::uint8_t chip(std::size_t index) const { return pic_.state().chips[index].edges; }

  fakes::Messages messages_;
  Ioapic ioapic_{messages_};
  DualPic pic_;
  InterruptWiring wiring_{ioapic_, pic_};
};

TEST_F(InterruptWiringTest, ALineGoesToBothControllers) {
  InterruptLine{wiring_, layout::kSerialGsi}.set(true);
  EXPECT_EQ(ioapic_.state().levels, 1U << 4);
  EXPECT_EQ(asked(), 1U << 4);
  InterruptLine{wiring_, 10}.pulse();
  EXPECT_EQ(asked(), 1U << 4 | 1U << 10);
}

TEST_F(InterruptWiringTest, TheTimerIsInputZeroOfThePic) {
  InterruptLine{wiring_, layout::kTimerGsi}.set(true);
  EXPECT_EQ(ioapic_.state().levels, 1U << 2);
  EXPECT_EQ(asked(), 1U);
  InterruptLine{wiring_, 0}.set(true);
  EXPECT_EQ(asked(), 1U) << "pin 0 is the IOAPIC's alone";
}

TEST_F(InterruptWiringTest, LinesFromSixteenOnAreTheIoapicsAlone) {
  InterruptLine{wiring_, 16}.set(true);
  EXPECT_EQ(ioapic_.state().levels, 1U << 16);
  EXPECT_EQ(asked(), 0U);
  EXPECT_FALSE(wiring_.pic_line(16));
}

TEST_F(InterruptWiringTest, ADeviceThatKvmInterruptsForReachesThePicByALineOfItsOwn) {
  const auto line = wiring_.pic_line(5);
  ASSERT_TRUE(line);
  line->pulse();
  EXPECT_EQ(asked(), 1U << 5);
  EXPECT_EQ(ioapic_.state().levels, 0U);
}

}  // namespace
}  // namespace mayfly
