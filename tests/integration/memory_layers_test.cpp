// Memory in layers: chains of diffs that are loaded as they are, by bare-metal guests on this machine's /dev/kvm.

#include "snapshot/file_pair.h"
#include "snapshot/memory_chain.h"
#include "snapshot/verify.h"
#include "snapshot/working_set.h"
#include "tests/integration/snapshot_fixture.h"

#include <fcntl.h>
#include <unistd.h>

#include <filesystem>
#include <sstream>

namespace mayfly::testing {
namespace {

namespace fs = std::filesystem;

/// The guest writes every third page anew in each round, so the layers show a page each in turn.
class MemoryLayersTest : public SnapshotTest {
 protected:
  static std::string layer(std::size_t number) { return "layer-" + std::to_string(number); }

  /// A base, layer-1, and diffs over it: after each a round of the guest.
  void take_layers(std::size_t count, bool track = true) const {
    Monitor first;
    boot_survivor(first, track);
    for (std::size_t i = 1; i <= count; ++i) {
      pause(first);
      must(create(first, layer(i), i == 1 ? "Full" : "Diff"));
      resume(first);
      if (i < count) round(first, static_cast<unsigned>(i));
    }
  }
  static void boot_survivor(Monitor& monitor, bool track) {
    must(monitor.put("/machine-config", std::string{R"({"mem_size_mib": 128, "vcpu_count": 1, "track_dirty_pages": )"} +
                                            (track ? "true}" : "false}")));
    monitor.boot("survivor");
    monitor.console_until("survivor ready");
  }
  /// Of the layers 1 to `count`, and what lies over them.
  [[nodiscard]] std::vector<std::string> layers(std::size_t count, const std::vector<std::string>& over = {}) const {
    std::vector<std::string> names;
    for (std::size_t i = 1; i <= count; ++i) names.push_back(layer(i));
    names.insert(names.end(), over.begin(), over.end());
    return names;
  }
  [[nodiscard]] std::vector<std::string> paths_of(const std::vector<std::string>& names) const {
    std::vector<std::string> paths;
    for (const std::string& name : names) paths.push_back(file(name + ".mem"));
    return paths;
  }
  /// Loads the snapshot of the last layer.
  [[nodiscard]] HttpAnswer load_chain(Monitor& monitor, const std::vector<std::string>& names,
                                      const std::string& more = R"(, "resume_vm": true)") const {
    return load_as(monitor, names.back(), names, more);
  }
  [[nodiscard]] HttpAnswer load_as(Monitor& monitor, const std::string& state, const std::vector<std::string>& names,
                                   const std::string& more = R"(, "resume_vm": true)") const {
    std::string list;
    for (const std::string& path : paths_of(names)) list += (list.empty() ? "\"" : ", \"") + path + '"';
    return monitor.put("/snapshot/load", R"({"snapshot_path": ")" + file(state + ".state") +
                                             R"(", "mem_backend": {"backend_type": "File", "backend_paths": [)" + list +
                                             "]}" + more + "}");
  }
  /// The guest of the chain checks all of its memory in its next round, and ends.
  void expect_round(const std::vector<std::string>& names, unsigned number) const {
    Monitor again;
    must(load_chain(again, names));
    round(again, number);
    end(again);
  }
  void expect_whole(const std::vector<std::string>& names) const {
    const auto pair = verify_chain(file(names.back() + ".state"), paths_of(names));
    ASSERT_TRUE(pair) << pair.error().message;
    EXPECT_EQ(pair->layers.front().footer.kind, MemoryFileKind::Full);
  }
  void expect_refused(const std::string& state, const std::vector<std::string>& names,
                      const std::vector<std::string>& words) const {
    Monitor monitor;
    const HttpAnswer refused = load_as(monitor, state, names);
    EXPECT_EQ(refused.status, 400) << refused.body;
    for (const std::string& each : words) EXPECT_NE(refused.body.find(each), std::string::npos) << refused.body;
    // And nothing is left of it.
    must(load_chain(monitor, layers(3)));
    round(monitor, 3);
    end(monitor);
  }
};

// --- Loads -----------------------------------------------------------------------------------------------------------

TEST_F(MemoryLayersTest, ChainsOf1And2And8And32AreLoaded) {
  take_layers(32);
  for (const unsigned count : {1U, 2U, 8U, 32U}) expect_round(layers(count), count);
}

TEST_F(MemoryLayersTest, DiffsOfUntrackedMachinesMakeChainsToo) {
  take_layers(4, false);
  expect_round(layers(4), 4);
}

TEST_F(MemoryLayersTest, ATerminalRestoresAChain) {
  take_layers(3);
  Pipe in, out;
  ASSERT_EQ(::write(in.write.get(), "q", 1), 1);
  const std::vector<std::string> files = paths_of(layers(3));
  ChildProcess process{{monitor_binary(), "restore", "--state", file(layer(3) + ".state"), "--memory", files[0], "-m",
                        files[1], "-m", files[2]},
                       {.in = in.read.get(), .out = out.write.get()}};
  out.write.reset();
  std::string console;
  read_until(out.read.get(), console, "");
  EXPECT_EQ(process.wait(), 0);
  EXPECT_NE(console.find("GUEST PASS"), std::string::npos) << console;
}

TEST_F(MemoryLayersTest, TransparentHugePagesAndTracksOfChangesGoWithAChain) {
  take_layers(3);
  Monitor monitor;
  must(
      load_chain(monitor, layers(3), R"(, "resume_vm": true, "huge_pages": "Transparent", "track_dirty_pages": true)"));
  round(monitor, 3);
  end(monitor);
}

TEST_F(MemoryLayersTest, LayersThatAKilledMonitorLeftAreFound) {
  take_layers(3);
  for (std::size_t i = 1; i <= 3; ++i) fs::rename(file(layer(i) + ".mem"), file(layer(i) + ".mem.mayfly-new"));
  expect_round(layers(3), 3);
}

/// Bytes of a field of proc(5), smaps, over the mappings of a process's memory files.
std::uint64_t bytes_in_smaps(pid_t process, const std::string& field) {
  std::istringstream lines{content_of("/proc/" + std::to_string(process) + "/smaps")};
  std::uint64_t sum = 0;
  bool counts = false;
  for (std::string line; std::getline(lines, line);) {
    const bool is_header = line.find('-') < line.find(' ');
    if (is_header) counts = line.ends_with(".mem");
    if (counts && line.starts_with(field + ":")) sum += std::stoull(line.substr(field.size() + 1)) * 1024;
  }
  return sum;
}

TEST_F(MemoryLayersTest, ClonesShareTheirPages) {
  take_layers(8);
  Monitor one, other;
  for (Monitor* clone : {&one, &other}) {
    must(load_chain(*clone, layers(8)));
    round(*clone, 8);  // reads all pages, and writes every third
    pause(*clone);
  }
  constexpr std::uint64_t kPages = 1024;
  for (Monitor* clone : {&one, &other}) {
    const pid_t process = clone->process().pid();
    EXPECT_GE(bytes_in_smaps(process, "Shared_Clean"), kPages * 2 / 3 * kGuestPageSize);
    EXPECT_LT(bytes_in_smaps(process, "Private_Dirty"), kPages / 2 * kGuestPageSize);
    EXPECT_LT(bytes_in_smaps(process, "Private_Clean"), 64 * kGuestPageSize);
  }
  for (Monitor* clone : {&one, &other}) {
    resume(*clone);
    end(*clone);
  }
}

// --- Diffs of a machine that was loaded from a chain -----------------------------------------------------------------

class DiffOfAChainTest : public MemoryLayersTest, public ::testing::WithParamInterface<bool> {
 protected:
  /// A machine of the chain, one round on, and paused.
  void load_and_change(Monitor& monitor) const {
    must(load_chain(monitor, layers(3),
                    std::string{R"(, "resume_vm": true, "track_dirty_pages": )"} + (GetParam() ? "true" : "false")));
    round(monitor, 3);
    pause(monitor);
  }
};

TEST_P(DiffOfAChainTest, LiesOverTheChain) {
  take_layers(3);
  Monitor monitor;
  load_and_change(monitor);
  must(create(monitor, "fourth", "Diff"));
  resume(monitor);
  round(monitor, 4);
  pause(monitor);
  must(create(monitor, "fifth", "Diff"));
  resume(monitor);
  end(monitor);
  expect_whole(layers(3, {"fourth"}));
  expect_round(layers(3, {"fourth"}), 4);
  expect_round(layers(3, {"fourth", "fifth"}), 5);
  std::vector<std::string> words = {monitor_binary(), "snapshot", "merge", "--base", file("layer-1.mem")};
  for (const char* diff : {"layer-2", "layer-3", "fourth", "fifth"}) {
    words.emplace_back("--diff");
    words.push_back(file(std::string{diff} + ".mem"));
  }
  words.insert(words.end(), {"--output", file("fifth.mem")});
  ChildProcess merge{words, {}};
  ASSERT_EQ(merge.wait(), 0);
  expect_round({"fifth"}, 5);
}

TEST_P(DiffOfAChainTest, OntoTheLastLayerIsTheChainAnew) {
  take_layers(3);
  Monitor monitor;
  load_and_change(monitor);
  must(create(monitor, layer(3), "Diff"));
  expect_whole(layers(3));
  expect_round(layers(3), 4);
  resume(monitor);
  round(monitor, 4);
  pause(monitor);
  must(create(monitor, layer(3), "Diff"));
  expect_round(layers(3), 5);
}

TEST_P(DiffOfAChainTest, OntoALowerLayerIsRefused) {
  take_layers(3);
  Monitor monitor;
  load_and_change(monitor);
  for (const std::string& lower : {layer(1), layer(2)}) {
    const HttpAnswer refused = create(monitor, lower, "Diff");
    EXPECT_EQ(refused.status, 400);
    EXPECT_NE(refused.body.find("and is worth nothing without it"), std::string::npos) << refused.body;
  }
  expect_whole(layers(3));
  must(create(monitor, "fourth", "Diff"));
  EXPECT_EQ(create(monitor, layer(1), "Diff").status, 400);
  expect_round(layers(3, {"fourth"}), 4);
  // What is whole needs none of them.
  must(create(monitor, "whole"));
  expect_round({"whole"}, 4);
  must(create(monitor, layer(1), "Diff"));
  expect_round({"whole", layer(1)}, 4);
}

/// A rotation of two files would have each be a diff of the other.
TEST_P(DiffOfAChainTest, OntoASnapshotOfThisMachineThatItLiesOverIsRefused) {
  Monitor monitor;
  boot_survivor(monitor, GetParam());
  pause(monitor);
  must(create(monitor, "first"));
  resume(monitor);
  round(monitor, 1);
  pause(monitor);
  must(create(monitor, "second", "Diff"));
  EXPECT_EQ(create(monitor, "first", "Diff").status, 400);
  must(create(monitor, "second", "Diff"));  // in place
  EXPECT_EQ(create(monitor, "first", "Diff").status, 400);
  must(create(monitor, "third", "Diff"));
  EXPECT_EQ(create(monitor, "second", "Diff").status, 400);
  expect_whole({"first", "second"});
  expect_round({"first", "second", "third"}, 2);
}

/// The same where a killed monitor left the lower layer beside its name.
TEST_P(DiffOfAChainTest, OntoTheNameOfALayerThatIsALeftoverIsRefused) {
  take_layers(3);
  fs::rename(file(layer(2) + ".mem"), new_name(file(layer(2) + ".mem")));
  Monitor monitor;
  load_and_change(monitor);
  fs::create_directory(file("elsewhere"));
  const HttpAnswer refused =
      monitor.put("/snapshot/create", R"({"snapshot_type": "Diff", "snapshot_path": ")" + file("elsewhere/state") +
                                          R"(", "mem_file_path": ")" + file(layer(2) + ".mem") + "\"}");
  EXPECT_EQ(refused.status, 400) << refused.body;
  EXPECT_TRUE(fs::exists(new_name(file(layer(2) + ".mem"))));
}

INSTANTIATE_TEST_SUITE_P(All, DiffOfAChainTest, ::testing::Bool(),
                         [](const auto& info) { return info.param ? "Tracked" : "Untracked"; });

// --- Working sets ----------------------------------------------------------------------------------------------------

TEST_F(MemoryLayersTest, AWorkingSetOfAChainIsRecordedAndReplayed) {
  take_layers(3);
  const std::string set = R"(, "resume_vm": true, "working_set": {"path": ")" + file("set") + R"(", "mode": )";
  {
    Monitor monitor;
    const HttpAnswer loaded = load_chain(monitor, layers(3), set + R"("Record"})");
    if (loaded.body.find("no userfaultfd") != std::string::npos) GTEST_SKIP() << "this process may not use userfaultfd";
    must(loaded);
    round(monitor, 3);
    must(monitor.put("/actions", R"({"action_type": "FinishWorkingSet"})"));
    pause(monitor);
    must(create(monitor, "recorded", "Diff"));
    resume(monitor);
    end(monitor);
  }
  const auto state = verify_chain(file(layer(3) + ".state"), paths_of(layers(3)));
  ASSERT_TRUE(state) << state.error().message;
  const auto recorded = read_working_set(file("set"), state->snapshot.id, 128 * kMiB);
  ASSERT_TRUE(recorded) << recorded.error().message;
  EXPECT_GE(bytes_in(recorded->ranges), 1024 * kGuestPageSize) << "the guest reads all that it has written";
  expect_round(layers(3, {"recorded"}), 4);
  for (const bool cold : {true, false}) {
    for (const std::string& path : paths_of(layers(3))) {
      const OwnedFd memory{::open(path.c_str(), O_RDONLY | O_CLOEXEC)};
      EXPECT_TRUE(!cold || ::posix_fadvise(memory.get(), 0, 0, POSIX_FADV_DONTNEED) == 0);
    }
    Monitor monitor;
    must(load_chain(monitor, layers(3), set + R"("Replay"})"));
    round(monitor, 3);
    end(monitor);
  }
}

TEST_F(MemoryLayersTest, ARecordingTakesTheNameOfNoLayer) {
  take_layers(3);
  for (std::size_t i = 1; i <= 3; ++i) {
    Monitor monitor;
    const HttpAnswer refused = load_chain(
        monitor, layers(3), R"(, "working_set": {"mode": "Record", "path": ")" + file(layer(i) + ".mem") + "\"}");
    EXPECT_EQ(refused.status, 400);
    EXPECT_NE(refused.body.find("is a file of the snapshot; give another path"), std::string::npos) << refused.body;
  }
  expect_round(layers(3), 3);
}

