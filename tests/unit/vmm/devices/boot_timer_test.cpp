#include "vmm/devices/boot_timer.h"

#include "tests/unit/vmm/devices/fakes.h"

#include <gtest/gtest.h>

namespace mayfly {
namespace {

using fakes::load;
using fakes::store;

class BootTimerTest : public ::testing::Test {
 protected:
  fakes::Signals signals_;
  BootTimer timer_{signals_};
};

TEST_F(BootTimerTest, ReportsTheFirstWriteOf123Only) {
  store(timer_, 0, 122);
  EXPECT_EQ(signals_.boots, 0U);
  store(timer_, 0, 123);
  store(timer_, 0, 123);
  EXPECT_EQ(signals_.boots, 1U);
}

TEST_F(BootTimerTest, ReadsAsAnEmptyPort) { EXPECT_EQ(load<std::uint32_t>(timer_, 0), 0xFFFF'FFFFU); }

TEST_F(BootTimerTest, ARestoredGuestReportsOnceMore) {
  store(timer_, 0, 123);
  EXPECT_TRUE(timer_.state().reported);
  BootTimer restored{signals_};
  store(restored, 0, 123);
  store(restored, 0, 123);
  EXPECT_EQ(signals_.boots, 2U);
}

TEST_F(BootTimerTest, AGuestThatHasGoneBackReportsOnceMore) {
  store(timer_, 0, 123);
  timer_.forget();
  store(timer_, 0, 123);
  store(timer_, 0, 123);
  EXPECT_EQ(signals_.boots, 2U);
}

TEST_F(BootTimerTest, AnyAccessIsSafe) {
  fakes::torment(timer_, 1, 16, [](unsigned) {});
  EXPECT_LE(signals_.boots, 1U);
}

}  // namespace
}  // namespace mayfly
