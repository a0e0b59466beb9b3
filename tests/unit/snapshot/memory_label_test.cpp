// The label of a memory file: files that are RAM and nothing else, onto which others may copy.

#include "snapshot/file_pair.h"
#include "snapshot/memory_chain.h"
#include "snapshot/memory_file.h"
#include "tests/support/child_process.h"
#include "tests/support/files.h"
#include "tests/support/on_worker.h"
#include "tests/unit/snapshot/page_ranges.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>

#include <gtest/gtest.h>

namespace mayfly {
namespace {

SnapshotId label_id(std::uint8_t number) {
  SnapshotId id{};
  id.fill(number);
  return id;
}

/// What a tool of the dialect does: the data of a diff onto its base, by its holes.
void copy_by_holes(const std::string& diff, const std::string& base) {
  const OwnedFd from{::open(diff.c_str(), O_RDONLY | O_CLOEXEC)};
  const OwnedFd to{::open(base.c_str(), O_WRONLY | O_CLOEXEC)};
  for (off_t at = 0;;) {
    const off_t data = ::lseek(from.get(), at, SEEK_DATA);
    if (data < 0) return;
    at = ::lseek(from.get(), data, SEEK_HOLE);
    std::vector<char> bytes(static_cast<std::size_t>(at - data));
    ASSERT_EQ(::pread(from.get(), bytes.data(), bytes.size(), data), at - data);
    ASSERT_EQ(::pwrite(to.get(), bytes.data(), bytes.size(), data), at - data);
  }
}

/// A guest of which a snapshot is taken, and diffs of that: each with the ids 1, 2, ...
class MemoryLabel : public ::testing::Test {
 protected:
  MemoryLabel() { grow(4); }
  ~MemoryLabel() override { loop_->close(); }

  void grow(std::uint64_t size_mib) {
    memory_.emplace(std::move(*GuestMemory::create({.size_mib = size_mib})));
    size_ = size_mib * kMiB;
  }
  void fill(std::uint64_t page, std::uint64_t value) { ASSERT_TRUE(memory_->store(GuestAddress{page * kPage}, value)); }
  std::string write(std::uint8_t id, PageRanges ranges) {
    const std::string path = scratch_.file("memory-" + std::to_string(id));
    const OwnedFd file{::open(path.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600)};
    const auto written = testing::on_worker(*loop_, [&] {
      return write_memory_file({.loop = *loop_, .memory = *memory_}, file, path,
                               {.kind = id == 1 ? MemoryFileKind::Full : MemoryFileKind::Diff,
                                .id = label_id(id),
                                .base_id = id == 1 ? SnapshotId{} : label_id(static_cast<std::uint8_t>(id - 1)),
                                .pages = std::move(ranges)});
    });
    EXPECT_TRUE(written) << written.error().message;
    return path;
  }
  /// Four of them: page N has N in each file from the N-th on, and page 100 the number of the file.
  std::vector<std::string> write_four() {
    std::vector<std::string> paths;
    for (std::uint8_t id = 1; id <= 4; ++id) {
      fill(id, id);
      fill(100, id);
      paths.push_back(write(id, {pages(id), pages(100)}));
    }
    return paths;
  }
  /// Loads `path` alone, as the memory of `id`; why not.
  std::string load(const std::string& path, std::uint8_t id, std::span<const std::uint64_t> wanted_pages = {},
                   std::uint64_t wanted_last = 0) const {
    auto file = open_memory_file(path, label_id(id), size_);
    if (!file) return file.error().message;
    const auto memory = GuestMemory::map({.size_mib = size_ / kMiB}, std::move(*file));
    EXPECT_TRUE(memory);
    for (const std::uint64_t page : wanted_pages)
      EXPECT_EQ(memory->load<std::uint64_t>(GuestAddress{page * kPage}), page);
    if (wanted_last != 0) {
      EXPECT_EQ(memory->load<std::uint64_t>(GuestAddress{100 * kPage}), wanted_last);
    }
    return "";
  }
  [[nodiscard]] std::vector<MemoryStretch> table_of(const std::string& path) const {
    const OwnedFd file{::open(path.c_str(), O_RDONLY | O_CLOEXEC)};
    const auto footer = read_footer(file.get(), path, size_);
    EXPECT_TRUE(footer) << footer.error().message;
    auto stretches = read_stretches(file.get(), path, *footer);
    EXPECT_TRUE(stretches) << stretches.error().message;
    EXPECT_TRUE(verify_stretches(file.get(), path, *stretches));
    return *stretches;
  }

