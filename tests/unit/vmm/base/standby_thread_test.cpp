#include "vmm/base/standby_thread.h"

#include <chrono>
#include <semaphore>

#include <gtest/gtest.h>

namespace mayfly {
namespace {

TEST(StandbyThread, IsReadyBeforeItsWorkIsGivenAndThenDoesIt) {
  std::binary_semaphore ready{0};
  std::thread::id prepared;
  std::thread::id worked;
  auto standby = StandbyThread::start([&] {
    prepared = std::this_thread::get_id();
    ready.release();
  });
  ASSERT_TRUE(standby);
  ASSERT_TRUE(ready.try_acquire_for(std::chrono::seconds{60}));
  std::thread thread = std::move(*standby).begin([&] { worked = std::this_thread::get_id(); });
  const std::thread::id announced = thread.get_id();
  thread.join();
  EXPECT_EQ(prepared, announced);
  EXPECT_EQ(worked, announced);
}

TEST(StandbyThread, EndsWithItsOwnerWithoutWork) {
  auto standby = StandbyThread::start([] {});
  ASSERT_TRUE(standby);
  const StandbyThread moved = std::move(*standby);
}

}  // namespace
}  // namespace mayfly
