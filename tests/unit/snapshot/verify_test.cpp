#include "snapshot/verify.h"

#include "snapshot/file_pair.h"
#include "snapshot/state_file.h"
#include "tests/support/child_process.h"
#include "tests/support/files.h"
#include "tests/support/on_worker.h"
#include "tests/unit/snapshot/filled_snapshot.h"

#include <fcntl.h>
#include <unistd.h>

#include <filesystem>

#include <gtest/gtest.h>

namespace mayfly {
namespace {

/// A snapshot's two files.
class VerifyPair : public ::testing::Test {
 protected:
  VerifyPair() {
    snapshot_.machine.mem_size_mib = 1;
    const std::vector<std::byte> bytes = encode_snapshot(snapshot_);
    testing::make_file(state_, {reinterpret_cast<const char*>(bytes.data()), bytes.size()});
    write_memory(memory_, MemoryFileKind::Full, snapshot_.id);
  }
  static void write_memory(const std::string& path, MemoryFileKind kind, const SnapshotId& id) {
    auto memory = GuestMemory::create({.size_mib = 1});
    auto loop = EventLoop::create();
    ASSERT_TRUE(memory && loop && memory->store(GuestAddress{0x5000}, 1));
    const OwnedFd file{::open(path.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600)};
    ASSERT_TRUE(testing::on_worker(**loop, [&] {
      return write_memory_file({.loop = **loop, .memory = *memory}, file, path,
                               {.kind = kind, .id = id, .base_id = {}, .pages = {{0x5000, kGuestPageSize}}});
    }));
    (*loop)->close();
  }
  [[nodiscard]] std::string refusal() const {
    const auto pair = verify_pair(state_, memory_);
    return pair ? "" : pair.error().message;
  }

  testing::ScratchDirectory scratch_;
  std::string state_ = scratch_.file("state");
  std::string memory_ = scratch_.file("memory");
  Snapshot snapshot_ = testing::filled_snapshot();
};

TEST_F(VerifyPair, AGoodPairIsDescribed) {
  const auto pair = verify_pair(state_, memory_);
  ASSERT_TRUE(pair) << pair.error().message;
  EXPECT_EQ(pair->snapshot.id, snapshot_.id);
  EXPECT_EQ(pair->footer.kind, MemoryFileKind::Full);
  EXPECT_EQ(pair->data_bytes, kGuestPageSize);
}

TEST_F(VerifyPair, ADiffIsGoodToo) {
  write_memory(memory_, MemoryFileKind::Diff, snapshot_.id);
  const auto pair = verify_pair(state_, memory_);
  ASSERT_TRUE(pair) << pair.error().message;
  EXPECT_EQ(pair->footer.kind, MemoryFileKind::Diff);
}

TEST_F(VerifyPair, TheMemoryThatWasNotNamedYetIsLookedAt) {
  std::filesystem::rename(memory_, new_name(memory_));
  write_memory(memory_, MemoryFileKind::Full, SnapshotId{});
  EXPECT_EQ(refusal(), "");
}

TEST_F(VerifyPair, SoIsADiffThatWasNotNamedYet) {
  write_memory(new_name(memory_), MemoryFileKind::Diff, snapshot_.id);
  write_memory(memory_, MemoryFileKind::Full, SnapshotId{});
  EXPECT_EQ(refusal(), "");
}

TEST_F(VerifyPair, AnothersMemoryIsRefused) {
  write_memory(memory_, MemoryFileKind::Full, SnapshotId{});
  EXPECT_TRUE(refusal().starts_with("memory file " + memory_ + " belongs to snapshot 00000000")) << refusal();
}

TEST_F(VerifyPair, ChangedMemoryIsFound) {
  const OwnedFd file{::open(memory_.c_str(), O_RDWR | O_CLOEXEC)};
  ASSERT_EQ(::pwrite(file.get(), "x", 1, 0x5800), 1);
  EXPECT_EQ(refusal(), "memory file " + memory_ +
                           " has changed since it was written: 4096 bytes at offset 0x5000 have another checksum");
}

TEST_F(VerifyPair, AChangedStateIsFound) {
  const OwnedFd file{::open(state_.c_str(), O_RDWR | O_CLOEXEC)};
  ASSERT_EQ(::pwrite(file.get(), "x", 1, 60), 1);
  EXPECT_EQ(refusal(),
            "snapshot_path " + state_ + ": section 'identity' has changed since it was written: its checksum is wrong");
}

}  // namespace
}  // namespace mayfly
