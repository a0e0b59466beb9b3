// Guest memory that another process reads, as the orchestrator E2B does: GET /memory, /memory/dirty, /memory/mappings.

#include "snapshot/memory_file.h"
#include "tests/integration/outside_reader.h"
#include "tests/integration/page_server_process.h"
#include "tests/integration/snapshot_fixture.h"
#include "tests/support/user_faults.h"

#include <filesystem>
#include <fstream>

#include <fmt/format.h>

namespace mayfly::testing {
namespace {

constexpr std::uint64_t kPageBytes = 4096;

std::vector<bool> without(std::vector<bool> all, const std::vector<bool>& others) {
  for (std::size_t i = 0; i < all.size(); ++i) all[i] = all[i] && !others[i];
  return all;
}

class OutsideMemoryTest : public SnapshotTest {
 protected:
  [[nodiscard]] HttpAnswer create_state(Monitor& monitor, const std::string& name) const {
    return monitor.put("/snapshot/create", R"({"snapshot_type": "Full", "snapshot_path": ")" + file(name) + "\"}");
  }
  [[nodiscard]] HttpAnswer load_served(Monitor& monitor, const std::string& state, const std::string& more = "") const {
    return monitor.put("/snapshot/load", R"({"snapshot_path": ")" + file(state) + R"(", "resume_vm": true)" + more +
                                             R"(, "mem_backend": {"backend_type": "Uffd", "backend_path": ")" +
                                             file(state + ".pages") + "\"}}");
  }
  /// A snapshot as the orchestrator takes the first one: of what is resident and not empty.
  void export_all(Monitor& monitor, const std::string& state, const std::string& memory) const {
    pause(monitor);
    must(create_state(monitor, state));
    const OutsideReader reader{monitor};
    reader.copy(without(reader.bits("/memory", "resident"), reader.bits("/memory", "empty")), file(memory));
  }
  /// And as it takes the next ones: of what is dirty, over what it had.
  void export_dirty(Monitor& monitor, const std::string& state, const std::string& memory) const {
    pause(monitor);
    must(create_state(monitor, state));
    const OutsideReader reader{monitor};
    reader.copy(reader.bits("/memory/dirty", "bitmap"), file(memory));
  }
};

TEST_F(OutsideMemoryTest, TheBitmapsSayWhatAMemoryFileHas) {
  Monitor monitor;
  boot(monitor, R"("mem_size_mib": 3400, "vcpu_count": 2)", "console=ttyS0 dirty_mib=8");
  round(monitor, 1);
  pause(monitor);
  must(create(monitor, "one"));
  const OutsideReader reader{monitor};
  const auto resident = reader.bits("/memory", "resident");
  const auto empty = reader.bits("/memory", "empty");
  const std::string zeros(kPageBytes, '\0');
  std::ifstream memory{file("one.mem"), std::ios::binary};
  std::size_t full = 0;
  for (std::size_t page = 0; page < reader.pages(); ++page) {
    if (page * kPageBytes >= kLabel.offset && page * kPageBytes < kLabel.end()) continue;
    ASSERT_TRUE(resident[page] || !empty[page]) << page;
    // Most of 3400 MiB is neither: a look at some of it will do.
    if (!resident[page] && page % 101 != 0) continue;
    std::string saved(kPageBytes, '?');
    memory.seekg(static_cast<std::streamoff>(page * kPageBytes)).read(saved.data(), kPageBytes);
    ASSERT_EQ(saved == zeros, !resident[page] || empty[page]) << page;
    if (!resident[page] || empty[page]) continue;
    ASSERT_EQ(saved, reader.read(page * kPageBytes, kPageBytes)) << page;
    ++full;
  }
  EXPECT_GT(full, 8U << 20 >> 12);
  resume(monitor);
  round(monitor, 2);
  end(monitor);
}

