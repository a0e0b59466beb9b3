#include "vmm/io/signals.h"

#include "tests/support/files.h"

#include <pthread.h>

#include <csignal>

#include <gtest/gtest.h>

namespace mayfly {
namespace {

/// Blocks the signals as main() does, for this test alone.
class StopSignalsTest : public ::testing::Test {
 protected:
  void SetUp() override {
    ASSERT_EQ(::pthread_sigmask(SIG_BLOCK, nullptr, &before_), 0);
    ASSERT_TRUE(StopSignals::block());
    auto loop = EventLoop::create();
    ASSERT_TRUE(loop) << loop.error().message;
    loop_ = std::move(*loop);
  }
  void TearDown() override { ::pthread_sigmask(SIG_SETMASK, &before_, nullptr); }

  sigset_t before_{};
  std::unique_ptr<EventLoop> loop_;
};

TEST_F(StopSignalsTest, TellsTheNumberOfEachSignal) {
  std::vector<int> told;
  auto signals = StopSignals::watch(*loop_, [&](int number) {
    told.push_back(number);
    loop_->stop();
  });
  ASSERT_TRUE(signals);
  ASSERT_EQ(::pthread_kill(::pthread_self(), SIGTERM), 0);
  ASSERT_TRUE(loop_->run());
  EXPECT_EQ(told, std::vector{SIGTERM});
}

}  // namespace
}  // namespace mayfly
