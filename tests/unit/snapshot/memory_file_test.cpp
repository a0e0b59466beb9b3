#include "snapshot/memory_file.h"

#include "snapshot/checksum.h"
#include "snapshot/file_pair.h"
#include "tests/support/child_process.h"
#include "tests/support/files.h"
#include "tests/support/on_worker.h"
#include "tests/unit/snapshot/file_size_limit.h"
#include "tests/unit/snapshot/page_ranges.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>

#include <gtest/gtest.h>

namespace mayfly {
namespace {

namespace fs = std::filesystem;
using testing::FileSizeLimit;

constexpr std::uint64_t kSizeMib = 4;
constexpr std::uint64_t kSize = kSizeMib * kMiB;

SnapshotId id_of(std::uint8_t number) {
  SnapshotId id{};
  id.fill(number);
  return id;
}

/// A guest's memory whose pages are written to, and its files.
class MemoryFile : public ::testing::Test {
 protected:
  MemoryFile() {
    auto memory = GuestMemory::create({.size_mib = kSizeMib});
    auto loop = EventLoop::create();
    if (!memory || !loop) throw std::runtime_error("no memory or no ring");
    memory_.emplace(std::move(*memory));
    loop_ = std::move(*loop);
  }
  ~MemoryFile() override { loop_->close(); }

  void fill(std::uint64_t page, std::uint64_t count, std::uint8_t value) {
    std::ranges::fill(*memory_->bytes(GuestAddress{page * kPage}, count * kPage), std::byte{value});
  }
  [[nodiscard]] Status try_to_write(const std::string& path, const MemoryFileContent& content) const {
    const OwnedFd file{::open(path.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600)};
    return testing::on_worker(
        *loop_, [&] { return write_memory_file({.loop = *loop_, .memory = *memory_}, file, path, content); });
  }
  /// Writes what the memory has in `ranges`; the file's path.
  std::string write(const std::string& name, std::uint8_t id, PageRanges ranges,
                    std::optional<std::uint8_t> base = std::nullopt) {
    const std::string path = scratch_.file(name);
    const auto written = try_to_write(path, {.kind = base ? MemoryFileKind::Diff : MemoryFileKind::Full,
                                             .id = id_of(id),
                                             .base_id = base ? id_of(*base) : SnapshotId{},
                                             .pages = std::move(ranges)});
    EXPECT_TRUE(written) << written.error().message;
    return path;
  }
  /// RAM as a file has it.
  static std::vector<std::byte> ram_of(const std::string& path) {
    std::vector<std::byte> bytes(kSize);
    const OwnedFd file{::open(path.c_str(), O_RDONLY | O_CLOEXEC)};
    EXPECT_EQ(::pread(file.get(), bytes.data(), kSize, 0), static_cast<ssize_t>(kSize));
    return without_label(std::move(bytes));
  }
  [[nodiscard]] std::vector<std::byte> ram() const {
    const auto bytes = *memory_->bytes(GuestAddress{0}, kSize);
    return without_label(std::vector<std::byte>{bytes.begin(), bytes.end()});
  }
  static OwnedFd open(const std::string& path) { return OwnedFd{::open(path.c_str(), O_RDWR | O_CLOEXEC)}; }
  static Result<MemoryFileFooter> footer_of(const std::string& path) {
    return read_footer(open(path).get(), path, kSize);
  }
  static std::vector<MemoryStretch> stretches_of(const std::string& path) {
    const OwnedFd file = open(path);
    auto footer = read_footer(file.get(), path, kSize);
    EXPECT_TRUE(footer) << footer.error().message;
    auto stretches = read_stretches(file.get(), path, *footer);
    EXPECT_TRUE(stretches) << stretches.error().message;
    return *stretches;
  }
  static Status verify(const std::string& path) { return verify_stretches(open(path).get(), path, stretches_of(path)); }
  static std::string refusal(const Status& status) { return status ? "" : status.error().message; }
  template <typename T>
  static std::string refusal(const Result<T>& result) {
    return result ? "" : result.error().message;
  }
  static void flip(const std::string& path, std::uint64_t at) {
    const OwnedFd file = open(path);
    char byte = 0;
    ASSERT_EQ(::pread(file.get(), &byte, 1, static_cast<off_t>(at)), 1);
    byte = static_cast<char>(byte ^ 0x10);
    ASSERT_EQ(::pwrite(file.get(), &byte, 1, static_cast<off_t>(at)), 1);
  }
  static std::uint64_t size_of(const std::string& path) { return fs::file_size(path); }
  static std::uint64_t disk_use(const std::string& path) {
    struct stat status{};
    EXPECT_EQ(::stat(path.c_str(), &status), 0);
    return static_cast<std::uint64_t>(status.st_blocks) * 512;
  }

