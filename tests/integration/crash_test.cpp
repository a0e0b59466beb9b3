// Snapshots on a file system that logs writes and syncs: whatever a crash of the host leaves of them, the old pair or
// the new one is whole.

#include "snapshot/file_pair.h"
#include "snapshot/leftovers.h"
#include "snapshot/memory_file.h"
#include "snapshot/verify.h"
#include "tests/integration/snapshot_fixture.h"
#include "tests/support/crash_states.h"
#include "tests/support/logged_file_system.h"
#include "virtio/block/overlay.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <filesystem>

namespace mayfly::testing {
namespace {

namespace fs = std::filesystem;

/// A pair's files, within the file system.
struct PairNames {
  const char* state;
  const char* memory;
};

struct CrashCase {
  const char* name;
  PairNames before;
  PairNames after;
  const char* type;
  bool restored;             ///< By a machine that was restored from the pair that is there before.
  bool interrupted = false;  ///< The pair that is there before has its memory at NAME.mayfly-new still.
};

constexpr const char* kFull = "Full";
constexpr const char* kDiff = "Diff";

void PrintTo(const CrashCase& crash, std::ostream* out) { *out << crash.name; }

class CrashTest : public SnapshotTest, public ::testing::WithParamInterface<CrashCase> {
 protected:
  void SetUp() override {
    SnapshotTest::SetUp();
    if (IsSkipped()) return;
    if (::geteuid() != 0 || ::access("/dev/fuse", R_OK | W_OK) != 0)
      GTEST_SKIP() << "a file system of this test's own needs root and /dev/fuse";
    enter_own_mounts();
  }
  [[nodiscard]] HttpAnswer take(Monitor& monitor, const PairNames& names, const std::string& type) const {
    return monitor.put("/snapshot/create", R"({"snapshot_type": ")" + type + R"(", "snapshot_path": ")" +
                                               file(std::string{"disk/"} + names.state) + R"(", "mem_file_path": ")" +
                                               file(std::string{"disk/"} + names.memory) + "\"}");
  }
  /// The id of the pair that is there; none where there is no whole one.
  [[nodiscard]] std::optional<SnapshotId> id_of(const PairNames& names) const {
    const auto pair = verify_pair(left(names.state), left(names.memory));
    if (!pair) return std::nullopt;
    return pair->snapshot.id;
  }
  [[nodiscard]] std::string left(const std::string& name) const { return crashed_.file(name); }

  /// That the old pair or the new one is whole; the new one, where `acknowledged`.
  [[nodiscard]] ::testing::AssertionResult is_whole(bool acknowledged) const {
    const CrashCase& crash = GetParam();
    const auto after = id_of(crash.after);
    const bool has_new = after && *after != old_id_;
    if (acknowledged && !has_new) return ::testing::AssertionFailure() << "the new pair is not there";
    if (std::string{crash.before.memory} != crash.after.memory && id_of(crash.before) != old_id_)
      return ::testing::AssertionFailure() << "the other pair is not what it was";
    // A state under its own name counts, so its memory must be there.
    if (std::string{crash.before.state} != crash.after.state && fs::exists(left(crash.after.state)) && !has_new)
      return ::testing::AssertionFailure() << "the new state has no memory";
    if (!has_new && id_of(crash.before) != old_id_) return ::testing::AssertionFailure() << "neither pair is whole";
    return ::testing::AssertionSuccess();
  }

