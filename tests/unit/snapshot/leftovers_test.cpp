#include "snapshot/leftovers.h"

#include "snapshot/file_pair.h"
#include "snapshot/memory_file.h"
#include "snapshot/state_file.h"
#include "snapshot/verify.h"
#include "tests/support/child_process.h"
#include "tests/support/files.h"
#include "tests/support/on_worker.h"
#include "tests/unit/snapshot/filled_snapshot.h"
#include "tests/unit/snapshot/no_override.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <map>

#include <gtest/gtest.h>

namespace mayfly {
namespace {

namespace fs = std::filesystem;
using Fate = Leftover::Fate;

SnapshotId numbered(std::uint8_t number) {
  SnapshotId id{};
  id.fill(number);
  return id;
}

/// Files of snapshots in one directory or two.
class Leftovers : public ::testing::Test {
 protected:
  Leftovers() {
    fs::create_directory(file("a"));
    fs::create_directory(file("b"));
  }
  [[nodiscard]] std::string file(const std::string& name) const { return scratch_.file(name); }
  void write_state(const std::string& name, std::uint8_t id) const {
    Snapshot snapshot = testing::filled_snapshot();
    snapshot.machine.mem_size_mib = 1;
    snapshot.id = numbered(id);
    const std::vector<std::byte> bytes = encode_snapshot(snapshot);
    testing::make_file(file(name), {reinterpret_cast<const char*>(bytes.data()), bytes.size()});
  }
  void write_memory(const std::string& name, std::uint8_t id, MemoryFileKind kind = MemoryFileKind::Full) const {
    auto memory = GuestMemory::create({.size_mib = 1});
    auto loop = EventLoop::create();
    ASSERT_TRUE(memory && loop);
    const OwnedFd open{::open(file(name).c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600)};
    ASSERT_TRUE(testing::on_worker(**loop, [&] {
      return write_memory_file({.loop = **loop, .memory = *memory}, open, file(name),
                               {.kind = kind, .id = numbered(id), .base_id = {}, .pages = {{0, kGuestPageSize}}});
    }));
    (*loop)->close();
  }
  /// What becomes of each file, by its name; a dry run says the same and changes nothing.
  [[nodiscard]] std::map<std::string, Fate> sweep(const std::vector<std::string>& names) {
    std::vector<std::string> directories;
    for (const std::string& name : names) directories.push_back(file(name));
    std::map<std::string, Fate> dry;
    const auto before = files();
    EXPECT_TRUE(sweep_leftovers(directories, true, [&](const Leftover& found) { dry[found.path] = found.fate; }));
    EXPECT_EQ(files(), before);
    std::map<std::string, Fate> swept;
    const auto status = sweep_leftovers(directories, false, [&](const Leftover& found) {
      swept[found.path] = found.fate;
      reasons_[found.path] = found.reason;
    });
    EXPECT_TRUE(status) << status.error().message;
    EXPECT_EQ(swept, dry);
    std::map<std::string, Fate> by_name;
    for (const auto& [path, fate] : swept) by_name[fs::path{path}.filename()] = fate;
    return by_name;
  }
  [[nodiscard]] std::map<std::string, std::uint64_t> files() const {
    std::map<std::string, std::uint64_t> found;
    for (const auto& entry : fs::recursive_directory_iterator{file("")}) {
      struct stat status{};
      EXPECT_EQ(::lstat(entry.path().c_str(), &status), 0);
      found[entry.path()] = status.st_ino;
    }
    return found;
  }
  [[nodiscard]] bool pair_is_whole(const std::string& state, const std::string& memory) const {
    return verify_pair(file(state), file(memory)).has_value();
  }

