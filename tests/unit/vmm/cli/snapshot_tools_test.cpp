#include "vmm/cli/snapshot_tools.h"

#include "snapshot/file_pair.h"
#include "snapshot/memory_file.h"
#include "snapshot/state_file.h"
#include "tests/support/child_process.h"
#include "tests/support/files.h"
#include "tests/support/on_worker.h"
#include "tests/unit/snapshot/filled_snapshot.h"
#include "vmm/cli/options.h"

#include <fcntl.h>

#include <filesystem>
#include <functional>

#include <gtest/gtest.h>

namespace mayfly {
namespace {

/// What a tool prints and how it ends.
struct Outcome {
  int code = -1;
  std::string out;
  std::string err;
};

Outcome outcome_of(const std::function<int(std::FILE*)>& tool) {
  char* text = nullptr;
  std::size_t size = 0;
  std::FILE* const out = ::open_memstream(&text, &size);
  ::testing::internal::CaptureStderr();
  const int code = tool(out);
  std::fclose(out);
  Outcome outcome{.code = code, .out = {text, size}, .err = ::testing::internal::GetCapturedStderr()};
  std::free(text);
  return outcome;
}

class SnapshotTools : public ::testing::Test {
 protected:
  /// The memory file of the snapshot, or of another one that it is a diff of.
  void write_memory(const std::string& path, MemoryFileKind kind, const SnapshotId& id, const PageRange& pages) {
    auto memory = GuestMemory::create({.size_mib = 1});
    auto loop = EventLoop::create();
    ASSERT_TRUE(memory && loop);
    const OwnedFd file{::open(path.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600)};
    ASSERT_TRUE(testing::on_worker(**loop, [&] {
      return write_memory_file({.loop = **loop, .memory = *memory}, file, path,
                               {.kind = kind, .id = id, .base_id = {}, .pages = {pages}});
    }));
    (*loop)->close();
  }
  void write_pair(MemoryFileKind kind) {
    snapshot_.machine.mem_size_mib = 1;
    const std::vector<std::byte> bytes = encode_snapshot(snapshot_);
    testing::make_file(state_, {reinterpret_cast<const char*>(bytes.data()), bytes.size()});
    write_memory(memory_, kind, snapshot_.id, {0, 512 * 1024});
  }
  [[nodiscard]] Outcome verify() const {
    return outcome_of([this](std::FILE* out) { return run_verify(state_, std::span{&memory_, 1}, out); });
  }