// --- What is refused -------------------------------------------------------------------------------------------------

TEST_F(MemoryLayersTest, WhatIsNoChainIsRefusedAndAChainIsLoadedAfterwards) {
  take_layers(4);
  const auto memory = [this](std::size_t number) { return "memory file " + file(layer(number) + ".mem"); };
  expect_refused(layer(4), {layer(1), layer(3), layer(2), layer(4)},
                 {"layer 3 of 4: " + memory(2), "give the layers in their order, the base first"});
  expect_refused(layer(4), {layer(1), layer(2), layer(4)},
                 {"layer 2 of 3: " + memory(2), "put that one's memory file before layer 3"});
  expect_refused(layer(4), {layer(2), layer(3), layer(4)},
                 {"layer 1 of 3: " + memory(2), "put that one's memory file before it"});
  expect_refused(layer(4), layers(3),
                 {"layer 3 of 3: " + memory(3), "the memory file that was written together with the state file"});
  expect_refused(layer(4), {layer(4)}, {memory(4) + " is a diff of snapshot", "put that one's memory file before it"});
  expect_refused(layer(4), {layer(1), "none", layer(4)}, {"layer 2 of 3", "none.mem cannot be opened"});
  expect_refused(layer(4), std::vector<std::string>(65, layer(1)), {"65 memory files are named, and 64 is the most"});
  fs::resize_file(file(layer(4) + ".mem"), 128 * kMiB - 1);
  expect_refused(layer(4), layers(4),
                 {"layer 4 of 4: " + memory(4), "give a whole copy of the snapshot's memory file"});
}