  testing::ScratchDirectory scratch_;
  std::map<std::string, std::string> reasons_;
};

TEST_F(Leftovers, WhatNoStateNeedsIsRemoved) {
  write_state("a/state", 1);
  write_memory("a/mem", 1);
  write_memory("a/mem.mayfly-new", 2);   // whole; its state was not written
  write_state("a/state.mayfly-new", 2);  // not renamed
  testing::make_file(file("a/half.mayfly-new"), "half of a memory file");
  testing::make_file(file("a/empty.mayfly-new"), "");
  testing::make_file(file("a/other"), "not ours");
  EXPECT_EQ(sweep({"a"}), (std::map<std::string, Fate>{{"empty.mayfly-new", Fate::Removed},
                                                       {"half.mayfly-new", Fate::Removed},
                                                       {"mem.mayfly-new", Fate::Removed},
                                                       {"state.mayfly-new", Fate::Removed}}));
  EXPECT_EQ(files().size(), 5U) << "two directories, the pair and the other file";
  EXPECT_TRUE(pair_is_whole("a/state", "a/mem"));
  EXPECT_TRUE(sweep({"a"}).empty());
}

TEST_F(Leftovers, TheMemoryOfAStateGetsItsName) {
  for (const MemoryFileKind kind : {MemoryFileKind::Full, MemoryFileKind::Diff}) {
    write_state("a/state", 2);
    write_memory("a/mem", 1);
    write_memory("a/mem.mayfly-new", 2, kind);
    EXPECT_EQ(sweep({"a"}), (std::map<std::string, Fate>{{"mem.mayfly-new", Fate::Named}}));
    EXPECT_EQ(reasons_[file("a/mem.mayfly-new")], file("a/state"));
    EXPECT_FALSE(fs::exists(file("a/mem.mayfly-new")));
    EXPECT_TRUE(pair_is_whole("a/state", "a/mem"));
  }
}

TEST_F(Leftovers, AStateInAnotherOfTheDirectoriesCounts) {
  write_state("b/state", 2);
  write_memory("a/mem.mayfly-new", 2);
  EXPECT_EQ(sweep({"a", "b"}), (std::map<std::string, Fate>{{"mem.mayfly-new", Fate::Named}}));
  EXPECT_TRUE(pair_is_whole("b/state", "a/mem"));
}

TEST_F(Leftovers, MemoryWhoseStateHasItUnderItsNameIsRemoved) {
  write_state("a/state", 2);
  write_memory("a/mem", 2);
  write_memory("a/mem.mayfly-new", 2);
  EXPECT_EQ(sweep({"a"}), (std::map<std::string, Fate>{{"mem.mayfly-new", Fate::Removed}}));
  EXPECT_TRUE(pair_is_whole("a/state", "a/mem"));
}

TEST_F(Leftovers, WhatAProcessIsWritingIsLeft) {
  auto writing = NewFile::create(file("a/mem"), "test");
  ASSERT_TRUE(writing) << writing.error().message;
  EXPECT_EQ(sweep({"a"}), (std::map<std::string, Fate>{{"mem.mayfly-new", Fate::Busy}}));
  EXPECT_TRUE(writing->in_place());
  writing->keep();  // as if it had been killed
  EXPECT_EQ(sweep({"a"}), (std::map<std::string, Fate>{{"mem.mayfly-new", Fate::Removed}}));
}

TEST_F(Leftovers, WholeMemoryIsLeftWhereAStateCannotBeRead) {
  write_state("a/state", 2);
  fs::resize_file(file("a/state"), fs::file_size(file("a/state")) / 2);
  write_memory("a/mem.mayfly-new", 2);
  testing::make_file(file("a/half.mayfly-new"), "half");
  EXPECT_EQ(sweep({"a"}),
            (std::map<std::string, Fate>{{"half.mayfly-new", Fate::Removed}, {"mem.mayfly-new", Fate::Uncertain}}));
  EXPECT_EQ(reasons_[file("a/mem.mayfly-new")],
            "it is whole, and state file " + file("a/state") + " that may need it cannot be read");
}

TEST_F(Leftovers, WholeMemoryIsLeftWhereADirectoryCannotBeRead) {
  write_state("b/state", 2);
  write_memory("a/mem.mayfly-new", 2);
  testing::make_file(file("a/half.mayfly-new"), "half");
  const std::vector<std::string> directories = {file("a"), file("misspelt")};
  std::map<std::string, Fate> swept;
  std::string reason;
  const auto status = sweep_leftovers(directories, false, [&](const Leftover& found) {
    swept[found.path] = found.fate;
    if (found.fate == Fate::Uncertain) reason = found.reason;
  });
  EXPECT_FALSE(status);
  EXPECT_EQ(swept, (std::map<std::string, Fate>{{file("a/half.mayfly-new"), Fate::Removed},
                                                {file("a/mem.mayfly-new"), Fate::Uncertain}}));
  EXPECT_EQ(reason, "it is whole, and directory " + file("misspelt") + ", where a state may need it, cannot be read");
  EXPECT_EQ(sweep({"a", "b"}), (std::map<std::string, Fate>{{"mem.mayfly-new", Fate::Named}}));
}

TEST_F(Leftovers, WholeMemoryIsLeftWhereAStateCannotBeOpened) {
  write_state("a/state", 2);
  write_memory("a/mem.mayfly-new", 2);
  fs::permissions(file("a/state"), fs::perms::none);
  {
    const testing::NoOverride modes_hold;
    EXPECT_EQ(sweep({"a"}), (std::map<std::string, Fate>{{"mem.mayfly-new", Fate::Uncertain}}));
    const auto before = files();
    const auto settled = finish_interrupted_pair(file("a/state"), file("a/mem"));
    ASSERT_FALSE(settled);
    EXPECT_NE(settled.error().message.find("may be the memory of a state that cannot be read: snapshot_path " +
                                           file("a/state") + " cannot be opened: Permission denied (EACCES)"),
              std::string::npos)
        << settled.error().message;
    EXPECT_EQ(files(), before);
  }
  fs::permissions(file("a/state"), fs::perms::owner_read);
  EXPECT_EQ(sweep({"a"}), (std::map<std::string, Fate>{{"mem.mayfly-new", Fate::Named}}));
}

TEST_F(Leftovers, MemoryOfAStateDoesNotTakeTheNameOfAnotherStates) {
  write_state("a/old", 1);
  write_memory("a/mem", 1);
  write_state("a/diff", 2);  // of a merge that was killed, or of a diff onto its base
  write_memory("a/mem.mayfly-new", 2);
  EXPECT_EQ(sweep({"a"}), (std::map<std::string, Fate>{{"mem.mayfly-new", Fate::Uncertain}}));
  EXPECT_EQ(reasons_[file("a/mem.mayfly-new")],
            "it is the memory of " + file("a/diff") + ", and " + file("a/mem") + " is that of " + file("a/old") +
                "; both load; move that pair away, or remove that state, and sweep again");
  EXPECT_TRUE(pair_is_whole("a/old", "a/mem"));
  fs::remove(file("a/old"));
  EXPECT_EQ(sweep({"a"}), (std::map<std::string, Fate>{{"mem.mayfly-new", Fate::Named}}));
}

TEST_F(Leftovers, AStateThatIsNamedDuringASweepKeepsItsMemory) {
  testing::make_file(file("a/half.mayfly-new"), "half");
  write_memory("a/mem.mayfly-new", 2);
  std::optional<OwnedFd> monitor{::open(file("a/mem.mayfly-new").c_str(), O_RDWR | O_CLOEXEC)};
  struct flock whole{};
  whole.l_type = F_WRLCK;
  ASSERT_EQ(::fcntl(monitor->get(), F_OFD_SETLK, &whole), 0);
  std::map<std::string, Fate> swept;
  const std::vector<std::string> directories = {file("a")};
  EXPECT_TRUE(sweep_leftovers(directories, false, [&](const Leftover& found) {
    swept[found.path] = found.fate;
    if (!monitor) return;
    write_state("a/state", 2);  // the state counts now, and the monitor dies
    monitor.reset();
  }));
  EXPECT_EQ(swept, (std::map<std::string, Fate>{{file("a/half.mayfly-new"), Fate::Removed},
                                                {file("a/mem.mayfly-new"), Fate::Busy}}));
  EXPECT_EQ(sweep({"a"}), (std::map<std::string, Fate>{{"mem.mayfly-new", Fate::Named}}));
}

TEST_F(Leftovers, OnlyRegularFilesOfTheDirectoryItselfAreLookedAt) {
  fs::create_directories(file("a/sub.mayfly-new"));
  testing::make_file(file("a/sub.mayfly-new/x.mayfly-new"), "deeper");
  ASSERT_EQ(::mkfifo(file("a/fifo.mayfly-new").c_str(), 0600), 0);
  ASSERT_EQ(::mkfifo(file("a/fifo").c_str(), 0600), 0);
  testing::make_file(file("b/precious"), "precious");
  fs::create_symlink(file("b/precious"), file("a/link.mayfly-new"));
  const auto before = files();
  EXPECT_TRUE(sweep({"a"}).empty());
  EXPECT_EQ(files(), before);
}

TEST_F(Leftovers, ADirectoryMayBeNamedTwiceAndOneThatIsNotThereIsToldOf) {
  testing::make_file(file("a/half.mayfly-new"), "half");
  const std::vector<std::string> directories = {file("none"), file("a"), file("a/../a")};
  int found = 0;
  const auto status = sweep_leftovers(directories, false, [&](const Leftover&) { ++found; });
  EXPECT_EQ(found, 1);
  ASSERT_FALSE(status);
  EXPECT_EQ(status.error().message,
            "directory " + file("none") + " cannot be read: No such file or directory (ENOENT)");
}

// --- What the next snapshot to the same names does -------------------------------------------------------------------

TEST_F(Leftovers, ASettledPairHasItsNames) {
  write_state("b/state", 2);
  write_memory("a/mem", 1);
  write_memory("a/mem.mayfly-new", 2);
  ASSERT_TRUE(finish_interrupted_pair(file("b/state"), file("a/mem")));
  EXPECT_FALSE(fs::exists(file("a/mem.mayfly-new")));
  EXPECT_TRUE(pair_is_whole("b/state", "a/mem"));
}

TEST_F(Leftovers, MemoryOfAnotherStateIsNotReplaced) {
  write_state("a/state", 1);
  write_memory("b/mem", 1);
  write_memory("b/mem.mayfly-new", 2);
  for (const std::string other : {"a/other", "b/other"}) {
    write_state(other, 2);
    for (const std::string path : {"a/state", "a/next"}) {
      const auto before = files();
      const auto settled = finish_interrupted_pair(file(path), file("b/mem"));
      ASSERT_FALSE(settled);
      EXPECT_TRUE(settled.error().message.starts_with("mem_file_path " + file("b/mem") + ": " +
                                                      file("b/mem.mayfly-new") + " is the memory of " + file(other) +
                                                      ", as the monitor that wrote it was killed"))
          << settled.error().message;
      EXPECT_EQ(files(), before);
    }
    fs::remove(file(other));
  }
  EXPECT_TRUE(finish_interrupted_pair(file("a/state"), file("b/mem"))) << "its state never was";
}

TEST_F(Leftovers, TheLayerBelowADiffIsLeftAndNotReplaced) {
  for (const char* diff : {"a/diff", "a/diff.mayfly-new"}) {
    write_memory("a/base.mayfly-new", 0);
    write_memory(diff, 1, MemoryFileKind::Diff);  // of 0, whose state is gone
    write_state("a/state", 1);
    const auto settled = finish_interrupted_pair(file("a/new"), file("a/base"));
    ASSERT_FALSE(settled);
    EXPECT_EQ(settled.error().message, "mem_file_path " + file("a/base") + ": " + file("a/base.mayfly-new") +
                                           ", which a killed monitor left, is what " + file(diff) +
                                           " is a diff of; rename it, or give another path");
    EXPECT_EQ(sweep({"a"})["base.mayfly-new"], Fate::Uncertain);
    EXPECT_TRUE(reasons_[file("a/base.mayfly-new")].starts_with(file(diff) + " is a diff of it; rename it to " +
                                                                file("a/base")))
        << reasons_[file("a/base.mayfly-new")];
    EXPECT_TRUE(fs::exists(file("a/base.mayfly-new")));
    fs::remove(file("a/diff"));
    EXPECT_EQ(sweep({"a"}), (std::map<std::string, Fate>{{"base.mayfly-new", Fate::Removed}}));
  }
}

TEST_F(Leftovers, AMergeDoesNotReplaceTheMemoryOfAState) {
  write_memory("a/base", 0);
  write_memory("a/diff", 1, MemoryFileKind::Diff);
  write_state("a/state", 2);
  write_memory("a/mem.mayfly-new", 2);
  const auto refused = merge_memory_files(file("a/base"), file("a/diff"), file("a/mem"));
  ASSERT_FALSE(refused);
  EXPECT_NE(refused.error().message.find("is the memory of " + file("a/state")), std::string::npos)
      << refused.error().message;
  EXPECT_TRUE(pair_is_whole("a/state", "a/mem"));
  fs::remove(file("a/state"));
  EXPECT_TRUE(merge_memory_files(file("a/base"), file("a/diff"), file("a/mem")));
}

TEST_F(Leftovers, WhatAnotherProcessHasLockedIsNotSettled) {
  write_state("a/state", 2);
  write_memory("a/mem", 1);
  write_memory("a/mem.mayfly-new", 2);
  const auto before = files();
  {
    const OwnedFd other{::open(file("a/mem.mayfly-new").c_str(), O_RDWR | O_CLOEXEC)};
    struct flock whole{};
    whole.l_type = F_WRLCK;
    ASSERT_EQ(::fcntl(other.get(), F_OFD_SETLK, &whole), 0);
    EXPECT_TRUE(finish_interrupted_pair(file("a/state"), file("a/mem")));
    EXPECT_EQ(files(), before);
  }
  EXPECT_TRUE(finish_interrupted_pair(file("a/state"), file("a/mem")));
  EXPECT_TRUE(pair_is_whole("a/state", "a/mem"));
}

TEST_F(Leftovers, WhatIsNotThePairsIsLeftToWhoMakesItsFile) {
  write_state("a/state", 1);
  write_memory("a/mem", 1);
  write_memory("a/mem.mayfly-new", 2);
  const auto before = files();
  EXPECT_TRUE(finish_interrupted_pair(file("a/state"), file("a/mem")));
  EXPECT_TRUE(finish_interrupted_pair(file("a/none"), file("a/mem")));
  EXPECT_TRUE(finish_interrupted_pair(file("a/state"), file("a/none")));
  EXPECT_EQ(files(), before);
}

TEST_F(Leftovers, AFifoInTheWayOfSettlingHoldsNobodyUp) {
  write_state("a/state", 2);
  ASSERT_EQ(::mkfifo(file("a/mem.mayfly-new").c_str(), 0600), 0);
  EXPECT_TRUE(finish_interrupted_pair(file("a/state"), file("a/mem")));
  fs::remove(file("a/mem.mayfly-new"));
  write_memory("a/mem.mayfly-new", 2);
  ASSERT_EQ(::mkfifo(file("a/mem").c_str(), 0600), 0);
  EXPECT_TRUE(finish_interrupted_pair(file("a/state"), file("a/mem")));
}

}  // namespace
}  // namespace mayfly
