#include "vmm/devices/acpi_sleep_ports.h"

#include "tests/unit/vmm/devices/fakes.h"
#include "vmm/boot/layout.h"

#include <gtest/gtest.h>

namespace mayfly {
namespace {

// What the guest is told is where the device is, and what it takes.

using fakes::load;
using fakes::store;

constexpr std::uint8_t kSleepEnable = 1U << 5;
constexpr std::uint8_t kSoftOff = 5U << 2;

class AcpiSleepPortsTest : public ::testing::Test {
 protected:
  fakes::Signals signals_;
  AcpiSleepPorts sleep_{signals_};
};

TEST_F(AcpiSleepPortsTest, SleepEnableWithTypeFiveAsksForPowerOff) {
  store(sleep_, 0, kSleepEnable | kSoftOff);
  EXPECT_EQ(signals_.power_offs, 1U);
}

TEST_F(AcpiSleepPortsTest, NoOtherTypeAndNoTypeAloneDoes) {
  store(sleep_, 0, kSoftOff);
  for (unsigned type = 0; type < 8; ++type)
    if (type != layout::kSleepTypeOff) store(sleep_, 0, static_cast<std::uint8_t>(kSleepEnable | type << 2));
  EXPECT_EQ(signals_.power_offs, 0U);
}

TEST_F(AcpiSleepPortsTest, TheControlRegisterReadsBackItsTypeAndNeverSleepEnable) {
  store(sleep_, 0, 0xFF);
  EXPECT_EQ(load(sleep_, 0), 7U << 2);
}

TEST_F(AcpiSleepPortsTest, TheStatusRegisterNeverShowsAWake) {
  store(sleep_, 1, 0xFF);
  EXPECT_EQ(load(sleep_, 1), 0U);
  EXPECT_EQ(signals_.power_offs, 0U);
}

TEST_F(AcpiSleepPortsTest, ItsStateSurvives) {
  store(sleep_, 0, kSoftOff);
  AcpiSleepPorts restored{signals_};
  restored.restore(sleep_.state());
  EXPECT_EQ(restored.state(), sleep_.state());
  EXPECT_EQ(load(restored, 0), kSoftOff);
}

TEST_F(AcpiSleepPortsTest, AnyAccessIsSafe) {
  fakes::torment(sleep_, 1, 16, [](unsigned) {});
}

}  // namespace
}  // namespace mayfly
