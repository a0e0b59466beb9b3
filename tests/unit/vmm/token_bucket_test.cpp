#include "vmm/token_bucket.h"

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
