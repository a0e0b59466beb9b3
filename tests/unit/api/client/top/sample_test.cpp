#include "api/client/top/sample.h"

#include "vmm/base/metrics.h"

#include <gtest/gtest.h>

namespace mayfly::top {
namespace {

TEST(ParseStat, FindsTimesBehindAnyName) {
  const auto times = parse_stat(
      "4711 (a) b (c)) S 1 4711 4711 0 -1 4194560 100 0 0 0 37 5 0 0 20 0 4 0 998877 12345 678 18446744073709551615 1");
  ASSERT_TRUE(times);
  EXPECT_EQ(times->cpu_ticks, 42U);
  EXPECT_EQ(times->start_ticks, 998877U);
}

TEST(ParseStat, IsEmptyForWhatIsNoStat) {
  EXPECT_FALSE(parse_stat(""));
  EXPECT_FALSE(parse_stat("4711 (mayfly) S 1 2 3"));
  EXPECT_FALSE(parse_stat("4711 mayfly S 1 4711 4711 0 -1 4194560 100 0 0 0 37 5 0 0 20 0 4 0 998877"));
  EXPECT_FALSE(parse_stat("1 (m) S 1 1 1 0 -1 1 1 0 0 0 many 5 0 0 20 0 4 0 998877 1"));
}

TEST(ParseSmapsRollup, AddsWhatIsPrivateAndWhatIsShared) {
  const auto memory = parse_smaps_rollup(
      "00400000-7ffd4000 ---p 00000000 00:00 0                          [rollup]\n"
      "Rss:                5000 kB\n"
      "Shared_Clean:       3000 kB\n"
      "Shared_Dirty:          7 kB\n"
      "Private_Clean:       100 kB\n"
      "Private_Dirty:      1893 kB\n"
      "Shared_Hugetlb:        0 kB\n"
      "Private_Hugetlb:    2048 kB\n");
  ASSERT_TRUE(memory);
  EXPECT_EQ(memory->private_kib, 4041U);
  EXPECT_EQ(memory->shared_kib, 3007U);
  EXPECT_FALSE(parse_smaps_rollup("")) << "where we may not look";
}

TEST(ParseMetrics, ReadsWhatTheMonitorPrints) {
  Metrics metrics;
  metrics.block.read_bytes.add(1);
  metrics.block.write_bytes.add(2);
  metrics.net.rx_bytes_count.add(3);
  metrics.net.tx_bytes_count.add(4);
  metrics.vcpu.exit_io_in.add(10);
  metrics.vcpu.exit_io_out.add(20);
  metrics.vcpu.exit_mmio_read.add(30);
  metrics.vcpu.exit_mmio_write.add(40);
  metrics.vcpu.exit_kicked.add(50);
  metrics.vcpu.failures.add(1000);
  const auto counters = parse_metrics(prometheus_text(metrics));
  ASSERT_TRUE(counters);
  EXPECT_EQ(counters->read_bytes, 1U);
  EXPECT_EQ(counters->write_bytes, 2U);
  EXPECT_EQ(counters->rx_bytes, 3U);
  EXPECT_EQ(counters->tx_bytes, 4U);
  EXPECT_EQ(counters->exits, 150U);
}

TEST(ParseMetrics, TakesNothingFromOtherText) {
  EXPECT_FALSE(parse_metrics(""));
  EXPECT_FALSE(parse_metrics("mayfly_up 1\n"));
  EXPECT_FALSE(parse_metrics("mayfly_block_read_bytes_total many\n"));
  EXPECT_EQ(parse_metrics("mayfly_block_read_bytes_total 5").value().read_bytes, 5U);
}

}  // namespace
}  // namespace mayfly::top
