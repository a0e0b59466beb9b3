#include "vmm/io/signals.h"

#include "tests/support/files.h"

#include <poll.h>
#include <pthread.h>
#include <sys/eventfd.h>

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

// The end of a machine waits until its vCPUs are parked; one of them may wait for a completion that came in one batch
// with the signal.
TEST_F(StopSignalsTest, WhoIsToldMayWaitForACompletionOfTheSameBatch) {
  const OwnedFd event{::eventfd(1, EFD_CLOEXEC | EFD_NONBLOCK)};
  bool came = false;
  CallbackOperation other{[&](int, bool) { came = true; }};
  auto signals = StopSignals::watch(*loop_, [&](int) {
    loop_->serve_until([&] { return came; });
    loop_->stop();
  });
  ASSERT_TRUE(signals);
  ASSERT_EQ(::pthread_kill(::pthread_self(), SIGTERM), 0);
  loop_->poll_once(event.get(), POLLIN, other);  // after the signal's, and both are ready when they are submitted
  ASSERT_TRUE(loop_->run());
  EXPECT_TRUE(came);
}

}  // namespace
}  // namespace mayfly
