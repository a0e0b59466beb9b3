#include "vmm/standby_thread.h"

#include <atomic>

#include <gtest/gtest.h>

namespace mayfly {
namespace {

TEST(StandbyThread, IsReadyBeforeItsWorkIsGivenAndThenDoesIt) {
  std::atomic<bool> ready{false};
  std::atomic<bool> done{false};
  std::thread::id where;
  auto standby = StandbyThread::start([&ready] {
    ready = true;
    ready.notify_all();
  });
  ASSERT_TRUE(standby);
  ready.wait(false);
  std::thread thread = std::move(*standby).begin([&] {
    where = std::this_thread::get_id();
    done = true;
  });
  const std::thread::id announced = thread.get_id();
  thread.join();
  EXPECT_TRUE(done);
  EXPECT_EQ(where, announced);
}

TEST(StandbyThread, EndsWithItsOwnerWithoutWork) {
  auto standby = StandbyThread::start([] {});
  ASSERT_TRUE(standby);
  const StandbyThread moved = std::move(*standby);
}

}  // namespace
}  // namespace mayfly