TEST_F(OutsideMemoryTest, AServedCloneGoesOnFromWhatWasRead) {
  if (!user_faults_are_permitted()) GTEST_SKIP() << "userfaultfd is not permitted";
  {
    Monitor first;
    boot(first);
    round(first, 1);
    export_all(first, "a", "memory");
    resume(first);
    round(first, 2);
    end(first);
  }
  for (const bool tracked : {false, true}) {
    const std::string state = tracked ? "b" : "a", next = tracked ? "c" : "b";
    const PageServerProcess server{file(state + ".pages"), file("memory")};
    Monitor clone;
    must(load_served(clone, state, tracked ? R"(, "track_dirty_pages": true)" : ""));
    round(clone, tracked ? 3 : 2);
    // The server gives pages of the file until the clone ends, so the next memory is another file.
    std::filesystem::copy_file(file("memory"), file("memory.new"));
    export_dirty(clone, next, "memory.new");
    resume(clone);
    round(clone, tracked ? 4 : 3);
    end(clone);
    std::filesystem::rename(file("memory.new"), file("memory"));
  }
  const PageServerProcess server{file("c.pages"), file("memory")};
  Monitor last;
  must(load_served(last, "c"));
  round(last, 4);
  end(last);
}

TEST_F(OutsideMemoryTest, DirtyIsWhatChangedSinceTheLastMemoryFile) {
  for (const char* tracked : {"true", "false"}) {
    Monitor first;
    boot(first, std::string{R"("mem_size_mib": 128, "vcpu_count": 1, "track_dirty_pages": )"} + tracked,
         "console=ttyS0 dirty_mib=30");
    pause(first);
    must(create(first, "one"));
    resume(first);
    end(first);
    Monitor clone;
    must(load(clone, "one.state", "one.mem", std::string{R"(, "resume_vm": true, "track_dirty_pages": )"} + tracked));
    round(clone, 1);
    pause(clone);
    must(create_state(clone, "two.state"));
    const OutsideReader reader{clone};
    const auto dirty = reader.bits("/memory/dirty", "bitmap");
    EXPECT_EQ(dirty, reader.bits("/memory/dirty", "bitmap")) << "asking changes nothing";
    std::ifstream memory{file("one.mem"), std::ios::binary};
    std::size_t count = 0;
    for (std::size_t page = 0; page < dirty.size(); ++page) {
      count += dirty[page] ? 1 : 0;
      if (dirty[page] || (page * kPageBytes >= kLabel.offset && page * kPageBytes < kLabel.end())) continue;
      std::string saved(kPageBytes, '?');
      memory.seekg(static_cast<std::streamoff>(page * kPageBytes)).read(saved.data(), kPageBytes);
      ASSERT_EQ(saved, reader.read(page * kPageBytes, kPageBytes)) << page << " is not dirty";
    }
    const std::size_t third = (30U << 20 >> 12) / 3;
    EXPECT_GE(count, third);
    EXPECT_LE(count, third + 200) << "the guest's own pages, its tables and its stack";
    resume(clone);
    round(clone, 2);
    end(clone);
  }
}

TEST_F(OutsideMemoryTest, WhatCannotBeHadIsRefusedInWords) {
  Monitor monitor;
  for (const char* path : {"/memory", "/memory/dirty", "/memory/mappings"}) {
    EXPECT_NE(monitor.get(path).body.find("after the machine has started"), std::string::npos) << path;
    EXPECT_EQ(monitor.put(path, "{}").status, 400) << path;
    EXPECT_EQ(monitor.send("GET", path, "{}").status, 400) << path;
  }
  EXPECT_NE(monitor.get("/memory/mapping").body.find("no such path"), std::string::npos);
  boot(monitor);
  EXPECT_EQ(monitor.get("/memory").status, 200);
  EXPECT_NE(monitor.get("/memory/dirty").body.find("only possible while the machine is paused"), std::string::npos);
  EXPECT_NE(create_state(monitor, "one").body.find("only possible while the machine is paused"), std::string::npos);
  pause(monitor);
  EXPECT_EQ(create_state(monitor, "no/one").status, 400);
  must(create_state(monitor, "one"));
  for (const char* more : {R"("snapshot_type": "Diff")", R"("live": true)"})
    EXPECT_EQ(
        monitor.put("/snapshot/create", fmt::format(R"({{{}, "snapshot_path": "{}"}})", more, file("two"))).status, 400)
        << more;
  // Its memory is in no file of its own.
  std::ofstream{file("memory")};
  std::filesystem::resize_file(file("memory"), 128 << 20);
  Monitor clone;
  EXPECT_NE(load(clone, "one", "memory").body.find("memory"), std::string::npos);
  EXPECT_NE(clone.get("/").body.find("Not started"), std::string::npos);
  resume(monitor);
  round(monitor, 1);
  end(monitor);
}

}  // namespace
}  // namespace mayfly::testing