  testing::ScratchDirectory scratch_;
  std::optional<GuestMemory> memory_;
  std::uint64_t size_ = 0;
  std::unique_ptr<EventLoop> loop_ = std::move(*EventLoop::create());
};

// --- Diffs that others copy onto their base --------------------------------------------------------------------------

TEST_F(MemoryLabel, ABaseWithADiffCopiedOntoItIsTheDiffsMemory) {
  const auto paths = write_four();
  for (std::uint8_t id = 2; id <= 4; ++id) {
    copy_by_holes(paths[id - 1U], paths[0]);
    EXPECT_EQ(std::filesystem::file_size(paths[0]), size_);
    const std::vector<std::uint64_t> have = {1, 2, 3, 4};
    EXPECT_EQ(load(paths[0], id, std::span{have}.first(id), id), "");
    EXPECT_NE(load(paths[0], static_cast<std::uint8_t>(id - 1)), "") << "it is another snapshot's now";
  }
  EXPECT_EQ(table_of(paths[0]).size(), 2U) << "pages 1 to 4, page 100";
}

TEST_F(MemoryLabel, ADiffThatWasLeftOutIsNoticed) {
  const auto paths = write_four();
  copy_by_holes(paths[2], paths[0]);
  const std::string why = load(paths[0], 3);
  EXPECT_NE(why.find("the diff of snapshot 02020202020202020202020202020202 was copied onto what is not"),
            std::string::npos)
      << why;
  const auto again = write_four();
  copy_by_holes(again[1], again[0]);
  copy_by_holes(again[3], again[0]);
  EXPECT_NE(load(again[0], 4).find("the diff of snapshot 0"), std::string::npos) << load(again[0], 4);
}

TEST_F(MemoryLabel, DiffsThatAreCopiedOntoADiffAreOneDiff) {
  const auto paths = write_four();
  copy_by_holes(paths[2], paths[1]);
  const std::vector<std::string> chain = {paths[0], paths[1]};
  auto layers = open_memory_chain(chain, {.top = label_id(3), .memory_size = size_});
  ASSERT_TRUE(layers) << layers.error().message;
  EXPECT_EQ(layers->back().footer.kind, MemoryFileKind::Diff);
  const auto memory = GuestMemory::map({.size_mib = size_ / kMiB}, layers_of(std::move(*layers)));
  ASSERT_TRUE(memory);
  for (const std::uint64_t page : {1U, 2U, 3U})
    EXPECT_EQ(memory->load<std::uint64_t>(GuestAddress{page * kPage}), page);
  EXPECT_NE(load(paths[1], 3).find("is a diff of snapshot 01"), std::string::npos) << "alone it is none";
}

TEST_F(MemoryLabel, WhatWasCopiedOntoIsABaseToMergeWithAndToLayOver) {
  const auto paths = write_four();
  copy_by_holes(paths[1], paths[0]);
  const std::vector<std::string> chain = {paths[0], paths[2]};
  EXPECT_TRUE(open_memory_chain(chain, {.top = label_id(3), .memory_size = size_}));
  const std::string output = scratch_.file("output");
  ASSERT_TRUE(merge_memory_files(paths[0], paths[2], output));
  const std::vector<std::uint64_t> have = {1, 2, 3};
  EXPECT_EQ(load(output, 3, have, 3), "");
  EXPECT_FALSE(table_of(output).empty());
  // And by a machine that writes its diff onto it, whose file is a clone of it.
  auto base = open_diff_base(paths[0], label_id(2), *memory_, true);
  ASSERT_TRUE(base && base->has_value());
  auto file = NewFile::create(paths[0], "mem_file_path");
  ASSERT_TRUE(file);
  const auto clone = [](int to, int from) noexcept {
    std::vector<char> bytes(4 * kMiB);
    return ::pread(from, bytes.data(), bytes.size(), 0) == static_cast<ssize_t>(bytes.size()) &&
           ::pwrite(to, bytes.data(), bytes.size(), 0) == static_cast<ssize_t>(bytes.size());
  };
  const auto written = testing::on_worker(*loop_, [&] {
    return write_merged_memory_file(
        {.loop = *loop_, .memory = *memory_}, *file,
        {.kind = MemoryFileKind::Diff, .id = label_id(5), .base_id = label_id(2), .pages = {pages(3, 2), pages(100)}},
        std::move(**base), clone);
  });
  ASSERT_TRUE(written) << written.error().message;
  ASSERT_TRUE(file->publish());
  const std::vector<std::uint64_t> all = {1, 2, 3, 4};
  EXPECT_EQ(load(paths[0], 5, all, 4), "");
}

TEST_F(MemoryLabel, ADiffHasAnotherLastBitThanItsBase) {
  for (int i = 0; i < 20; ++i) {
    const auto base = make_snapshot_id();
    ASSERT_TRUE(base);
    const auto diff = make_snapshot_id(*base);
    ASSERT_TRUE(diff);
    EXPECT_NE(base->back() & 1, diff->back() & 1);
  }
}

// --- Tables that are too large ---------------------------------------------------------------------------------------

TEST_F(MemoryLabel, StretchesAreJoinedUntilTheLabelHasRoomForThem) {
  grow(128);
  PageRanges scattered;
  for (std::uint64_t page = 0; page < 32768; page += 4) {
    fill(page, page + 1);
    scattered.push_back(pages(page));
  }
  EXPECT_EQ(pages_in_file({pages(1), pages(3)}, size_), (PageRanges{pages(1), pages(3)})) << "few stay as they are";
  for (const std::uint8_t id : {std::uint8_t{1}, std::uint8_t{2}}) {
    const std::string path = write(id, scattered);
    EXPECT_EQ(std::filesystem::file_size(path), size_);
    std::uint64_t data = 0;
    for (const MemoryStretch& stretch : table_of(path)) data += stretch.range.length;
    EXPECT_EQ(data, (32768 - 3 - (0xE0 - 0xBD)) * kPage) << "gaps of 3 pages, but not over the label";
    const OwnedFd file{::open(path.c_str(), O_RDONLY | O_CLOEXEC)};
    for (std::uint64_t page = 0; page < 32768; ++page) {
      std::uint64_t value = 0;
      ASSERT_EQ(::pread(file.get(), &value, sizeof value, static_cast<off_t>(page * kPage)), 8);
      if (page >= 0xC0 && page < 0xDF) continue;
      ASSERT_EQ(value, page % 4 == 0 ? page + 1 : 0) << page;
    }
  }
}

TEST_F(MemoryLabel, StretchesOfLargeMemoryAreLonger) {
  EXPECT_EQ(longest_stretch(kMiB), kWrittenAtOnce);
  EXPECT_EQ(longest_stretch(4096 * kMiB), kWrittenAtOnce);
  EXPECT_EQ(longest_stretch(4097 * kMiB), 2 * kWrittenAtOnce);
  EXPECT_EQ(longest_stretch(GuestMemory::kMaximumSizeMib * kMiB), 256 * kWrittenAtOnce);
  grow(5000);
  std::ranges::fill(*memory_->bytes(GuestAddress{64 * kMiB}, 5 * kMiB), std::byte{7});
  const std::string path = write(1, {{64 * kMiB, 5 * kMiB}});
  const auto table = table_of(path);
  ASSERT_EQ(table.size(), 3U);
  EXPECT_EQ(table[0].range.length, 2 * kMiB);
}

/// Merging can make more stretches than the writers of its files did.
TEST_F(MemoryLabel, AMergeJoinsStretchesOfAWholeMemoryAndKeepsThoseOfADiff) {
  grow(128);
  PageRanges even;
  PageRanges odd;
  for (std::uint64_t page = 0; page < 32768; page += 5) {
    fill(page, page + 1);
    even.push_back(pages(page));
  }
  const std::string base = write(1, even);
  const std::string lower = write(2, even);
  for (std::uint64_t page = 2; page < 32768; page += 5) {
    fill(page, page + 1);
    odd.push_back(pages(page));
  }
  const std::string diff = write(2, odd);
  const std::string whole = scratch_.file("whole");
  ASSERT_TRUE(merge_memory_files(base, diff, whole));
  EXPECT_EQ(std::filesystem::file_size(whole), size_);
  EXPECT_LE(table_of(whole).size(), 7168U);
  const std::vector<std::uint64_t> none;
  EXPECT_EQ(load(whole, 2, none), "");
  // Of a diff, holes are not zeros: its table is behind RAM, and it is a diff all the same.
  write(2, even);
  const std::string upper = write(3, odd);
  const std::string both = scratch_.file("both");
  ASSERT_TRUE(merge_memory_files(lower, upper, both));
  EXPECT_GT(std::filesystem::file_size(both), size_);
  EXPECT_GT(table_of(both).size(), 7168U);
  const std::vector<std::string> chain = {base, both};
  auto layers = open_memory_chain(chain, {.top = label_id(3), .memory_size = size_});
  ASSERT_TRUE(layers) << layers.error().message;
  const auto memory = GuestMemory::map({.size_mib = 128}, layers_of(std::move(*layers)));
  ASSERT_TRUE(memory);
  const auto merged = GuestMemory::map({.size_mib = 128}, std::move(*open_memory_file(whole, label_id(2), size_)));
  ASSERT_TRUE(merged);
  for (std::uint64_t page = 0; page < 32768; ++page) {
    const std::uint64_t wanted = page % 5 == 0 || page % 5 == 2 ? page + 1 : 0;
    if (page >= 0xC0 && page < 0xDF) continue;
    ASSERT_EQ(memory->load<std::uint64_t>(GuestAddress{page * kPage}), wanted) << page;
    ASSERT_EQ(merged->load<std::uint64_t>(GuestAddress{page * kPage}), wanted) << page;
  }
}

// --- Files of earlier releases ---------------------------------------------------------------------------------------

/// Of every version that was written: tests/data/README.md.
class StoredMemory : public MemoryLabel, public ::testing::WithParamInterface<int> {
 protected:
  StoredMemory() { grow(1); }
  [[nodiscard]] static std::string path() {
    return testing::project_file(fmt::format("tests/data/memory-{}", GetParam()));
  }
  static void expect_words(const GuestMemory& memory, std::uint64_t changed) {
    EXPECT_EQ(memory.load<std::uint64_t>(GuestAddress{kPage}), 1U);
    EXPECT_EQ(memory.load<std::uint64_t>(GuestAddress{2 * kPage}), changed);
    EXPECT_EQ(memory.load<std::uint64_t>(GuestAddress{3 * kPage}), 0U);
    EXPECT_EQ(memory.load<std::uint64_t>(GuestAddress{255 * kPage}), 255U);
  }
};

TEST_P(StoredMemory, IsLoadedVerifiedAndMerged) {
  EXPECT_FALSE(table_of(path()).empty());
  auto base = open_memory_file(path(), label_id(1), size_);
  ASSERT_TRUE(base) << base.error().message;
  expect_words(*GuestMemory::map({.size_mib = 1}, std::move(*base)), 2);
  const std::vector<std::string> chain = {path(), path() + "-diff"};
  auto layers = open_memory_chain(chain, {.top = label_id(2), .memory_size = size_});
  ASSERT_TRUE(layers) << layers.error().message;
  expect_words(*GuestMemory::map({.size_mib = 1}, layers_of(std::move(*layers))), 1002);
  const std::string output = scratch_.file("output");
  ASSERT_TRUE(merge_memory_files(path(), path() + "-diff", output));
  EXPECT_EQ(std::filesystem::file_size(output), size_) << "what is written is of the newest version";
  EXPECT_FALSE(table_of(output).empty());
  auto merged = open_memory_file(output, label_id(2), size_);
  ASSERT_TRUE(merged) << merged.error().message;
  expect_words(*GuestMemory::map({.size_mib = 1}, std::move(*merged)), 1002);
}

TEST_P(StoredMemory, IsABaseThatOthersMayCopyADiffOnto) {
  const std::string base = scratch_.file("base");
  std::filesystem::copy_file(path(), base);
  fill(2, 1002);
  copy_by_holes(write(2, {pages(2)}), base);
  auto patched = open_memory_file(base, label_id(2), size_);
  ASSERT_TRUE(patched) << patched.error().message;
  expect_words(*GuestMemory::map({.size_mib = 1}, std::move(*patched)), 1002);
}

/// Run by hand when a version is made; never for one that was released.
TEST_P(StoredMemory, DISABLED_IsMade) {
  ASSERT_FALSE(std::filesystem::exists(path())) << "what is stored stays";
  for (const std::uint64_t page : {1U, 2U, 255U}) fill(page, page);
  std::filesystem::copy_file(write(1, {pages(1, 2), pages(255)}), path());
  fill(2, 1002);
  std::filesystem::copy_file(write(2, {pages(2)}), path() + "-diff");
}

INSTANTIATE_TEST_SUITE_P(All, StoredMemory, ::testing::Values(1, 2));

}  // namespace
}  // namespace mayfly
