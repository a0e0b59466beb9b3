#include "tests/host-agent/histogram.h"

#include <gtest/gtest.h>

namespace mayfly::host_agent {
namespace {

using std::chrono_literals::operator""us;
using std::chrono_literals::operator""s;
using std::chrono_literals::operator""h;

std::string json_of(const Histogram& histogram) {
  JsonWriter json;
  histogram.write(json);
  return std::move(json).take();
}

TEST(HistogramTest, WithoutTimesAllIsZero) {
  EXPECT_EQ(json_of({}), R"({"count":0,"p50":0,"p90":0,"p99":0,"p999":0,"longest":0,"buckets":[]})");
}

TEST(HistogramTest, QuantilesAreNearTheTimesThatTheyStandFor) {
  Histogram histogram;
  for (int i = 1; i <= 1000; ++i) histogram.add(10us * i);
  EXPECT_EQ(histogram.count(), 1000U);
  for (const double fraction : {0.1, 0.5, 0.9, 0.99, 1.0}) {
    const auto found = static_cast<double>(histogram.quantile(fraction).count());
    EXPECT_NEAR(found, fraction * 10'000, fraction * 10'000 * 0.07) << fraction;
  }
  EXPECT_EQ(histogram.longest(), 10'000us);
}

TEST(HistogramTest, EveryTimeIsInItsBucket) {
  for (const auto time : {0us, 1us, 15us, 16us, 17us, 31us, 32us, 1000us, 1023us, 1024us, 65'535us}) {
    Histogram histogram;
    histogram.add(time);
    const std::string json = json_of(histogram);
    const auto number = [&json](const char* key) {
      return std::stoul(json.substr(json.find(key) + std::string_view{key}.size()));
    };
    const auto us = static_cast<std::uint64_t>(time.count());
    EXPECT_LE(number("\"from\":"), us) << json;
    EXPECT_GT(number("\"to\":"), us) << json;
  }
}

TEST(HistogramTest, WhatIsOutOfBoundsIsInTheFirstBucketOrTheLast) {
  Histogram histogram;
  histogram.add(-5s);
  histogram.add(100h);
  EXPECT_EQ(histogram.count(), 2U);
  EXPECT_EQ(histogram.quantile(0.5).count(), 0U);
  EXPECT_GT(histogram.quantile(1).count(), 3'600'000'000U);
}

}  // namespace
}  // namespace mayfly::host_agent