  /// Where file systems of memory are: thousands of states are made.
  ScratchDirectory crashed_{fs::exists("/dev/shm") ? "/dev/shm" : ""};
  SnapshotId old_id_{};
};

TEST_P(CrashTest, LeavesTheOldPairOrTheNewOneWholeInEveryState) {
  const CrashCase& crash = GetParam();
  std::vector<DiskOperation> log;
  std::size_t begin = 0;
  std::map<std::uint64_t, std::string> directories;
  {
    const LoggedFileSystem disk{file("disk"), {"a", "b"}};
    for (const std::string name : {"a", "b"}) directories[disk.directory(name)] = left(name);
    std::optional<Monitor> monitor{std::in_place};
    boot(*monitor, R"("mem_size_mib": 128, "vcpu_count": 1, "track_dirty_pages": true, "huge_pages": "None")",
         "console=ttyS0 dirty_mib=1");
    pause(*monitor);
    must(take(*monitor, crash.before, kFull));
    if (crash.interrupted) {
      const std::string memory = file(std::string{"disk/"} + crash.before.memory);
      fs::rename(memory, memory + ".mayfly-new");
    }
    begin = disk.log().size();
    if (crash.restored) {
      monitor.emplace();
      must(load(*monitor, std::string{"disk/"} + crash.before.state, std::string{"disk/"} + crash.before.memory, ""));
    }
    resume(*monitor);
    round(*monitor, 1);
    pause(*monitor);
    must(take(*monitor, crash.after, crash.type));
    log = disk.log();
  }
  ASSERT_GT(log.size(), begin + 8);
  CrashStates crashes{log, begin, directories};
  const std::vector<std::string> both = {left("a"), left("b")};
  old_id_ = {};
  bool good = true;
  const std::size_t count = crashes.try_all([&](std::size_t begun, const std::string& missing) {
    if (!good) return;
    if (old_id_ == SnapshotId{}) old_id_ = id_of(crash.before).value_or(SnapshotId{});  // the first is what was there
    const bool acknowledged = begun == log.size();
    const auto whole = is_whole(acknowledged);
    EXPECT_TRUE(whole) << "after " << begun - begin << " of " << log.size() - begin
                       << " operations, without:" << missing;
    // What sweeps afterwards keeps what counts, and nothing else.
    const auto swept = sweep_leftovers(both, false, [](const Leftover&) {});
    EXPECT_TRUE(swept) << swept.error().message;
    const auto after_sweep = is_whole(acknowledged);
    EXPECT_TRUE(after_sweep) << "after a sweep; " << begun - begin << " operations, without:" << missing;
    // Two states, and one name for the memory of both: the sweep leaves that to the user.
    const bool two_pairs = crash.before.state != std::string{crash.after.state} && id_of(crash.before) == old_id_ &&
                           id_of(crash.after).value_or(old_id_) != old_id_;
    for (const std::string& directory : both)
      for (const fs::directory_entry& entry : fs::directory_iterator{directory})
        EXPECT_TRUE(two_pairs || !entry.path().string().ends_with(".mayfly-new")) << entry.path();
    good = whole && after_sweep;
  });
  EXPECT_NE(old_id_, SnapshotId{});
  EXPECT_GT(count, 100U);
  RecordProperty("states", static_cast<int>(count));
}

constexpr PairNames kBase = {.state = "a/state", .memory = "a/memory"};
constexpr PairNames kMerged = {.state = "a/state-2", .memory = "a/memory"};

class MergeCrashTest : public CrashTest {};

TEST_P(MergeCrashTest, LeavesTheBaseOrTheMergedFileWholeInEveryState) {
  std::vector<DiskOperation> log;
  std::size_t begin = 0;
  std::map<std::uint64_t, std::string> directories;
  {
    const LoggedFileSystem disk{file("disk"), {"a", "b"}};
    for (const std::string name : {"a", "b"}) directories[disk.directory(name)] = left(name);
    Monitor monitor;
    boot(monitor, R"("mem_size_mib": 128, "vcpu_count": 1, "track_dirty_pages": true, "huge_pages": "None")",
         "console=ttyS0 dirty_mib=1");
    pause(monitor);
    must(take(monitor, GetParam().before, kFull));
    resume(monitor);
    round(monitor, 1);
    pause(monitor);
    must(take(monitor, GetParam().after, kDiff));
    begin = disk.log().size();
    ChildProcess merge{{monitor_binary(), "snapshot", "merge", "--base", file("disk/a/memory"), "--diff",
                        file(std::string{"disk/"} + GetParam().after.memory), "--output", file("disk/a/memory")},
                       {}};
    ASSERT_EQ(merge.wait(), 0);
    log = disk.log();
  }
  CrashStates crashes{log, begin, directories};
  const std::vector<std::string> both = {left("a"), left("b")};
  bool good = true;
  const std::size_t count = crashes.try_all([&](std::size_t begun, const std::string& missing) {
    if (!good) return;
    const bool had_base = id_of(kBase).has_value();
    const bool had_merged = id_of(kMerged).has_value();
    // The footer alone makes a file the memory of the diff's state, so where that is there, the data is.
    const std::string made = new_name(left(kMerged.memory));
    const OwnedFd file{::open(made.c_str(), O_RDONLY | O_CLOEXEC)};
    EXPECT_TRUE(!file || !find_footer(file.get(), made) || had_merged) << "a footer without its data";
    EXPECT_TRUE(had_base || had_merged);
    EXPECT_TRUE(begun != log.size() || had_merged);
    const auto swept = sweep_leftovers(both, false, [](const Leftover&) {});
    EXPECT_TRUE(swept) << swept.error().message;
    EXPECT_EQ(id_of(kBase).has_value(), had_base);
    EXPECT_EQ(id_of(kMerged).has_value(), had_merged);
    good = !HasFailure();
    EXPECT_TRUE(good) << "after " << begun - begin << " of " << log.size() - begin
                      << " operations, without:" << missing;
  });
  EXPECT_GT(count, 20U);
}

INSTANTIATE_TEST_SUITE_P(All, MergeCrashTest,
                         ::testing::Values(CrashCase{"Merge", kBase, {"a/state-2", "b/diff"}, kDiff, false}),
                         [](const auto& info) { return std::string{info.param.name}; });

class FreezeCrashTest : public CrashTest {
 protected:
  /// The overlay that this was, under a name; nothing where another is there, or none.
  [[nodiscard]] std::optional<OverlayHeader> header_at(const std::string& name, const OverlayId& id) const {
    const OwnedFd file{::open(left(name).c_str(), O_RDONLY | O_CLOEXEC)};
    if (!file) return std::nullopt;
    const auto overlay = Overlay::open(file.get(), {.who = name, .checks_below = false});
    if (!overlay || overlay->header().id != id) return std::nullopt;
    return overlay->header();
  }
};

/// A frozen overlay is a layer from just before its snapshot's state is written. The state's write fails.
TEST_P(FreezeCrashTest, OneThatFailedLeavesTheMachinesOverlayUnderItsNameAndNoLayer) {
  std::vector<DiskOperation> log;
  std::map<std::uint64_t, std::string> directories;
  OverlayId id{};
  {
    LoggedFileSystem disk{file("disk"), {"a"}};
    directories[disk.directory("a")] = left("a");
    Monitor monitor;
    must(monitor.put("/drives/data",
                     R"({"drive_id": "data", "is_root_device": false, "cache_type": "Writeback", "base_path": ")" +
                         make_file(file("base"), std::string(1 << 20, 'b')) + R"(", "path_on_host": ")" +
                         file("disk/a/overlay") + "\"}"));
    boot(monitor);
    pause(monitor);
    {
      const OwnedFd overlay{::open(file("disk/a/overlay").c_str(), O_RDONLY | O_CLOEXEC)};
      const auto opened = Overlay::open(overlay.get(), {.who = "the overlay", .checks_below = false});
      ASSERT_TRUE(opened) << opened.error().message;
      id = opened->header().id;
    }
    const auto freeze = [&](const std::string& memory) {
      return monitor.put("/snapshot/create", R"({"snapshot_path": ")" + file("disk/a/state") +
                                                 R"(", "mem_file_path": ")" + file(memory) +
                                                 R"(", "frozen_drives": [{"drive_id": "data", "path_on_host": ")" +
                                                 file("disk/a/frozen") + R"("}]})");
    };
    disk.fail_once(DiskRequest::Kind::Write, "state.mayfly-new");
    const HttpAnswer failed = freeze("memory");
    EXPECT_EQ(failed.status, 400);
    EXPECT_NE(failed.body.find("Input/output error"), std::string::npos) << failed.body;
    log = disk.log();
  }
  // From when its name is a new overlay's, for good.
  const auto exchange = std::ranges::find(log, DiskOperation::Kind::Exchange, &DiskOperation::kind);
  const auto settled = std::find_if(exchange, log.end(), [](const DiskOperation& operation) {
    return operation.kind == DiskOperation::Kind::SyncDirectory;
  });
  ASSERT_NE(settled, log.end());
  const auto begin = static_cast<std::size_t>(settled - log.begin()) + 1;
  CrashStates crashes{log, begin, directories};
  bool good = true;
  const std::size_t count = crashes.try_all([&](std::size_t begun, const std::string& missing) {
    if (!good) return;
    const auto itself = header_at("a/overlay", id);
    EXPECT_TRUE(itself || header_at("a/frozen", id)) << "it is gone";
    EXPECT_TRUE(!itself || itself->is_layer == 0) << "it cannot be opened";
    EXPECT_TRUE(itself || begun < log.size()) << "it has not got its name back";
    good = !HasFailure();
    EXPECT_TRUE(good) << "after " << begun - begin << " of " << log.size() - begin
                      << " operations, without:" << missing;
  });
  EXPECT_GT(count, 4U);
}