  testing::ScratchDirectory scratch_;
  std::string state_ = scratch_.file("state");
  std::string memory_ = scratch_.file("memory");
  Snapshot snapshot_ = testing::filled_snapshot();
};

TEST_F(SnapshotTools, VerifySaysWhatItFound) {
  snapshot_.host = this_host_cpu();
  write_pair(MemoryFileKind::Full);
  const Outcome outcome = verify();
  EXPECT_EQ(outcome.code, 0);
  EXPECT_EQ(outcome.out, "snapshot " + format_snapshot_id(snapshot_.id) +
                             " by Mayfly 0.1.0: both files are whole and belong together\n"
                             "vCPUs: 2, memory: 1 MiB (0.5 of them data), drives: 2, network interfaces: 2\n");
  EXPECT_EQ(outcome.err, "");
}

TEST_F(SnapshotTools, VerifySaysWhatARestoreWouldWant) {
  snapshot_.host.vendor = "Elsewhere";
  write_pair(MemoryFileKind::Diff);
  const Outcome outcome = verify();
  EXPECT_EQ(outcome.code, 0);
  EXPECT_NE(outcome.out.find("\nthe memory is a diff: a restore needs the memory file of snapshot 00000000"),
            std::string::npos);
  EXPECT_NE(outcome.out.find("\nnot for this host: the snapshot's processor is of Elsewhere"), std::string::npos);
}

TEST_F(SnapshotTools, WhatIsWrongGoesToStandardError) {
  const Outcome outcome = verify();
  EXPECT_EQ(outcome.code, kExitError);
  EXPECT_EQ(outcome.out, "");
  EXPECT_EQ(outcome.err, "mayfly: snapshot_path " + state_ + " cannot be opened: No such file or directory (ENOENT)\n");
  EXPECT_EQ(outcome_of([this](std::FILE* out) { return run_describe(state_, out); }).code, kExitError);
  EXPECT_EQ(outcome_of([this](std::FILE*) { return run_merge(memory_, std::span{&memory_, 1}, memory_); }).code,
            kExitError);
}

TEST_F(SnapshotTools, SweepSaysWhatBecameOfEachFile) {
  write_pair(MemoryFileKind::Full);
  const std::string made = new_name(memory_);
  std::filesystem::rename(memory_, made);
  const std::string half = testing::make_file(new_name(scratch_.file("half")), std::string(1 << 20, 'x'));
  auto busy = NewFile::create(scratch_.file("zero"), "test");
  ASSERT_TRUE(busy);
  const std::vector<std::string> directories = {scratch_.file("")};
  const auto sweep = [&](bool dry_run) {
    return outcome_of([&](std::FILE* out) { return run_sweep(directories, dry_run, out); });
  };
  const std::string left = "left " + new_name(scratch_.file("zero")) + " (0.0 MiB): a process is writing it\n";
  EXPECT_EQ(sweep(true).out, "would remove " + half + " (1.0 MiB): no state needs it\nwould give " + made +
                                 " its name: it is the memory of " + state_ + "\n" + left);
  const Outcome outcome = sweep(false);
  EXPECT_EQ(outcome.code, 0);
  EXPECT_EQ(outcome.out, "removed " + half + " (1.0 MiB): no state needs it\ngave " + made +
                             " its name: it is the memory of " + state_ + "\n" + left);
  EXPECT_EQ(verify().code, 0);
  EXPECT_EQ(sweep(false).out, left);
  const std::vector<std::string> none = {scratch_.file("none")};
  EXPECT_EQ(outcome_of([&](std::FILE* out) { return run_sweep(none, false, out); }).code, kExitError);
}

TEST_F(SnapshotTools, DescribePrintsALine) {
  write_pair(MemoryFileKind::Full);
  const Outcome outcome = outcome_of([this](std::FILE* out) { return run_describe(state_, out); });
  EXPECT_EQ(outcome.code, 0);
  EXPECT_TRUE(outcome.out.starts_with(R"({"format":1,"id":")"));
  EXPECT_TRUE(outcome.out.ends_with("}\n"));
}

TEST_F(SnapshotTools, VerifyAndDescribeShowTheLayersOfAChain) {
  snapshot_.host = this_host_cpu();
  write_pair(MemoryFileKind::Diff);
  const std::vector<std::string> chain = {scratch_.file("base"), memory_};
  write_memory(chain[0], MemoryFileKind::Full, {}, {256 * 1024, 512 * 1024});
  const Outcome verified = outcome_of([&](std::FILE* out) { return run_verify(state_, chain, out); });
  EXPECT_EQ(verified.code, 0);
  EXPECT_EQ(verified.out, "snapshot " + format_snapshot_id(snapshot_.id) +
                              " by Mayfly 0.1.0: all files are whole and belong together\n"
                              "vCPUs: 2, memory: 1 MiB (0.8 of them data), drives: 2, network interfaces: 2\n"
                              "layer 1 of 2: " +
                              chain[0] +
                              ", snapshot 00000000000000000000000000000000, 0.5 MiB of data, 0.2 of them not hidden\n"
                              "layer 2 of 2: " +
                              memory_ + ", snapshot " + format_snapshot_id(snapshot_.id) +
                              ", 0.5 MiB of data, 0.5 of them not hidden\n");
  const Outcome described = outcome_of([&](std::FILE* out) { return run_describe(state_, chain, out); });
  EXPECT_EQ(described.code, 0);
  EXPECT_TRUE(described.out.starts_with(R"({"format":1,"id":")"));
  EXPECT_TRUE(described.out.ends_with(
      R"("memory_layers":[{"path":")" + chain[0] +
      R"(","kind":"Full","snapshot":"00000000000000000000000000000000","stretches":1,"data_bytes":524288,)" +
      R"("shown_bytes":262144},{"path":")" + memory_ + R"(","kind":"Diff","snapshot":")" +
      format_snapshot_id(snapshot_.id) + R"(","base":"00000000000000000000000000000000","stretches":1,)" +
      R"("data_bytes":524288,"shown_bytes":524288}]})" + "\n"))
      << described.out;
  const std::vector<std::string> turned = {memory_, chain[0]};
  EXPECT_EQ(outcome_of([&](std::FILE* out) { return run_verify(state_, turned, out); }).code, kExitError);
  EXPECT_EQ(outcome_of([&](std::FILE* out) { return run_describe(state_, turned, out); }).code, kExitError);
}

}  // namespace
}  // namespace mayfly
