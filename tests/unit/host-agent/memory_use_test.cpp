#include "tests/host-agent/memory_use.h"

#include "tests/support/child_process.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <fstream>

#include <gtest/gtest.h>

namespace mayfly::host_agent {
namespace {

constexpr const char* kRollup =
    "55d0c0000000-7ffd00000000 ---p 00000000 00:00 0                          [rollup]\n"
    "Rss:               21024 kB\n"
    "Pss:                7301 kB\n"
    "Pss_Dirty:          1200 kB\n"
    "Shared_Clean:       9000 kB\n"
    "Private_Clean:       300 kB\n"
    "Private_Dirty:      4096 kB\n"
    "Private_Hugetlb:    2048 kB\n";

TEST(MemoryUseTest, ReadsWhatAProcessHasAloneAndItsShareOfTheRest) {
  const auto use = parse_smaps_rollup(kRollup);
  ASSERT_TRUE(use);
  EXPECT_EQ(use->monitors, 1U);
  EXPECT_EQ(use->pss_kib, 7301U);
  EXPECT_EQ(use->private_kib, 300U + 4096U + 2048U);
}

TEST(MemoryUseTest, WhatIsNoRollupIsNone) {
  for (const char* text :
       {"", "Pss", "Pss: kB", "Pss: 12", "Pss: x kB", "Pss: 99999999999999999999999 kB", "Rss: 5 kB\n"})
    EXPECT_FALSE(parse_smaps_rollup(text)) << text;
}

TEST(MemoryUseTest, SumsProcessesAndLeavesOutThoseThatHaveEnded) {
  const testing::ScratchDirectory proc;
  for (const char* process : {"10", "11"}) {
    std::filesystem::create_directory(proc.file(process));
    std::ofstream{proc.file(std::string{process} + "/smaps_rollup")} << kRollup;
  }
  const MemoryUse sum = memory_of({10, 11, 12}, proc.file(""));
  EXPECT_EQ(sum.monitors, 2U);
  EXPECT_EQ(sum.pss_kib, 2 * 7301U);
  EXPECT_EQ(sum.private_kib, 2 * 6444U);
}

TEST(MemoryUseTest, LeavesOutAProcessWhoseFileIsOpenedAndCannotBeRead) {
  const testing::ScratchDirectory proc;
  std::filesystem::create_directories(proc.file("10/smaps_rollup"));  // EISDIR; of one that has just ended it is ESRCH
  EXPECT_EQ(memory_of({10}, proc.file("")).monitors, 0U);
}

TEST(MemoryUseTest, MeasuresPagesThatAProcessTakes) {
  constexpr std::size_t kMore = 16 << 20;
  const MemoryUse before = memory_of({::getpid()});
  ASSERT_EQ(before.monitors, 1U);
  void* const pages = ::mmap(nullptr, kMore, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  ASSERT_NE(pages, MAP_FAILED);
  std::memset(pages, 1, kMore);
  const MemoryUse after = memory_of({::getpid()});
  ::munmap(pages, kMore);
  EXPECT_GE(after.pss_kib, before.pss_kib + 15 * 1024);
  EXPECT_GE(after.private_kib, before.private_kib + 15 * 1024);
}

TEST(MemoryGaugeTest, DoesNotMeasureAgainAtOnce) {
  MemoryGauge gauge;
  int measured = 0;
  const auto processes = [&measured] {
    ++measured;
    return std::vector<pid_t>{::getpid()};
  };
  const MemoryUse first = gauge.measure(processes);
  const MemoryUse second = gauge.measure(processes);
  EXPECT_EQ(measured, 1);
  EXPECT_EQ(first.monitors, 1U);
  EXPECT_EQ(second.pss_kib, first.pss_kib);
}

}  // namespace
}  // namespace mayfly::host_agent
