#include "virtio/rate_limiter.h"

#include "tests/support/run_until.h"
#include "vmm/base/clock.h"

#include <gtest/gtest.h>

namespace mayfly {
namespace {

constexpr std::uint64_t kMs = 1'000'000;

class RateLimiterTest : public ::testing::Test {
 protected:
  RateLimiterTest() {
    auto made = EventLoop::create();
    if (!made) throw std::runtime_error(made.error().message);
    loop_ = std::move(*made);
  }
  void make(const std::optional<RateLimiterConfig>& config) {
    auto made = RateLimiter::create(*loop_, config, [this] { retried_ = true; });
    ASSERT_TRUE(made) << made.error().message;
    limiter_ = std::move(*made);
  }
  void wait_for_retry() {
    retried_ = false;
    testing::run_until(*loop_, [this] { return retried_; });
  }
  std::unique_ptr<EventLoop> loop_;
  std::unique_ptr<RateLimiter> limiter_;
  bool retried_ = false;
};

TEST_F(RateLimiterTest, WithoutLimitsEverythingGoes) {
  make(std::nullopt);
  for (int i = 0; i < 1000; ++i) ASSERT_TRUE(limiter_->admit(UINT64_MAX));
  EXPECT_TRUE(limiter_->open());
}

TEST_F(RateLimiterTest, RefusesWhatIsOverEitherLimitAndTakesNothingThen) {
  make(RateLimiterConfig{.bandwidth = TokenBucketConfig{.size = 1000, .refill_time_ms = 3'600'000},
                         .ops = TokenBucketConfig{.size = 2, .refill_time_ms = 3'600'000}});
  EXPECT_TRUE(limiter_->admit(600));
  EXPECT_FALSE(limiter_->admit(600)) << "bytes";
  EXPECT_TRUE(limiter_->admit(400)) << "the refused one took neither";
  EXPECT_FALSE(limiter_->admit(0)) << "operations";
}

TEST_F(RateLimiterTest, WhatWaitsForBandwidthSpendsNoneOfTheOperationsBurst) {
  make(RateLimiterConfig{.bandwidth = TokenBucketConfig{.size = 1000, .refill_time_ms = 3'600'000},
                         .ops = TokenBucketConfig{.size = 2, .refill_time_ms = 3'600'000, .one_time_burst = 3}});
  EXPECT_TRUE(limiter_->admit(1000));
  for (int i = 0; i < 3; ++i) EXPECT_FALSE(limiter_->admit(1000));
  limiter_->update({.bandwidth = TokenBucketConfig{}, .ops = {}});
  for (int i = 0; i < 4; ++i) EXPECT_TRUE(limiter_->admit(1000)) << "operation " << i;
  EXPECT_FALSE(limiter_->admit(1000));
}

TEST_F(RateLimiterTest, TellsWhenItIsWorthTryingAgain) {
  make(RateLimiterConfig{.bandwidth = TokenBucketConfig{.size = 1000, .refill_time_ms = 20}, .ops = {}});
  ASSERT_TRUE(limiter_->admit(1000));
  const std::uint64_t begin = monotonic_ns();
  ASSERT_FALSE(limiter_->admit(500));
  wait_for_retry();
  EXPECT_GE(monotonic_ns() - begin, 9 * kMs);
  EXPECT_TRUE(limiter_->admit(500));
}

TEST_F(RateLimiterTest, OverTimeTheRateIsExact) {
  make(RateLimiterConfig{.bandwidth = TokenBucketConfig{.size = 1000, .refill_time_ms = 10}, .ops = {}});
  ASSERT_TRUE(limiter_->admit(1000));  // what the bucket starts with
  const std::uint64_t begin = monotonic_ns();
  std::uint64_t taken = 0;
  while (taken < 20'000) {
    if (limiter_->admit(250))
      taken += 250;
    else
      wait_for_retry();
  }
  // 100 bytes a millisecond: never faster, whatever the host does; how much slower is the host's load.
  const std::uint64_t earned = (monotonic_ns() - begin) * 1000 / (10 * kMs);
  EXPECT_LE(taken, earned + earned / 50 + 1);
}

TEST_F(RateLimiterTest, WhatIsSpentAfterwardsIsPaidBackFirst) {
  make(RateLimiterConfig{.bandwidth = TokenBucketConfig{.size = 1000, .refill_time_ms = 10}, .ops = {}});
  ASSERT_TRUE(limiter_->open());
  limiter_->spend(3000);
  const std::uint64_t begin = monotonic_ns();
  EXPECT_FALSE(limiter_->open());
  wait_for_retry();
  EXPECT_GE(monotonic_ns() - begin, 19 * kMs);
  EXPECT_TRUE(limiter_->open());
}

TEST_F(RateLimiterTest, AWaitOfCenturiesDoesNotEndAtOnce) {
  make(RateLimiterConfig{.bandwidth = TokenBucketConfig{.size = 1, .refill_time_ms = UINT64_MAX}, .ops = {}});
  limiter_->spend(UINT64_MAX);
  ASSERT_FALSE(limiter_->open());
  bool passed = false;
  auto later = LoopTimer::create(*loop_, [&] { passed = true; });
  ASSERT_TRUE(later);
  (*later)->listen();
  (*later)->arm(monotonic_ns() + 5 * kMs);
  testing::run_until(*loop_, [&] { return passed; });
  EXPECT_FALSE(retried_);
}

TEST_F(RateLimiterTest, AnUpdateIsToldToWhoeverWaits) {
  make(RateLimiterConfig{.bandwidth = TokenBucketConfig{.size = 10, .refill_time_ms = 3'600'000}, .ops = {}});
  ASSERT_TRUE(limiter_->admit(10));
  ASSERT_FALSE(limiter_->admit(10));
  limiter_->update({.bandwidth = TokenBucketConfig{}, .ops = {}});  // size 0: no limit
  wait_for_retry();
  EXPECT_TRUE(limiter_->admit(UINT64_MAX));
}

TEST_F(RateLimiterTest, WhatIsGivenBackIsToldToWhoeverWaits) {
  make(RateLimiterConfig{.bandwidth = TokenBucketConfig{.size = 10, .refill_time_ms = 3'600'000}, .ops = {}});
  const auto payment = limiter_->admit(10);
  ASSERT_TRUE(payment);
  ASSERT_FALSE(limiter_->admit(10));
  limiter_->give_back(*payment, 10);
  wait_for_retry();
  EXPECT_TRUE(limiter_->admit(10));
}

TEST_F(RateLimiterTest, WhatIsGivenBackGoesWhereItCameFrom) {
  make(RateLimiterConfig{
      .bandwidth = TokenBucketConfig{.size = 100, .refill_time_ms = 86'400'000'000, .one_time_burst = 30}, .ops = {}});
  const auto payment = limiter_->admit(50);
  ASSERT_TRUE(payment);
  const auto bucket = [this] { return limiter_->state().bandwidth.value(); };
  EXPECT_EQ(bucket().budget, 80U);
  EXPECT_EQ(bucket().burst, 0U);
  limiter_->give_back(*payment, 15);
  EXPECT_EQ(bucket().budget, 95U);
  EXPECT_EQ(bucket().burst, 0U);
  ASSERT_TRUE(limiter_->admit(15));
  limiter_->give_back(*payment, 50);
  EXPECT_EQ(bucket().budget, 100U);
  EXPECT_EQ(bucket().burst, 30U);
}

TEST_F(RateLimiterTest, ABucketThatReplacesTheOneThatWasPaidTakesNothingBack) {
  const TokenBucketConfig config{.size = 100, .refill_time_ms = 86'400'000'000, .one_time_burst = 30};
  make(RateLimiterConfig{.bandwidth = config, .ops = {}});
  const auto payment = limiter_->admit(50);
  ASSERT_TRUE(payment);
  limiter_->update({.bandwidth = config, .ops = {}});
  ASSERT_TRUE(limiter_->admit(60));
  limiter_->give_back(*payment, 50);
  EXPECT_EQ(limiter_->state().bandwidth->budget, 70U);
  EXPECT_EQ(limiter_->state().bandwidth->burst, 0U);
}

TEST_F(RateLimiterTest, AnAbsentBucketOfAnUpdateStaysAsItWas) {
  make(RateLimiterConfig{.bandwidth = {}, .ops = TokenBucketConfig{.size = 1, .refill_time_ms = 3'600'000}});
  ASSERT_TRUE(limiter_->admit(1));
  limiter_->update({.bandwidth = TokenBucketConfig{.size = 100, .refill_time_ms = 1000}, .ops = {}});
  EXPECT_FALSE(limiter_->admit(1));
}

TEST_F(RateLimiterTest, WhatIsLeftSurvivesASnapshot) {
  const RateLimiterConfig config{.bandwidth = TokenBucketConfig{.size = 1000, .refill_time_ms = 3'600'000}, .ops = {}};
  make(config);
  ASSERT_TRUE(limiter_->admit(900));
  const RateLimiterState state = limiter_->state();
  make(config);
  limiter_->restore(state);
  EXPECT_FALSE(limiter_->admit(200));
  EXPECT_TRUE(limiter_->admit(100));
}

}  // namespace
}  // namespace mayfly
