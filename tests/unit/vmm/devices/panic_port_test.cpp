#include "vmm/devices/panic_port.h"

#include "tests/unit/vmm/devices/fakes.h"
#include "vmm/boot/layout.h"

#include <gtest/gtest.h>

namespace mayfly {
namespace {

// What the guest is told is where the device is.

using fakes::load;
using fakes::store;

class PanicPortTest : public ::testing::Test {
 protected:
  fakes::Signals signals_;
  PanicPort panic_{signals_};
};

TEST_F(PanicPortTest, TellsWhichEventsItUnderstands) { EXPECT_EQ(load(panic_, 0), 0b11); }

TEST_F(PanicPortTest, ReportsAPanic) {
  store(panic_, 0, 0b01);
  EXPECT_EQ(signals_.panics, 1U);
  EXPECT_EQ(signals_.crashes, 0U);
}

TEST_F(PanicPortTest, ReportsACrashKernel) {
  store(panic_, 0, 0b10);
  EXPECT_EQ(signals_.panics, 0U);
  EXPECT_EQ(signals_.crashes, 1U);
}

TEST_F(PanicPortTest, IgnoresOtherEvents) {
  store(panic_, 0, 0xFC);
  EXPECT_EQ(signals_.panics + signals_.crashes, 0U);
}

TEST_F(PanicPortTest, AnyAccessIsSafe) {
  fakes::torment(panic_, 1, 16, [](unsigned) {});
}

}  // namespace
}  // namespace mayfly
