#include "snapshot/working_set_replay.h"

#include "snapshot/memory_file.h"
#include "tests/support/child_process.h"
#include "tests/support/files.h"
#include "tests/support/run_until.h"
#include "tests/unit/snapshot/page_ranges.h"
#include "vmm/base/clock.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>

#include <gtest/gtest.h>

namespace mayfly {
namespace {

constexpr std::uint64_t kReplayMib = 64;

/// A guest's memory that is mapped from a file on a disk, which is not in the page cache.
class Replay : public ::testing::Test {
 protected:
  void SetUp() override {
    const std::string path = testing::make_file(scratch_.file("memory"), std::string(kReplayMib << 20, 'm'));
    auto file = open_for_reading(path);
    ASSERT_TRUE(file.has_value());
    ASSERT_EQ(::fsync(file->get()), 0);
    ASSERT_EQ(::posix_fadvise(file->get(), 0, 0, POSIX_FADV_DONTNEED), 0);
    auto memory = GuestMemory::map({.size_mib = kReplayMib}, std::move(*file));
    ASSERT_TRUE(memory.has_value());
    memory_.emplace(std::move(*memory));
    auto loop = EventLoop::create();
    ASSERT_TRUE(loop.has_value());
    loop_ = std::move(*loop);
    if (std::ranges::count(cached(), true) != 0) GTEST_SKIP() << path << " is on no disk";
  }
  void TearDown() override {
    if (loop_) loop_->close();
  }
  /// Which pages the page cache has.
  [[nodiscard]] std::vector<bool> cached() const {
    std::vector<unsigned char> resident(kReplayMib * kMiB / kPage);
    EXPECT_EQ(::mincore(memory_->regions().front().mapping.address(), kReplayMib * kMiB, resident.data()), 0);
    std::vector<bool> result;
    std::ranges::transform(resident, std::back_inserter(result), [](unsigned char each) { return (each & 1) != 0; });
    return result;
  }
  /// Whether this process has the page mapped.
  [[nodiscard]] bool mapped(std::uint64_t page) const {
    const OwnedFd map{::open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC)};
    std::uint64_t entry = 0;
    const auto at = reinterpret_cast<std::uintptr_t>(memory_->regions().front().mapping.address()) / kPage + page;
    EXPECT_EQ(::pread(map.get(), &entry, sizeof entry, static_cast<off_t>(at * sizeof entry)), 8);
    return (entry >> 63) != 0;
  }
  /// Until all of them are mapped: the ring's threads may end in any order.
  void replay(const std::vector<PageRange>& ranges) {
    replay_.emplace(*loop_, *memory_, WorkingSet{.ranges = ranges});
    replay_->begin();
    const auto done = [&](const PageRange& range) { return mapped((range.end() - kPage) / kPage); };
    const std::uint64_t deadline = monotonic_ns() + 30'000'000'000;
    while (!std::ranges::all_of(ranges, done) && monotonic_ns() < deadline) {
      loop_->wake();
      bool once = false;
      testing::run_until(*loop_, [&] { return std::exchange(once, true); });
    }
    ASSERT_TRUE(std::ranges::all_of(ranges, done)) << std::ranges::count_if(ranges, done) << " of " << ranges.size();
  }

