#include "api/client/top/rates.h"

#include <gtest/gtest.h>

namespace mayfly::top {
namespace {

constexpr double kTicks = 100;

Clock::time_point at(double seconds) {
  return Clock::time_point{} + std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>{seconds});
}

Sample sample(double seconds, std::uint64_t cpu_ticks, const Counters& counters) {
  Sample made;
  made.machine = {.pid = 7, .uid = 0, .id = "a"};
  made.state = "Running";
  made.times = Timed<ProcessTimes>{.at = at(seconds), .value = {.cpu_ticks = cpu_ticks, .start_ticks = 5}};
  made.memory = ProcessMemory{.private_kib = 2, .shared_kib = 3};
  made.counters = Timed<Counters>{.at = at(seconds), .value = counters};
  return made;
}

TEST(RowOf, DividesWhatWasUsedByTheTime) {
  const Sample before =
      sample(10, 1000, {.read_bytes = 100, .write_bytes = 0, .rx_bytes = 1, .tx_bytes = 2, .exits = 3});
  const Sample now =
      sample(12, 1050, {.read_bytes = 300, .write_bytes = 10, .rx_bytes = 5, .tx_bytes = 2, .exits = 2003});
  const Row row = row_of(&before, now, kTicks);
  EXPECT_EQ(row.id, "a");
  EXPECT_EQ(row.pid, 7);
  EXPECT_EQ(row.state, "Running");
  EXPECT_EQ(row.private_bytes, 2048);
  EXPECT_EQ(row.shared_bytes, 3072);
  EXPECT_DOUBLE_EQ(row.cpu_percent.value(), 25);
  EXPECT_DOUBLE_EQ(row.read_rate.value(), 100);
  EXPECT_DOUBLE_EQ(row.write_rate.value(), 5);
  EXPECT_DOUBLE_EQ(row.rx_rate.value(), 2);
  EXPECT_DOUBLE_EQ(row.tx_rate.value(), 0);
  EXPECT_DOUBLE_EQ(row.exit_rate.value(), 1000);
}

TEST(RowOf, LeavesOpenWhatOneSampleCannotSay) {
  const Row row = row_of(nullptr, sample(1, 1, {}), kTicks);
  EXPECT_EQ(row.private_bytes, 2048);
  EXPECT_FALSE(row.cpu_percent || row.read_rate || row.exit_rate);
}

TEST(RowOf, HasNoRatesWithoutAnAnswerInBetween) {
  const Sample before = sample(1, 100, {});
  Sample now = sample(2, 200, {});
  now.counters = before.counters;
  EXPECT_DOUBLE_EQ(row_of(&before, now, kTicks).cpu_percent.value(), 100);
  EXPECT_FALSE(row_of(&before, now, kTicks).read_rate);
  now.counters.reset();
  EXPECT_FALSE(row_of(&before, now, kTicks).exit_rate);
}

TEST(RowOf, DoesNotCompareAProcessWithAnotherOfItsNumber) {
  const Sample before = sample(1, 100, {});
  Sample now = sample(2, 200, {});
  now.times->value.start_ticks = 6;
  EXPECT_FALSE(row_of(&before, now, kTicks).cpu_percent);
}

TEST(RowOf, KnowsThatTheseNumbersOnlyGrow) {
  const Sample before = sample(1, 100, {.read_bytes = 9, .write_bytes = 0, .rx_bytes = 0, .tx_bytes = 0, .exits = 0});
  const Sample now = sample(2, 99, {.read_bytes = 8, .write_bytes = 0, .rx_bytes = 0, .tx_bytes = 0, .exits = 0});
  EXPECT_FALSE(row_of(&before, now, kTicks).cpu_percent);
  EXPECT_FALSE(row_of(&before, now, kTicks).read_rate);
}

TEST(RowsOf, FindsEachProcessAmongTheEarlierOnes) {
  std::vector<Sample> before = {sample(1, 100, {}), sample(1, 100, {})};
  std::vector<Sample> now = {sample(2, 100, {}), sample(2, 150, {}), sample(2, 100, {})};
  before[0].machine.pid = 2;
  before[1].machine.pid = 4;
  now[0].machine.pid = 3;
  now[1].machine.pid = 4;
  now[2].machine.pid = 5;
  const std::vector<Row> rows = rows_of(before, now, kTicks);
  ASSERT_EQ(rows.size(), 3U);
  EXPECT_FALSE(rows[0].cpu_percent);
  EXPECT_DOUBLE_EQ(rows[1].cpu_percent.value(), 50);
  EXPECT_FALSE(rows[2].cpu_percent);
}

}  // namespace
}  // namespace mayfly::top
