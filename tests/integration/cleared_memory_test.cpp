// Memory that the guest clears after a snapshot: what is taken of it afterwards has zeros where the snapshot has data.

#include "tests/integration/outside_reader.h"
#include "tests/integration/snapshot_fixture.h"
#include "vmm/base/process_fd.h"

#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace mayfly::testing {
namespace {

constexpr std::uint64_t kPageBytes = 4096;
constexpr std::uint64_t kFirst = (64U << 20) / kPageBytes;  // of tests/guests/toucher.cpp
constexpr std::uint64_t kCount = (16U << 20) / kPageBytes;

/// The guest "toucher", which clears every other page of its own when it is told to.
class ClearedMemoryTest : public SnapshotTest {
 protected:
  static void boot_toucher(Monitor& monitor) {
    must(monitor.put("/machine-config", R"({"mem_size_mib": 96, "vcpu_count": 1})"));
    monitor.boot("toucher", "console=ttyS0 span_mib=16 more_mib=4");
    monitor.console_until("toucher ready");
  }
  static void clear(Monitor& monitor) {
    monitor.type("z");
    monitor.console_until("cleared\n");
  }
  void take(Monitor& monitor, const std::string& name, const std::string& type = "Full") const {
    pause(monitor);
    must(create(monitor, name, type));
    resume(monitor);
  }
  /// The guest compares what it has with what it has written.
  static void expect_right(Monitor& monitor) {
    monitor.type("c");
    monitor.console_until("all right\n");
    end(monitor);
  }
  void expect_loads(const std::string& state, const std::vector<std::string>& memory) const {
    Monitor again;
    must(load(again, state, memory));
    expect_right(again);
  }
  static std::size_t count_cleared(const OutsideReader& reader, const std::string& path, const std::string& name) {
    const auto bits = reader.bits(path, name);
    std::size_t count = 0;
    for (std::uint64_t page = 1; page < kCount; page += 2)
      if (bits[kFirst + page]) ++count;
    return count;
  }
  /// Has the kernel split the guest's huge pages, which takes their pages of zeros from the process. False where it does not.
  [[nodiscard]] static bool split_huge_pages(Monitor& monitor, const OutsideReader& reader) {
    const OwnedFd process = open_process(monitor.process().pid());
    for (std::uint64_t page = kFirst; page < kFirst + kCount; page += 256) {
      const iovec one = reader.place_of(page * kPageBytes, kPageBytes);
      if (::syscall(SYS_process_madvise, process.get(), &one, 1, MADV_COLD, 0) < 0) return false;
    }
    return count_cleared(reader, "/memory", "resident") < kCount / 4;
  }
};

/// By both ways in which a host tells what a process has of its own.
class ClearedMemoryWays : public ClearedMemoryTest, public ::testing::WithParamInterface<bool> {
 protected:
  [[nodiscard]] static std::vector<std::string> host() {
    if (GetParam()) return {};
    return {project_file("tests/support/without_pagemap_scan")};
  }
};

TEST_P(ClearedMemoryWays, IsInADiff) {
  Monitor monitor{{}, host()};
  boot_toucher(monitor);
  take(monitor, "one");
  clear(monitor);
  take(monitor, "two", "Diff");
  expect_right(monitor);
  expect_loads("two.state", {"one.mem", "two.mem"});
}

TEST_P(ClearedMemoryWays, IsInADiffOfADiffThatHasItsData) {
  Monitor monitor{{}, host()};
  boot_toucher(monitor);
  take(monitor, "one");
  monitor.type("f");
  monitor.console_until("filled\n");
  take(monitor, "two", "Diff");
  clear(monitor);
  pause(monitor);
  must(create(monitor, "three", "Diff"));
  must(create(monitor, "three", "Diff"));  // merged with the one before
  resume(monitor);
  expect_right(monitor);
  expect_loads("three.state", {"one.mem", "two.mem", "three.mem"});
}

TEST_P(ClearedMemoryWays, IsInALiveDiff) {
  Monitor monitor{{"--live-snapshots"}, host()};
  boot_toucher(monitor);
  take(monitor, "one");
  clear(monitor);
  must(monitor.put("/snapshot/create", R"({"live": true, "snapshot_type": "Diff", "snapshot_path": ")" +
                                           file("two.state") + R"(", "mem_file_path": ")" + file("two.mem") + "\"}"));
  expect_right(monitor);
  expect_loads("two.state", {"one.mem", "two.mem"});
}

/// A booted guest's diff has what it has touched, and not all of its memory.
TEST_P(ClearedMemoryWays, WhatNobodyHasTouchedIsInNoDiff) {
  Monitor monitor{{}, host()};
  boot_toucher(monitor);
  pause(monitor);
  must(create(monitor, "one"));
  const OutsideReader reader{monitor};
  for (std::uint64_t at = 0; at < reader.size(); at += kPageBytes) (void)reader.read(at, 1);
  must(create(monitor, "two", "Diff"));
  constexpr blkcnt_t kMuch = (8 << 20) / 512;
  const auto data_of = [](const std::string& path) {
    struct stat status{};
    EXPECT_EQ(::stat(path.c_str(), &status), 0);
    return status.st_blocks;
  };
  // Give or take what the file system has allotted ahead.
  EXPECT_LT(data_of(file("two.mem")), data_of(file("one.mem")) + kMuch);
  resume(monitor);
  expect_right(monitor);
}

INSTANTIATE_TEST_SUITE_P(All, ClearedMemoryWays, ::testing::Bool(),
                         [](const auto& info) { return info.param ? "Scanned" : "ByPagemap"; });

TEST_F(ClearedMemoryTest, IsInADiffOfHugePagesThatTheHostHasSplit) {
  Monitor monitor;
  boot_toucher(monitor);
  take(monitor, "one");
  clear(monitor);
  pause(monitor);
  const OutsideReader reader{monitor};
  if (!split_huge_pages(monitor, reader)) GTEST_SKIP() << "this host has no huge pages, or keeps their zeros";
  EXPECT_EQ(count_cleared(reader, "/memory/dirty", "bitmap"), kCount / 2);
  must(create(monitor, "two", "Diff"));
  must(create(monitor, "three", "Diff"));
  must(create(monitor, "three", "Diff"));  // merged with the one before
  resume(monitor);
  expect_right(monitor);
  expect_loads("two.state", {"one.mem", "two.mem"});
  expect_loads("three.state", {"one.mem", "two.mem", "three.mem"});
}

TEST_F(ClearedMemoryTest, IsDirtyAlsoForWhoHasKeptTheMemoryByHimself) {
  Monitor monitor;
  boot_toucher(monitor);
  clear(monitor);
  pause(monitor);
  const OutsideReader reader{monitor};
  if (!split_huge_pages(monitor, reader)) GTEST_SKIP() << "this host has no huge pages, or keeps their zeros";
  EXPECT_EQ(count_cleared(reader, "/memory/dirty", "bitmap"), kCount / 2) << "he may have their data";
  resume(monitor);
  expect_right(monitor);
}

}  // namespace
}  // namespace mayfly::testing