INSTANTIATE_TEST_SUITE_P(All, FreezeCrashTest, ::testing::Values(CrashCase{"Freeze", kBase, kBase, kFull, false}),
                         [](const auto& info) { return std::string{info.param.name}; });

constexpr PairNames kTogether = {.state = "a/state", .memory = "a/memory"};
constexpr PairNames kApart = {.state = "a/state", .memory = "b/memory"};

INSTANTIATE_TEST_SUITE_P(
    All, CrashTest,
    ::testing::Values(
        CrashCase{"Full", kTogether, kTogether, kFull, false},
        CrashCase{"FullInTwoDirectories", kApart, kApart, kFull, false},
        CrashCase{"FullOfARestoredMachine", kApart, kApart, kFull, true},
        CrashCase{"Diff", kTogether, {"a/state-2", "a/diff"}, kDiff, false},
        CrashCase{"DiffInTwoDirectories", kApart, {"a/state-2", "b/diff"}, kDiff, true},
        CrashCase{"DiffOntoItsBase", kTogether, kTogether, kDiff, true},
        CrashCase{"DiffOntoItsBaseInTwoDirectories", kApart, kApart, kDiff, false},
        CrashCase{"DiffOntoItsBaseWithAnotherState", kTogether, {"a/state-2", "a/memory"}, kDiff, false},
        CrashCase{"DiffOntoItsBaseWithAnotherStateInTwoDirectories", kApart, {"a/state-2", "b/memory"}, kDiff, true},
        CrashCase{"FullAfterAnInterruptedOne", kTogether, kTogether, kFull, false, true},
        CrashCase{"DiffOntoItsBaseAfterAnInterruptedOne", kApart, kApart, kDiff, true, true}),
    [](const auto& info) { return std::string{info.param.name}; });

}  // namespace
}  // namespace mayfly::testing
