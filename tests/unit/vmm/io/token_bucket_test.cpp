#include "vmm/io/token_bucket.h"

#include <algorithm>
#include <limits>
#include <random>

#include <gtest/gtest.h>

namespace mayfly {
namespace {

constexpr std::uint64_t kMs = 1'000'000;
constexpr std::uint64_t kSecond = 1'000 * kMs;
constexpr std::uint64_t kMost = std::numeric_limits<std::uint64_t>::max();

TEST(TokenBucket, WithoutSizeOrRefillTimeThereIsNoLimit) {
  for (const TokenBucketConfig& config : {TokenBucketConfig{.size = 0, .refill_time_ms = 10},
                                          TokenBucketConfig{.size = 10, .refill_time_ms = 0, .one_time_burst = 5}}) {
    TokenBucket bucket{config, 0};
    EXPECT_TRUE(bucket.unlimited());
    EXPECT_TRUE(bucket.take(kMost, 0));
    EXPECT_TRUE(bucket.take(kMost, 0));
    EXPECT_EQ(bucket.ns_until(kMost, 0), 0U);
    bucket.give_back(5);
    EXPECT_EQ(bucket.state(kSecond), TokenBucketState{});
  }
}

TEST(TokenBucket, StartsFullAndThenRefusesWithoutTakingAnything) {
  TokenBucket bucket{{.size = 100, .refill_time_ms = 1000}, 0};
  EXPECT_TRUE(bucket.take(60, 0));
  EXPECT_FALSE(bucket.take(41, 0));
  EXPECT_TRUE(bucket.take(40, 0));
  EXPECT_FALSE(bucket.take(1, 0));
}

TEST(TokenBucket, RefillsEvenlyAndNoFurtherThanItsSize) {
  TokenBucket bucket{{.size = 100, .refill_time_ms = 1000}, 0};
  ASSERT_TRUE(bucket.take(100, 0));
  EXPECT_FALSE(bucket.take(1, 10 * kMs - 1));
  EXPECT_TRUE(bucket.take(1, 10 * kMs));
  EXPECT_TRUE(bucket.take(50, 510 * kMs));
  EXPECT_FALSE(bucket.take(1, 510 * kMs));
  EXPECT_TRUE(bucket.take(100, 1000 * kSecond));
  EXPECT_FALSE(bucket.take(1, 1000 * kSecond));
}

TEST(TokenBucket, SpendsTheBurstFirstAndOnce) {
  TokenBucket bucket{{.size = 10, .refill_time_ms = 1000, .one_time_burst = 25}, 0};
  EXPECT_TRUE(bucket.take(20, 0));
  EXPECT_EQ(bucket.state(0).budget, 10U);
  EXPECT_TRUE(bucket.take(15, 0));
  EXPECT_FALSE(bucket.take(1, 0));
  EXPECT_TRUE(bucket.take(10, 100 * kSecond));
  EXPECT_FALSE(bucket.take(1, 100 * kSecond));
}

TEST(TokenBucket, FractionsOfTokensAreNotLost) {
  TokenBucket bucket{{.size = 3, .refill_time_ms = 1000}, 0};
  ASSERT_TRUE(bucket.take(3, 0));
  std::uint64_t taken = 0;
  for (std::uint64_t now = 0; now <= 10 * kSecond; now += 7'919)
    if (bucket.take(1, now)) ++taken;
  EXPECT_EQ(taken, 29U);  // the 30th falls due at 10 s, which no step hits
  EXPECT_TRUE(bucket.take(1, 10 * kSecond));
}

TEST(TokenBucket, ARequestLargerThanTheBucketPassesWhenItIsFullAndLeavesADebt) {
  TokenBucket bucket{{.size = 100, .refill_time_ms = 1000}, 0};
  ASSERT_TRUE(bucket.take(1, 0));
  EXPECT_FALSE(bucket.take(300, 0));
  EXPECT_EQ(bucket.ns_until(300, 0), 10 * kMs);
  EXPECT_TRUE(bucket.take(300, 10 * kMs));
  EXPECT_EQ(bucket.state(10 * kMs).debt, 200U);
  EXPECT_EQ(bucket.ns_until(1, 10 * kMs), 2010 * kMs);
  EXPECT_FALSE(bucket.take(1, 2019 * kMs));
  EXPECT_TRUE(bucket.take(1, 2020 * kMs));
}

TEST(TokenBucket, WhatWasTakenCanBeGivenBack) {
  TokenBucket bucket{{.size = 100, .refill_time_ms = 1000}, 0};
  ASSERT_TRUE(bucket.take(150, 0));
  bucket.give_back(60);
  EXPECT_EQ(bucket.state(0).debt, 0U);
  EXPECT_EQ(bucket.state(0).budget, 10U);
  bucket.give_back(kMost);
  EXPECT_EQ(bucket.state(0).budget, 100U);
}

TEST(TokenBucket, WhatCameOutOfTheBurstCanBeGivenBackToIt) {
  TokenBucket bucket{{.size = 100, .refill_time_ms = 1000, .one_time_burst = 40}, 0};
  EXPECT_EQ(bucket.spend(30, 0), 30U);
  EXPECT_EQ(bucket.spend(30, 0), 10U);
  EXPECT_EQ(bucket.spend(30, 0), 0U);
  EXPECT_EQ(bucket.state(0).budget, 50U);
  bucket.give_back(30, 10);
  EXPECT_EQ(bucket.state(0).burst, 10U);
  EXPECT_EQ(bucket.state(0).budget, 70U);
}

TEST(TokenBucket, TimeThatGoesBackEarnsNothing) {
  TokenBucket bucket{{.size = 100, .refill_time_ms = 1000}, kSecond};
  ASSERT_TRUE(bucket.take(100, kSecond));
  EXPECT_FALSE(bucket.take(1, 0));
  EXPECT_FALSE(bucket.take(1, kSecond));
  EXPECT_TRUE(bucket.take(1, kSecond + 10 * kMs));
}

TEST(TokenBucket, TheTimeUntilIsExactlyWhenATakeSucceeds) {
  std::mt19937_64 random{7};
  for (unsigned i = 0; i < 2'000; ++i) {
    const TokenBucketConfig config{
        .size = 1 + random() % 1'000'000, .refill_time_ms = 1 + random() % 10'000, .one_time_burst = random() % 100};
    std::uint64_t now = random() % kSecond;
    TokenBucket bucket{config, now};
    for (unsigned j = 0; j < 8; ++j) {
      const std::uint64_t tokens = random() % (2 * config.size);
      const std::uint64_t wait = bucket.ns_until(tokens, now);
      if (wait > 0) {
        ASSERT_FALSE(bucket.take(tokens, now + wait - 1));
      }
      now += wait;
      ASSERT_EQ(bucket.ns_until(tokens, now), 0U);
      ASSERT_TRUE(bucket.take(tokens, now));
    }
  }
}

TEST(TokenBucket, ExtremesDoNotOverflow) {
  for (const std::uint64_t size : {std::uint64_t{1}, kMost})
    for (const std::uint64_t refill : {std::uint64_t{1}, kMost}) {
      TokenBucket bucket{{.size = size, .refill_time_ms = refill, .one_time_burst = kMost}, 0};
      EXPECT_TRUE(bucket.take(kMost, 0));
      EXPECT_TRUE(bucket.take(kMost, 0));
      EXPECT_FALSE(bucket.take(kMost, 0));
      EXPECT_GT(bucket.ns_until(kMost, 0), 0U);
      EXPECT_LE(bucket.state(kMost).budget, size);
      bucket.restore({.budget = kMost, .debt = kMost, .burst = kMost, .remainder = kMost}, kMost);
      EXPECT_EQ(bucket.state(kMost).budget, size);
    }
}

/// Tokens that go through in one second of somebody who always wants more, waits for `wanted` of them, and whose alarm
/// is `late_ns` late; after the bucket's first content is gone.
template <typename Next>
std::uint64_t through_in_a_second(TokenBucket& bucket, std::uint64_t wanted, std::uint64_t late_ns, Next next) {
  std::uint64_t now = 0;
  std::uint64_t begin = kMost;
  std::uint64_t through = 0;
  while (begin == kMost || now < begin + kSecond) {
    const std::uint64_t went = next(bucket, now);
    if (went > 0) {
      if (begin != kMost) through += went;
      continue;
    }
    if (begin == kMost) begin = now;
    now += bucket.ns_until(wanted, now) + late_ns;
  }
  return through;
}

constexpr std::uint64_t kRate = 12'500'000;  // 100 Mbit/s
constexpr TokenBucketConfig kTenthOfASecond{.size = kRate / 10, .refill_time_ms = 100};
constexpr double kExact = 0.02;

TEST(TokenBucket, OverASecondWhatIsAskedForBeforehandIsExactToTwoPercent) {
  for (const std::uint64_t request : {60ULL, 1514ULL, 4096ULL, 65'550ULL}) {
    for (const std::uint64_t late_ns : {std::uint64_t{0}, kMs, 10 * kMs}) {
      TokenBucket bucket{kTenthOfASecond, 0};
      const std::uint64_t through =
          through_in_a_second(bucket, request, late_ns, [request](TokenBucket& from, std::uint64_t now) {
            return from.take(request, now) ? request : std::uint64_t{0};
          });
      EXPECT_NEAR(static_cast<double>(through), kRate, kRate * kExact) << request << " bytes, late by " << late_ns;
    }
  }
}

TEST(TokenBucket, OverASecondWhatIsPaidForAfterwardsIsExactToTwoPercent) {
  for (const std::uint64_t request : {60ULL, 1514ULL, 4096ULL, 65'550ULL}) {
    for (const std::uint64_t late_ns : {std::uint64_t{0}, kMs, 10 * kMs}) {
      TokenBucket bucket{kTenthOfASecond, 0};
      const std::uint64_t through =
          through_in_a_second(bucket, 1, late_ns, [request](TokenBucket& from, std::uint64_t now) {
            if (from.ns_until(1, now) > 0) return std::uint64_t{0};
            from.spend(request, now);
            return request;
          });
      EXPECT_NEAR(static_cast<double>(through), kRate, kRate * kExact) << request << " bytes, late by " << late_ns;
    }
  }
}

TEST(TokenBucket, OperationsOverASecondAreExactToTwoPercent) {
  TokenBucket bucket{{.size = 100, .refill_time_ms = 100}, 0};
  const std::uint64_t through = through_in_a_second(bucket, 1, kMs / 10, [](TokenBucket& from, std::uint64_t now) {
    return from.take(1, now) ? std::uint64_t{1} : std::uint64_t{0};
  });
  EXPECT_NEAR(static_cast<double>(through), 1000, 1000 * kExact);
}

TEST(TokenBucket, ItsStateSurvivesWithoutHostTime) {
  const TokenBucketConfig config{.size = 7, .refill_time_ms = 1000, .one_time_burst = 3};
  TokenBucket bucket{config, 0};
  ASSERT_TRUE(bucket.take(1, 0));
  ASSERT_TRUE(bucket.take(9, 0));
  const TokenBucketState state = bucket.state(100 * kMs);
  EXPECT_GT(state.remainder, 0U);
  TokenBucket restored{config, 0};
  restored.restore(state, 5'000 * kSecond);
  EXPECT_EQ(restored.state(5'000 * kSecond), state);
  EXPECT_EQ(restored.ns_until(7, 5'000 * kSecond), bucket.ns_until(7, 100 * kMs));
}

}  // namespace
}  // namespace mayfly
