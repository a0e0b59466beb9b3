// The two files of a snapshot: diffs onto their base, two names of one file, two monitors, FIFOs.

#include "snapshot/file_pair.h"
#include "snapshot/verify.h"
#include "tests/integration/snapshot_fixture.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <filesystem>
#include <thread>

namespace mayfly::testing {
namespace {

namespace fs = std::filesystem;

class SnapshotPairTest : public SnapshotTest {
 protected:
  /// A snapshot to these files, as they are written.
  [[nodiscard]] HttpAnswer create_as(Monitor& monitor, const std::string& state, const std::string& memory,
                                     const std::string& type = "Full") const {
    return monitor.put("/snapshot/create", R"({"snapshot_type": ")" + type + R"(", "snapshot_path": ")" + file(state) +
                                               R"(", "mem_file_path": ")" + file(memory) + "\"}");
  }
  void expect_refused(const HttpAnswer& answer, const std::string& words) const {
    EXPECT_EQ(answer.status, 400);
    EXPECT_NE(answer.body.find(words), std::string::npos) << answer.body;
    for (const fs::directory_entry& entry : fs::directory_iterator{file("")})
      EXPECT_FALSE(entry.path().string().ends_with(".mayfly-new")) << entry.path();
  }
  void expect_pair(const std::string& state, const std::string& memory) const {
    const auto pair = verify_pair(file(state), file(memory));
    EXPECT_TRUE(pair) << pair.error().message;
  }
  void expect_round(const std::string& state, const std::string& memory, unsigned number) const {
    Monitor again;
    must(load(again, state, memory));
    round(again, number);
    end(again);
  }
  void flip(const std::string& name, std::uint64_t at) const {
    const OwnedFd open{::open(file(name).c_str(), O_RDWR | O_CLOEXEC)};
    char byte = 0;
    ASSERT_EQ(::pread(open.get(), &byte, 1, static_cast<off_t>(at)), 1);
    byte = static_cast<char>(byte ^ 0x10);
    ASSERT_EQ(::pwrite(open.get(), &byte, 1, static_cast<off_t>(at)), 1);
  }
  [[nodiscard]] std::uint64_t inode(const std::string& name) const {
    struct stat status{};
    EXPECT_EQ(::lstat(file(name).c_str(), &status), 0);
    return status.st_ino;
  }
};

// --- A diff onto its base --------------------------------------------------------------------------------------------

class InPlaceTest : public SnapshotPairTest, public ::testing::WithParamInterface<bool> {};

TEST_P(InPlaceTest, ADiffOntoItsBaseIsMergedAgainAndAgain) {
  const std::string track = std::string{R"("track_dirty_pages": )"} + (GetParam() ? "true" : "false");
  Monitor first;
  boot(first, R"("mem_size_mib": 128, "vcpu_count": 1, )" + track);
  pause(first);
  must(create_as(first, "state", "mem"));
  Monitor clone;
  must(load(clone, "state", "mem", ""));
  for (unsigned link = 1; link <= 3; ++link) {
    resume(first);
    round(first, link);
    pause(first);
    must(create_as(first, "state", "mem", "Diff"));
    expect_pair("state", "mem");
    expect_round("state", "mem", link + 1);
  }
  // What the clone had mapped is what it was.
  resume(clone);
  round(clone, 1);
  end(clone);
}

TEST_P(InPlaceTest, SoIsThatOfARestoredMachineUnderAnotherStatesName) {
  Monitor first;
  boot(first);
  pause(first);
  must(create_as(first, "0", "mem"));
  for (unsigned link = 1; link <= 3; ++link) {
    Monitor again;
    must(load(again, std::to_string(link - 1), "mem",
              std::string{R"(, "resume_vm": true, "track_dirty_pages": )"} + (GetParam() ? "true" : "false")));
    round(again, link);
    pause(again);
    must(create_as(again, std::to_string(link), "mem", "Diff"));
    expect_round(std::to_string(link), "mem", link + 1);
    resume(again);
    round(again, link + 1);
    end(again);
  }
}

INSTANTIATE_TEST_SUITE_P(All, InPlaceTest, ::testing::Bool(),
                         [](const auto& info) { return info.param ? "Tracked" : "Untracked"; });

TEST_F(SnapshotPairTest, TheCommandLineMergesADiffWithItsBase) {
  Monitor monitor{{"--id", "in-place"}};
  boot(monitor);
  const auto take = [&](std::vector<std::string> more) {
    std::vector<std::string> words = {monitor_binary(), "snapshot",    "create",   monitor.socket_path(),
                                      "--state",        file("state"), "--memory", file("mem")};
    words.insert(words.end(), more.begin(), more.end());
    ChildProcess command{words, {}};
    return command.wait();
  };
  ASSERT_EQ(take({}), 0);
  round(monitor, 1);
  ASSERT_EQ(take({"--diff"}), 0);
  expect_round("state", "mem", 2);
  end(monitor);
}

TEST_F(SnapshotPairTest, ADiffOntoADiffIsADiffOfTheSameBase) {
  Monitor first;
  boot(first, R"("mem_size_mib": 128, "vcpu_count": 1, "track_dirty_pages": true)");
  pause(first);
  must(create_as(first, "base.state", "base.mem"));
  for (unsigned link = 1; link <= 3; ++link) {
    resume(first);
    round(first, link);
    pause(first);
    must(create_as(first, "state", "diff", "Diff"));
  }
  expect_pair("base.state", "base.mem");
  const auto diff = verify_pair(file("state"), file("diff"));
  ASSERT_TRUE(diff) << diff.error().message;
  EXPECT_EQ(diff->footer.kind, MemoryFileKind::Diff);
  ChildProcess merge{{monitor_binary(), "snapshot", "merge", "--base", file("base.mem"), "--diff", file("diff"),
                      "--output", file("merged")},
                     {}};
  ASSERT_EQ(merge.wait(), 0);
  expect_round("state", "merged", 4);
}

TEST_F(SnapshotPairTest, ABaseIsKnownInAnySpellingAndThroughALink) {
  Monitor first;
  boot(first);
  pause(first);
  must(create_as(first, "base.state", "base.mem"));
  fs::create_directory(file("sub"));
  fs::create_symlink("base.mem", file("link"));
  resume(first);
  round(first, 1);
  pause(first);
  // A link is replaced and not followed, as ever: the old pair stays.
  must(create_as(first, "linked.state", "link", "Diff"));
  EXPECT_FALSE(fs::is_symlink(file("link")));
  expect_round("linked.state", "link", 2);
  expect_round("base.state", "base.mem", 1);
  resume(first);
  round(first, 2);
  pause(first);
  must(create_as(first, "spelled.state", "sub/.././link", "Diff"));
  expect_round("spelled.state", "link", 3);
}

TEST_F(SnapshotPairTest, ADiffOntoAnothersMemoryTakesItsPlace) {
  Monitor first;
  boot(first);
  pause(first);
  must(create_as(first, "other.state", "other.mem"));
  must(create_as(first, "base.state", "base.mem"));
  must(create_as(first, "diff.state", "other.mem", "Diff"));
  const auto pair = verify_pair(file("diff.state"), file("other.mem"));
  ASSERT_TRUE(pair) << pair.error().message;
  EXPECT_EQ(pair->footer.kind, MemoryFileKind::Diff);
}

TEST_F(SnapshotPairTest, ADamagedBaseIsRefusedAndNothingChanges) {
  Monitor first;
  boot(first, R"("mem_size_mib": 128, "vcpu_count": 1, "track_dirty_pages": true)");
  pause(first);
  must(create_as(first, "state", "mem"));
  resume(first);
  round(first, 1);
  pause(first);
  const std::uint64_t before = inode("mem");
  const std::string state = content_of(file("state"));
  const auto refused_with_flipped = [&](std::uint64_t at, const std::string& words) {
    flip("mem", at);
    expect_refused(create_as(first, "state", "mem", "Diff"), words);
    flip("mem", at);
    EXPECT_EQ(inode("mem"), before);
    EXPECT_TRUE(content_of(file("state")) == state);
  };
  refused_with_flipped(kLabel.offset + 16, "is damaged: its footer has changed");
  refused_with_flipped(kLabel.offset + 3 * 4096 + 8, "is damaged: its table of data has changed");
  refused_with_flipped((32 << 20) + 4096, "has changed since it was written");
  expect_round("state", "mem", 1);
  must(create_as(first, "state", "mem", "Diff"));
  expect_round("state", "mem", 2);
}

TEST_F(SnapshotPairTest, ADiffOntoWhatTheMachineIsMappedFromIsRefusedWhereThatIsLost) {
  {
    Monitor first;
    boot(first);
    pause(first);
    must(create_as(first, "state", "mem"));
  }
  Monitor again;
  must(load(again, "state", "mem"));
  round(again, 1);
  pause(again);
  for (std::uint64_t at = kLabel.offset; at < kLabel.offset + 8; ++at) flip("mem", at);
  expect_refused(create_as(again, "state", "mem", "Diff"), "if it is the diff's base, it is lost");
  must(create_as(again, "state", "mem"));
  expect_round("state", "mem", 2);
}

/// On a file system whose files share blocks; only the monitor sees it.
TEST_F(SnapshotPairTest, WhereBlocksCanBeSharedADiffOntoItsBaseTakesWhatHasChanged) {
  if (::geteuid() != 0) GTEST_SKIP() << "mounting a file system needs root";
  const std::string disk = file("disk");
  fs::create_directory(disk);
  make_file(file("image"), "");
  fs::resize_file(file("image"), 512 << 20);
  ChildProcess format{{"mkfs.btrfs", "-q", file("image")}, {}};
  if (format.wait() != 0) GTEST_SKIP() << "mkfs.btrfs is missing (package btrfs-progs)";
  Monitor monitor{
      {}, {"unshare", "--mount", "sh", "-c", "mount -o loop " + file("image") + " " + disk + " && exec \"$@\"", "sh"}};
  const std::string root = "/proc/" + std::to_string(monitor.process().pid()) + "/root";
  const auto used = [&] {
    const OwnedFd directory{::open((root + disk).c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC)};
    struct statvfs disk_status{};
    EXPECT_EQ(::syncfs(directory.get()), 0);
    EXPECT_EQ(::fstatvfs(directory.get(), &disk_status), 0);
    return (disk_status.f_blocks - disk_status.f_bfree) * disk_status.f_frsize;
  };
  boot(monitor, R"("mem_size_mib": 128, "vcpu_count": 1, "track_dirty_pages": true)", "console=ttyS0 dirty_mib=48");
  pause(monitor);
  must(create_as(monitor, "disk/state", "disk/mem"));
  const std::uint64_t before = used();
  EXPECT_GT(before, 48U << 20);
  // Another link keeps the base's blocks in use: what is added is what the merged file has alone.
  const OwnedFd base{::open((root + disk + "/mem").c_str(), O_RDONLY | O_CLOEXEC)};
  must(create_as(monitor, "disk/state", "disk/mem", "Diff"));
  EXPECT_LT(used(), before + (4U << 20));
  resume(monitor);
  round(monitor, 1);
  pause(monitor);
  must(create_as(monitor, "disk/state", "disk/mem", "Diff"));
  for (const std::string name : {"state", "mem"}) fs::copy_file(root + disk + "/" + name, file(name));
  expect_pair("state", "mem");
  expect_round("state", "mem", 2);
}

// --- Names -----------------------------------------------------------------------------------------------------------

TEST_F(SnapshotPairTest, TwoSpellingsOfOnePathAreRefused) {
  Monitor monitor;
  boot(monitor);
  pause(monitor);
  must(create_as(monitor, "state", "mem"));
  fs::create_directory(file("sub"));
  fs::create_directory_symlink("sub", file("alias"));
  for (const auto& [state, memory] : {std::pair<std::string, std::string>{"s", "./s"},
                                      {"sub/s", "alias/s"},
                                      {"s", "sub/../s"},
                                      {"s", "s.mayfly-new"},
                                      {"./s.mayfly-new", "s"}})
    expect_refused(create_as(monitor, state, memory), "name one file");
  EXPECT_FALSE(fs::exists(file("s")));
  // The next diff still is of what was there before.
  must(create_as(monitor, "diff.state", "diff.mem", "Diff"));
  ChildProcess merge{{monitor_binary(), "snapshot", "merge", "--base", file("mem"), "--diff", file("diff.mem"),
                      "--output", file("mem")},
                     {}};
  EXPECT_EQ(merge.wait(), 0);
  expect_round("diff.state", "mem", 1);
}

TEST_F(SnapshotPairTest, APairThatAnotherProcessWritesIsRefused) {
  Monitor monitor;
  boot(monitor);
  pause(monitor);
  must(create_as(monitor, "state", "mem"));
  for (const std::string name : {"mem", "state"}) {
    const auto other = NewFile::create(file(name), "test");
    ASSERT_TRUE(other) << other.error().message;
    const HttpAnswer refused = create_as(monitor, "state", "mem");
    EXPECT_EQ(refused.status, 400);
    EXPECT_NE(refused.body.find(file(name) + ": another process is writing it"), std::string::npos) << refused.body;
    EXPECT_TRUE(other->in_place()) << "the other's file is left alone";
  }
  expect_pair("state", "mem");
  must(create_as(monitor, "state", "mem"));
}

TEST_F(SnapshotPairTest, TwoMonitorsThatWriteOnePairAtOnceLeaveAWholeOne) {
  Monitor first;
  Monitor second;
  for (Monitor* monitor : {&first, &second}) {
    boot(*monitor);
    pause(*monitor);
  }
  must(create_as(first, "state", "mem"));
  for (int i = 0; i < 20; ++i) {
    HttpAnswer other;
    std::thread beside{[&] { other = create_as(second, "state", "mem"); }};
    const HttpAnswer answer = create_as(first, "state", "mem");
    beside.join();
    const auto good = [](const HttpAnswer& each) {
      return each.status == 204 || each.body.find("another process is writing") != std::string::npos;
    };
    EXPECT_TRUE(good(answer) && good(other)) << answer.body << other.body;
    EXPECT_TRUE(answer.status == 204 || other.status == 204) << answer.body << other.body;
    expect_pair("state", "mem");
  }
}

TEST_F(SnapshotPairTest, MemoryThatAnotherStateNeedsIsNotReplaced) {
  Monitor monitor;
  boot(monitor);
  pause(monitor);
  must(create_as(monitor, "state", "mem"));
  // As a monitor leaves it that is killed between the names of its state and its memory.
  fs::rename(file("mem"), file("mem.mayfly-new"));
  for (const char* const type : {"Full", "Diff"}) {
    const HttpAnswer refused = create_as(monitor, "next", "mem", type);
    EXPECT_EQ(refused.status, 400);
    EXPECT_NE(refused.body.find("mayfly snapshot sweep"), std::string::npos) << refused.body;
    EXPECT_FALSE(fs::exists(file("next")));
    expect_pair("state", "mem");
  }
  // Its own state's next snapshot, or that of none, may.
  must(create_as(monitor, "state", "mem"));
  fs::rename(file("mem"), file("mem.mayfly-new"));
  fs::remove(file("state"));
  must(create_as(monitor, "next", "mem"));
  expect_pair("next", "mem");
}

TEST_F(SnapshotPairTest, FifosHoldNobodyUp) {
  const auto fifo = [&](const std::string& name) { ASSERT_EQ(::mkfifo(file(name).c_str(), 0600), 0) << name; };
  Monitor monitor;
  boot(monitor);
  pause(monitor);
  must(create_as(monitor, "state", "mem"));
  for (const char* const type : {"Full", "Diff"}) {
    // Of new files, a FIFO is something that was left there.
    fifo("mem.mayfly-new");
    must(create_as(monitor, "state", "mem", type));
    fifo("state.mayfly-new");
    must(create_as(monitor, "state", "mem", type));
    fifo("fifo");
    expect_refused(create_as(monitor, "state", "fifo", type), "is there and no regular file");
    expect_refused(create_as(monitor, "fifo", "mem", type), "is there and no regular file");
    fs::remove(file("fifo"));
  }
  fifo("fifo");
  Monitor loader;
  expect_refused(load(loader, "fifo", "mem"), "is not a regular file");
  expect_refused(load(loader, "state", "fifo"), "is not a regular file");
  expect_refused(
      load(loader, "state", "mem", R"(, "working_set": {"mode": "Replay", "path": ")" + file("fifo") + "\"}"),
      "is not a regular file");
  expect_refused(
      load(loader, "state", "mem", R"(, "working_set": {"mode": "Record", "path": ")" + file("fifo") + "\"}"),
      "is there and no regular file");
  fs::rename(file("mem"), file("kept"));
  fifo("mem.mayfly-new");
  EXPECT_EQ(load(loader, "state", "mem").status, 400);
  must(load(loader, "state", "kept"));
  round(loader, 1);
}

}  // namespace
}  // namespace mayfly::testing