  testing::ScratchDirectory scratch_;
  std::optional<GuestMemory> memory_;
  std::unique_ptr<EventLoop> loop_;
};

// --- Writing and reading back ----------------------------------------------------------------------------------------

TEST_F(MemoryFile, HoldsWhatTheGuestHasAndHolesElsewhere) {
  fill(0, 3, 1);
  fill(300, 300, 2);  // more than one stretch
  fill(1023, 1, 3);
  const std::string path = write("memory", 7, {pages(0, 3), pages(300, 300), pages(1023)});
  EXPECT_EQ(ram_of(path), ram());
  EXPECT_EQ(size_of(path), kSize) << "RAM, and nothing else";
  EXPECT_LE(disk_use(path), 304 * kPage + 64 * 1024);
  const auto footer = footer_of(path);
  ASSERT_TRUE(footer) << footer.error().message;
  EXPECT_EQ(footer->id, id_of(7));
  EXPECT_EQ(footer->kind, MemoryFileKind::Full);
  EXPECT_EQ(footer->memory_size, kSize);
  ASSERT_EQ(footer->stretch_count, 4U);
  const auto stretches = stretches_of(path);
  EXPECT_EQ(stretches[1].range, pages(300, 256));
  EXPECT_EQ(stretches[2].range, pages(556, 44));
  EXPECT_TRUE(verify(path));
}

TEST_F(MemoryFile, ManyPiecesAreAllWritten) {
  PageRanges ranges;
  for (std::uint64_t page = 0; page < 1024; page += 2) {
    fill(page, 1, static_cast<std::uint8_t>(page / 2 + 1));
    ranges.push_back(pages(page));
  }
  const std::string path = write("memory", 1, ranges);
  EXPECT_EQ(ram_of(path), ram());
  EXPECT_EQ(stretches_of(path).size(), 512U - 16U) << "where the label is, the guest has nothing";
  EXPECT_TRUE(verify(path));
}

TEST_F(MemoryFile, OfAnUntouchedGuestIsAFooter) {
  const std::string path = write("memory", 1, {});
  EXPECT_EQ(size_of(path), kSize);
  EXPECT_TRUE(footer_of(path));
  EXPECT_TRUE(stretches_of(path).empty());
  EXPECT_TRUE(verify(path));
}

TEST_F(MemoryFile, MappedAgainIsTheGuestsMemory) {
  fill(5, 2, 9);
  const std::string path = write("memory", 1, {pages(5, 2)});
  auto file = open_memory_file(path, id_of(1), kSize);
  ASSERT_TRUE(file) << file.error().message;
  const auto memory = GuestMemory::map({.size_mib = kSizeMib}, std::move(*file));
  ASSERT_TRUE(memory);
  EXPECT_EQ(memory->load<std::uint8_t>(GuestAddress{6 * kPage}), 9);
  EXPECT_EQ(memory->load<std::uint8_t>(GuestAddress{7 * kPage}), 0);
}

TEST_F(MemoryFile, AFullDiskIsToldWhereverItEnds) {
  fill(0, 1024, 1);
  const std::string path = scratch_.file("memory");
  const MemoryFileContent content{.kind = MemoryFileKind::Full, .id = id_of(1), .pages = {pages(0, 1024)}};
  for (const std::uint64_t room : {std::uint64_t{0}, kPage, kMiB + 5, kSize - 1}) {
    const FileSizeLimit limit{room};
    const auto written = try_to_write(path, content);
    ASSERT_FALSE(written) << room;
    EXPECT_EQ(written.error().message, "mem_file_path " + path + ": cannot write: File too large (EFBIG)") << room;
  }
  EXPECT_TRUE(try_to_write(path, content)) << "the ring goes on";
  EXPECT_TRUE(verify(path));
}

// --- Files that are not what they should be --------------------------------------------------------------------------

TEST_F(MemoryFile, OneThatIsTooShortIsRefused) {
  fill(0, 1, 1);
  const std::string path = write("memory", 1, {pages(0)});
  for (const std::uint64_t size : {kSize + kPage - 1, kSize + 1, kSize - 1, kPage, std::uint64_t{0}}) {
    fs::resize_file(path, size);
    EXPECT_EQ(refusal(footer_of(path)),
              fmt::format("memory file {} has {} bytes, and 4 MiB of memory are 4194304: it was not written or copied "
                          "whole, or is another machine's",
                          path, size));
    EXPECT_FALSE(find_footer(open(path).get(), path)) << size;
    EXPECT_FALSE(open_memory_file(path, id_of(1), kSize)) << size;
  }
}

TEST_F(MemoryFile, OneOfAnotherSizeIsRefused) {
  const std::string path = write("memory", 1, {});
  const OwnedFd file = open(path);
  EXPECT_EQ(refusal(read_footer(file.get(), path, kSize - kMiB)),
            "memory file " + path + " is not that of a Mayfly machine with 3 MiB of memory: nothing in it says so");
  EXPECT_NE(refusal(read_footer(file.get(), path, kSize + kMiB)).find("was not written or copied whole"),
            std::string::npos);
  const auto found = find_footer(file.get(), path);
  ASSERT_TRUE(found) << found.error().message;
  EXPECT_EQ(found->memory_size, kSize);
}

constexpr std::uint64_t kFooterPlace = 0xC'0000;
constexpr std::uint64_t kTablePlace = 0xC'3000;

TEST_F(MemoryFile, EveryFlippedBitOfItsFooterIsRefused) {
  const std::string path = write("memory", 1, {});
  const OwnedFd file = open(path);
  std::array<std::byte, sizeof(MemoryFileFooter)> footer{};
  ASSERT_EQ(::pread(file.get(), footer.data(), footer.size(), kFooterPlace), static_cast<ssize_t>(footer.size()));
  for (std::size_t bit = 0; bit < footer.size() * 8; ++bit) {
    auto damaged = footer;
    damaged[bit / 8] ^= static_cast<std::byte>(1U << bit % 8);
    ASSERT_EQ(::pwrite(file.get(), damaged.data(), damaged.size(), kFooterPlace), static_cast<ssize_t>(damaged.size()));
    EXPECT_FALSE(read_footer(file.get(), path, kSize)) << bit;
    EXPECT_EQ(refusal(find_footer(file.get(), path)).starts_with("memory file " + path + " is not a"), bit < 64)
        << "beyond the magic, it is a damaged one: " << bit;
  }
}

TEST_F(MemoryFile, ADamagedTableIsRefused) {
  fill(0, 10, 1);
  const std::string path = write("memory", 1, {pages(0, 4), pages(6, 4)});
  flip(path, kTablePlace + 17);
  const OwnedFd file = open(path);
  const auto footer = read_footer(file.get(), path, kSize);
  ASSERT_TRUE(footer);
  EXPECT_EQ(refusal(read_stretches(file.get(), path, *footer)),
            "memory file " + path + " is damaged: its table of data has changed");
}

/// Writes a table, right or wrong, with checksums that fit it.
void put_table(int file, const std::vector<PageRange>& ranges) {
  MemoryFileFooter footer;
  ASSERT_EQ(::pread(file, &footer, sizeof footer, kFooterPlace), static_cast<ssize_t>(sizeof footer));
  std::vector<std::array<std::uint32_t, 4>> stretches;
  for (const PageRange& range : ranges)
    stretches.push_back(
        {static_cast<std::uint32_t>(range.offset / kPage), static_cast<std::uint32_t>(range.length / kPage), 0, 0});
  const auto table = std::as_bytes(std::span{stretches});
  footer.stretch_count = stretches.size();
  footer.table_checksum = checksum(table);
  footer.checksum = checksum(std::as_bytes(std::span{&footer, 1}).first(offsetof(MemoryFileFooter, checksum)));
  ASSERT_EQ(::pwrite(file, &footer, sizeof footer, kFooterPlace), static_cast<ssize_t>(sizeof footer));
  ASSERT_EQ(::pwrite(file, table.data(), table.size(), kTablePlace), static_cast<ssize_t>(table.size()));
}

TEST_F(MemoryFile, ATableThatMakesNoSenseIsRefused) {
  const std::string path = write("memory", 1, {});
  const OwnedFd file = open(path);
  const auto refused = [&](const std::vector<PageRange>& ranges) {
    put_table(file.get(), ranges);
    const auto footer = read_footer(file.get(), path, kSize);
    EXPECT_TRUE(footer) << footer.error().message;
    const std::string why = refusal(read_stretches(file.get(), path, *footer));
    EXPECT_TRUE(why.empty() || why == "memory file " + path + " is damaged: its table of data makes no sense") << why;
    return !why.empty();
  };
  EXPECT_FALSE(refused({pages(0), pages(1), pages(1023)}));
  EXPECT_TRUE(refused({pages(1), pages(0)})) << "out of order";
  EXPECT_TRUE(refused({pages(0, 2), pages(1)})) << "overlapping";
  EXPECT_TRUE(refused({pages(0, 0)}));
  EXPECT_TRUE(refused({pages(0, 257)})) << "longer than any";
  EXPECT_TRUE(refused({pages(1023, 2)})) << "beyond the end";
  EXPECT_TRUE(refused({pages(1024)}));
  EXPECT_TRUE(refused({{0xFFFF'FFFF * kPage, kPage}}));
  EXPECT_FALSE(refused({pages(0xC0 - 1), pages(0xDF)}));
  EXPECT_TRUE(refused({pages(0xC0 - 1, 2)})) << "within the label";
  EXPECT_TRUE(refused({pages(0xDE)}));
}

TEST_F(MemoryFile, ATableOfMoreStretchesThanPagesIsRefusedUnread) {
  const std::string path = write("memory", 1, {});
  const OwnedFd file = open(path);
  put_table(file.get(), std::vector<PageRange>(kSize / kPage + 1));
  EXPECT_EQ(refusal(read_footer(file.get(), path, kSize)),
            "memory file " + path + " is damaged: its footer has changed");
}

TEST_F(MemoryFile, AFlippedBitOfTheMemoryIsFound) {
  fill(0, 10, 1);
  fill(600, 300, 2);
  const std::string path = write("memory", 1, {pages(0, 10), pages(600, 300)});
  flip(path, 700 * kPage + 99);
  EXPECT_EQ(refusal(verify(path)), "memory file " + path +
                                       " has changed since it was written: 1048576 bytes at offset 0x258000 have "
                                       "another checksum");
}

TEST_F(MemoryFile, OtherFilesAreRefused) {
  const auto refused = [](const std::string& path) { return refusal(open_memory_file(path, id_of(1), kSize)); };
  const std::string missing = scratch_.file("missing");
  EXPECT_EQ(refused(missing), "memory file " + missing + " cannot be opened: No such file or directory (ENOENT)");
  const std::string fifo = scratch_.file("fifo");
  ASSERT_EQ(::mkfifo(fifo.c_str(), 0600), 0);
  EXPECT_EQ(refused(fifo), "memory file " + fifo + " is not a regular file; give a snapshot's memory file");
  const std::string directory = missing.substr(0, missing.rfind('/'));
  EXPECT_EQ(refused(directory), "memory file " + directory + " is not a regular file; give a snapshot's memory file");
  const std::string zeros = testing::make_file(scratch_.file("zeros"), "");
  fs::resize_file(zeros, std::uint64_t{1} << 43);
  EXPECT_NE(refused(zeros).find("is not that of a Mayfly machine"), std::string::npos);
  EXPECT_EQ(refusal(find_footer(open(zeros).get(), zeros)),
            "memory file " + zeros + " is not a memory file of Mayfly, or was cut short");
}

// --- Whose it is -----------------------------------------------------------------------------------------------------

TEST_F(MemoryFile, ThatOfAnotherSnapshotIsRefused) {
  const std::string path = write("memory", 1, {});
  EXPECT_TRUE(open_memory_file(path, id_of(1), kSize));
  EXPECT_EQ(refusal(open_memory_file(path, id_of(2), kSize)),
            "memory file " + path +
                " belongs to snapshot 01010101010101010101010101010101, and the state file to snapshot "
                "02020202020202020202020202020202; give the pair that was written together");
}

TEST_F(MemoryFile, ADiffIsRefusedUntilItIsMerged) {
  const std::string path = write("memory", 2, {}, 1);
  EXPECT_EQ(refusal(open_memory_file(path, id_of(2), kSize)),
            "memory file " + path +
                " is a diff of snapshot 01010101010101010101010101010101; put that one's memory file before it, or "
                "merge them (mayfly snapshot merge)");
}

TEST_F(MemoryFile, ANewOneThatWasNotNamedYetIsFoundWhereItIsWanted) {
  fill(1, 1, 1);
  const std::string path = write("memory", 1, {pages(1)});
  fill(1, 1, 2);
  write(new_name("memory"), 2, {pages(1)});
  const auto first_byte = [&](std::uint8_t id) {
    auto file = open_memory_file(path, id_of(id), kSize);
    EXPECT_TRUE(file) << file.error().message;
    std::uint8_t byte = 0;
    EXPECT_EQ(::pread(file->get(), &byte, 1, kPage), 1);
    return byte;
  };
  EXPECT_EQ(first_byte(1), 1) << "the old pair";
  EXPECT_EQ(first_byte(2), 2) << "the new state, and the new memory";
  EXPECT_NE(refusal(open_memory_file(path, id_of(3), kSize)).find(path + " belongs to"), std::string::npos);
  fs::remove(path);
  EXPECT_EQ(first_byte(2), 2);
  EXPECT_NE(refusal(open_memory_file(path, id_of(1), kSize)).find(path + " cannot be opened"), std::string::npos);
}

// --- Merging ---------------------------------------------------------------------------------------------------------

/// A base with pages 0 to 599 and 1023, a diff with some of them changed and others new, and a diff of that.
class MergedMemory : public MemoryFile {
 protected:
  MergedMemory() {
    fill(0, 600, 1);
    fill(1023, 1, 1);
    base_ = write("base", 1, {pages(0, 600), pages(1023)});
    fill(10, 1, 2);
    fill(250, 20, 2);  // over the seam of two stretches
    fill(598, 10, 2);  // partly new
    fill(800, 1, 2);
    diff_ = write("diff", 2, {pages(10), pages(250, 20), pages(598, 10), pages(800)}, 1);
    first_ = ram();
    fill(10, 3, 3);
    fill(1023, 1, 0);  // zeros are data here
    second_diff_ = write("second", 3, {pages(10, 3), pages(1023)}, 2);
    second_ = ram();
  }
  [[nodiscard]] Status merge(const std::string& base, const std::string& diff, const std::string& output) {
    return merge_memory_files(base, diff, output);
  }
  /// The file is whole, of the snapshot, and has that memory.
  static void expect(const std::string& path, std::uint8_t id, const std::vector<std::byte>& content) {
    EXPECT_TRUE(open_memory_file(path, id_of(id), kSize));
    EXPECT_TRUE(verify(path));
    EXPECT_TRUE(ram_of(path) == content);
    EXPECT_FALSE(fs::exists(new_name(path)));
  }

  std::string base_, diff_, second_diff_;
  std::vector<std::byte> first_, second_;
};

TEST_F(MergedMemory, IsWhatTheGuestHadAtTheDiff) {
  const std::string output = scratch_.file("output");
  const auto merged = merge(base_, diff_, output);
  ASSERT_TRUE(merged) << merged.error().message;
  expect(output, 2, first_);
  std::uint64_t data = 0;
  for (const MemoryStretch& stretch : stretches_of(output)) data += stretch.range.length;
  EXPECT_EQ(data, (600 + 8 + 1 + 1 - kLabel.length / kPage) * kPage) << "holes stay holes";
  ASSERT_TRUE(merge(output, second_diff_, scratch_.file("next")));
  expect(scratch_.file("next"), 3, second_);
}

TEST_F(MergedMemory, MayTakeThePlaceOfItsBaseOrOfTheDiff) {
  ASSERT_TRUE(merge(base_, diff_, base_));
  expect(base_, 2, first_);
  ASSERT_TRUE(merge(base_, second_diff_, second_diff_));
  expect(second_diff_, 3, second_);
}

TEST_F(MergedMemory, DiffsCanBeMergedBeforeTheirBase) {
  const std::string both = scratch_.file("both");
  ASSERT_TRUE(merge(diff_, second_diff_, both));
  const auto footer = footer_of(both);
  ASSERT_TRUE(footer);
  EXPECT_EQ(footer->kind, MemoryFileKind::Diff);
  EXPECT_EQ(footer->base_id, id_of(1));
  ASSERT_TRUE(merge(base_, both, both));
  expect(both, 3, second_);
}

TEST_F(MergedMemory, KeepsTheOrderOfAChain) {
  const std::string output = scratch_.file("output");
  EXPECT_EQ(refusal(merge(base_, second_diff_, output)),
            "memory file " + second_diff_ + " is a diff of snapshot 02020202020202020202020202020202, and " + base_ +
                " is of snapshot 01010101010101010101010101010101; merge the diffs of a chain in their order");
  EXPECT_EQ(refusal(merge(diff_, base_, output)), "memory file " + base_ + " is no diff: it needs no merging");
  EXPECT_FALSE(fs::exists(output));
}

TEST_F(MergedMemory, DamageIsFoundAndNothingIsLeft) {
  const std::string output = testing::make_file(scratch_.file("output"), "old");
  flip(base_, 300 * kPage);
  EXPECT_EQ(refusal(merge(base_, diff_, output)),
            "memory file " + base_ +
                " has changed since it was written: 1048576 bytes at offset 0xdf000 have another checksum");
  EXPECT_EQ(testing::content_of(output), "old");
  EXPECT_FALSE(fs::exists(new_name(output)));
}

TEST_F(MergedMemory, MayNotRemoveWhatItReads) {
  const std::string output = scratch_.file("output");
  for (std::string* const source : {&base_, &diff_}) {
    const std::string before = *source;
    fs::rename(before, new_name(output));
    *source = new_name(output);
    EXPECT_EQ(refusal(merge(base_, diff_, output)),
              "output " + output + " is made as " + new_name(output) + ", which is to be merged; give another path");
    EXPECT_TRUE(fs::exists(new_name(output)));
    fs::rename(new_name(output), before);
    *source = before;
  }
  ASSERT_TRUE(merge(base_, diff_, output));
}

TEST_F(MergedMemory, AFullDiskLeavesEverythingAsItWas) {
  {
    const FileSizeLimit limit{kMiB};
    EXPECT_NE(refusal(merge(base_, diff_, base_)).find("cannot write: File too large (EFBIG)"), std::string::npos);
  }
  EXPECT_FALSE(fs::exists(new_name(base_)));
  ASSERT_TRUE(merge(base_, diff_, base_));
  expect(base_, 2, first_);
}

// --- A diff that is written onto its base ----------------------------------------------------------------------------

/// Has `to` share nothing, but be the same: what a file system without FICLONE cannot show.
bool copy_whole(int to, int from) noexcept {
  struct stat status{};
  if (::fstat(from, &status) != 0) return false;
  std::vector<std::byte> bytes(static_cast<std::size_t>(status.st_size));
  return ::pread(from, bytes.data(), bytes.size(), 0) == status.st_size &&
         ::pwrite(to, bytes.data(), bytes.size(), 0) == status.st_size;
}

bool cannot_clone(int /*to*/, int /*from*/) noexcept { return false; }

/// With a file system that shares blocks, and with one that does not. The guest has the memory of `second_diff_`.
class InPlaceDiff : public MergedMemory, public ::testing::WithParamInterface<bool> {
 protected:
  [[nodiscard]] Status write_onto(const std::string& path, std::uint8_t base, std::uint8_t id, PageRanges changed) {
    auto found = open_diff_base(path, id_of(base), *memory_, true);
    if (!found) return propagate(found);
    EXPECT_TRUE(found->has_value());
    auto file = NewFile::create(path, "mem_file_path");
    if (!file) return propagate(file);
    auto written = testing::on_worker(*loop_, [&] {
      return write_merged_memory_file(
          {.loop = *loop_, .memory = *memory_, .stop = stop_.get_token()}, *file,
          {.kind = MemoryFileKind::Diff, .id = id_of(id), .base_id = id_of(base), .pages = std::move(changed)},
          std::move(**found), GetParam() ? &copy_whole : &cannot_clone);
    });
    return written ? file->publish() : written;
  }
  const PageRanges both_ = {pages(10, 3), pages(250, 20), pages(598, 10), pages(800), pages(1023)};
  std::stop_source stop_;
};

TEST_P(InPlaceDiff, IsTheBaseWithWhatHasChanged) {
  const auto written = write_onto(base_, 1, 3, both_);
  ASSERT_TRUE(written) << written.error().message;
  expect(base_, 3, second_);
  std::uint64_t data = 0;
  for (const MemoryStretch& stretch : stretches_of(base_)) data += stretch.range.length;
  EXPECT_EQ(data, (600 + 8 + 1 + 1 - kLabel.length / kPage) * kPage);
  // And once more, with a table that is shorter than the one before.
  fill(0, 1024, 7);
  ASSERT_TRUE(write_onto(base_, 3, 4, {pages(0, 1024)}));
  expect(base_, 4, ram());
  EXPECT_EQ(stretches_of(base_).size(), 5U) << "the label parts one";
  EXPECT_EQ(size_of(base_), kSize);
}

TEST_P(InPlaceDiff, OfNothingIsTheBaseUnderAnotherId) {
  const std::vector<std::byte> before = ram_of(base_);
  ASSERT_TRUE(write_onto(base_, 1, 3, {}));
  expect(base_, 3, before);
}

TEST_P(InPlaceDiff, OntoADiffIsADiffOfTheSameBase) {
  ASSERT_TRUE(write_onto(diff_, 2, 3, {pages(10, 3), pages(1023)}));
  const auto footer = footer_of(diff_);
  ASSERT_TRUE(footer) << footer.error().message;
  EXPECT_EQ(footer->kind, MemoryFileKind::Diff);
  EXPECT_EQ(footer->base_id, id_of(1));
  ASSERT_TRUE(verify(diff_));
  ASSERT_TRUE(merge(base_, diff_, base_));
  expect(base_, 3, second_);
}

TEST_P(InPlaceDiff, WhoHasTheBaseMappedKeepsIt) {
  const auto mapped = GuestMemory::map({.size_mib = kSizeMib}, open(base_));
  ASSERT_TRUE(mapped);
  const std::vector<std::byte> before = ram_of(base_);
  ASSERT_TRUE(write_onto(base_, 1, 3, both_));
  const auto bytes = *mapped->bytes(GuestAddress{0}, kSize);
  EXPECT_TRUE(without_label(std::vector<std::byte>{bytes.begin(), bytes.end()}) == before);
}

TEST_P(InPlaceDiff, DamageOfWhatIsReadIsFoundAndNothingIsLeft) {
  flip(base_, 300 * kPage);  // in a stretch that changes in part
  const std::vector<std::byte> before = ram_of(base_);
  EXPECT_EQ(refusal(write_onto(base_, 1, 3, both_)),
            "memory file " + base_ +
                " has changed since it was written: 1048576 bytes at offset 0xdf000 have another checksum");
  EXPECT_TRUE(ram_of(base_) == before);
  EXPECT_FALSE(fs::exists(new_name(base_)));
}

TEST_P(InPlaceDiff, DamageOfWhatIsNotReadIsFoundAfterwards) {
  fill(900, 1, 9);
  const std::string path = write("another", 5, {pages(0, 600), pages(900)});
  flip(path, 300 * kPage);
  const auto written = write_onto(path, 5, 6, {pages(900)});
  EXPECT_EQ(written.has_value(), GetParam());
  EXPECT_FALSE(verify(path)) << "the checksum is taken over with the content";
}

TEST_P(InPlaceDiff, AFullDiskLeavesTheBase) {
  const std::vector<std::byte> before = ram_of(base_);
  {
    const FileSizeLimit limit{kMiB};
    EXPECT_FALSE(write_onto(base_, 1, 3, both_));
  }
  expect(base_, 1, before);
}

TEST_P(InPlaceDiff, AStopIsHeardWhileTheBasesDataAreTakenOver) {
  const std::vector<std::byte> before = ram_of(base_);
  stop_.request_stop();
  const PageRanges none;  // so it is the base's data that wait
  const std::string stopped = "memory file " + base_ + ": its writing was stopped";
  EXPECT_EQ(refusal(write_onto(base_, 1, 3, none)), GetParam() ? "" : stopped);
  if (!GetParam()) expect(base_, 1, before);
}

INSTANTIATE_TEST_SUITE_P(All, InPlaceDiff, ::testing::Bool(),
                         [](const auto& info) { return info.param ? "Cloned" : "Copied"; });

/// Memory that is held costs the host until it is written, and a base may have much data.
TEST_F(MergedMemory, GuestMemoryIsWrittenBeforeTheBaseIsRead) {
  flip(base_, 300 * kPage);
  fill(1023, 1, 7);
  auto file = NewFile::create(base_, "mem_file_path");
  ASSERT_TRUE(file);
  const auto written = testing::on_worker(*loop_, [&] {
    return write_merged_memory_file(
        {.loop = *loop_, .memory = *memory_}, *file,
        {.kind = MemoryFileKind::Diff, .id = id_of(2), .base_id = id_of(1), .pages = {pages(1023)}}, open(base_),
        &cannot_clone);
  });
  EXPECT_NE(refusal(written).find("has changed since it was written"), std::string::npos) << refusal(written);
  char byte = 0;
  EXPECT_EQ(::pread(file->fd().get(), &byte, 1, 1023 * kPage), 1);
  EXPECT_EQ(byte, 7);
}

TEST_F(MergedMemory, ABaseIsKnownByItsFooter) {
  const auto base_at = [this](const std::string& path) { return open_diff_base(path, id_of(1), *memory_, true); };
  auto found = base_at(base_);
  EXPECT_TRUE(found && found->has_value());
  for (const std::string& other :
       {scratch_.file("none"), diff_, testing::make_file(scratch_.file("text"), "a text"),
        testing::make_file(scratch_.file("zeros"), std::string(kSize + kFooterRoom, '\0'))}) {
    found = base_at(other);
    EXPECT_TRUE(found && !found->has_value()) << other;
  }
  flip(base_, kFooterPlace + 20);
  EXPECT_EQ(refusal(base_at(base_)), "mem_file_path: memory file " + base_ +
                                         " is damaged: its footer has changed; if it is the diff's base, "
                                         "it is lost: give another path, or take a full snapshot");
}

// `snapshot merge --output BASE` gives the base the diff's id, and the diff stays where it was.
TEST_F(MergedMemory, ADiffIsNoBaseOfAMachineThatWasLoaded) {
  const auto footer = find_footer(OwnedFd{::open(diff_.c_str(), O_RDONLY | O_CLOEXEC)}.get(), diff_);
  ASSERT_TRUE(footer);
  const auto of_taker = open_diff_base(diff_, footer->id, *memory_, true);
  EXPECT_TRUE(of_taker && of_taker->has_value());
  const auto of_loaded = open_diff_base(diff_, footer->id, *memory_, false);
  EXPECT_TRUE(of_loaded && !of_loaded->has_value());
}

}  // namespace
}  // namespace mayfly