  testing::ScratchDirectory scratch_;
  std::optional<GuestMemory> memory_;
  std::unique_ptr<EventLoop> loop_;
  std::optional<WorkingSetReplay> replay_;
};

TEST_F(Replay, ReadsAndMapsJustThosePages) {
  std::vector<PageRange> ranges;
  for (std::uint64_t i = 0; i < 300; ++i) ranges.push_back(pages(i * 7919 % 8000 * 2));
  std::vector<bool> expected(kReplayMib * kMiB / kPage);
  for (const PageRange& range : ranges) expected[range.offset / kPage] = true;
  replay(ranges);
  EXPECT_EQ(cached(), expected);
  EXPECT_TRUE(std::ranges::all_of(ranges, [&](const PageRange& range) { return mapped(range.offset / kPage); }));
}

TEST_F(Replay, SplitsWhatIsLong) {
  replay({pages(16, 1024), pages(16 + 1024, 1024), pages(16 + 2048, 6144)});
  const std::vector<bool> now = cached();
  EXPECT_TRUE(now[16] && now[16 + 8191]);
  EXPECT_FALSE(now[15] || now[16 + 8192]);
}

TEST_F(Replay, LeavesAloneWhatIsCached) {
  (void)testing::content_of(scratch_.file("memory"));
  replay_.emplace(*loop_, *memory_, WorkingSet{.ranges = {pages(5), pages(700, 3)}});
  replay_->begin();
  loop_->post([this] { loop_->stop(); });
  ASSERT_TRUE(loop_->run().has_value());
  EXPECT_FALSE(mapped(5));
  EXPECT_FALSE(mapped(700));
}

TEST_F(Replay, DoesNothingForAnEmptySet) {
  replay_.emplace(*loop_, *memory_, WorkingSet{});
  replay_->begin();
  EXPECT_EQ(std::ranges::count(cached(), true), 0);
}

TEST_F(Replay, CopiesWhatTheGuestWillChangeWhereItIsCached) {
  (void)testing::content_of(scratch_.file("memory"));
  const PageRanges written = {pages(6), pages(20, 2), pages(3000, 2000)};  // the last one is longer than a piece
  const WorkingSet set{.ranges = {pages(0, 8192)}, .written = written};
  const WorkingSetReplay replay{*loop_, *memory_, set};
  replay.copy_ahead([] { return false; });
  EXPECT_EQ(private_pages(*memory_), written);
  EXPECT_EQ(memory_->load<char>(GuestAddress{20 * kPage}), 'm');
}

TEST_F(Replay, StopsCopyingWhenItIsEnough) {
  (void)testing::content_of(scratch_.file("memory"));
  const WorkingSet set{.ranges = {pages(0, 100)}, .written = {pages(6), pages(20, 2), pages(30)}};
  const WorkingSetReplay replay{*loop_, *memory_, set};
  int asked = 0;
  replay.copy_ahead([&] { return ++asked == 3; });
  EXPECT_EQ(private_pages(*memory_), (PageRanges{pages(6), pages(20, 2)}));
}

TEST_F(Replay, CopiesNothingThatWouldHaveToWaitForTheDisk) {
  const WorkingSet set{.ranges = {pages(6)}, .written = {pages(6)}};
  const WorkingSetReplay replay{*loop_, *memory_, set};
  replay.copy_ahead([] { return false; });
  EXPECT_EQ(private_pages(*memory_), PageRanges{});
  EXPECT_FALSE(mapped(6));
}

TEST(ReplayInMemory, LeavesAloneAFileThatIsOnNoDisk) {
  OwnedFd file{::memfd_create("memory", MFD_CLOEXEC)};
  ASSERT_TRUE(file);
  ASSERT_EQ(::pwrite(file.get(), "content", 7, static_cast<off_t>(700 * kPage)), 7);
  ASSERT_EQ(::pwrite(file.get(), "content", 7, static_cast<off_t>(5 * kPage)), 7);
  ASSERT_EQ(::ftruncate(file.get(), static_cast<off_t>(kMiB * 4)), 0);
  auto memory = GuestMemory::map({.size_mib = 4}, std::move(file));
  auto loop = EventLoop::create();
  ASSERT_TRUE(memory && loop);
  WorkingSetReplay replay{**loop, *memory, {.ranges = {pages(5), pages(700)}, .written = {pages(700)}}};
  replay.copy_ahead([] { return false; });
  EXPECT_EQ(private_pages(*memory), PageRanges{pages(700)});
  replay.begin();
  (*loop)->post([&] { (*loop)->stop(); });
  ASSERT_TRUE((*loop)->run().has_value());
  const OwnedFd map{::open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC)};
  std::uint64_t entry = 0;
  const auto at = reinterpret_cast<std::uintptr_t>(memory->regions().front().mapping.address()) / kPage + 5;
  ASSERT_EQ(::pread(map.get(), &entry, sizeof entry, static_cast<off_t>(at * sizeof entry)), 8);
  EXPECT_EQ(entry >> 63, 0U) << "it was mapped ahead";
  (*loop)->close();
}

}  // namespace
}  // namespace mayfly
