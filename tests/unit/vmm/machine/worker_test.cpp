#include "vmm/machine/worker.h"

#include "tests/support/no_more_threads.h"
#include "tests/support/run_until.h"

#include <gtest/gtest.h>

namespace mayfly {
namespace {

TEST(ThreadWorker, WithoutThreadsNothingIsBegunAndTheNextJobIsDone) {
  auto loop = EventLoop::create();
  ASSERT_TRUE(loop);
  ThreadWorker worker{**loop};
  bool told = false;
  {
    const testing::NoMoreThreads none;
    const auto begun = worker.begin([](const std::stop_token&) { FAIL(); }, [] { FAIL(); });
    ASSERT_FALSE(begun);
    EXPECT_NE(begun.error().message.find("the host gives no more threads"), std::string::npos) << begun.error().message;
  }
  bool done = false;
  ASSERT_TRUE(worker.begin([&](const std::stop_token&) { done = true; }, [&] { told = true; }));
  testing::run_until(**loop, [&] { return told; });
  EXPECT_TRUE(done);
  (*loop)->close();
}

}  // namespace
}  // namespace mayfly