TEST_F(MemoryLayersTest, ALayerOfAnotherMachineIsRefused) {
  take_layers(3);
  Monitor other;
  boot_survivor(other, true);
  pause(other);
  must(create(other, "foreign"));
  must(create(other, "foreign-diff", "Diff"));
  expect_refused(layer(3), {layer(1), "foreign-diff", layer(3)}, {"layer 2 of 3", "belongs to snapshot"});
  expect_refused(layer(3), {"foreign", layer(2), layer(3)}, {"layer 1 of 3", "belongs to snapshot"});
  expect_refused(layer(3), {layer(1), layer(2), "foreign-diff"}, {"layer 3 of 3", "and the state file to snapshot"});
}

TEST_F(MemoryLayersTest, APageServerHasOneSocket) {
  take_layers(1);
  Monitor monitor;
  const HttpAnswer refused = monitor.put(
      "/snapshot/load", R"({"snapshot_path": ")" + file("layer-1.state") +
                            R"(", "mem_backend": {"backend_type": "Uffd", "backend_paths": ["/a", "/b"]}})");
  EXPECT_EQ(refused.status, 400);
  EXPECT_NE(refused.body.find("backend_paths is for memory files"), std::string::npos) << refused.body;
}

}  // namespace
}  // namespace mayfly::testing
