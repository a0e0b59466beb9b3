#include "snapshot/working_set_recorder.h"

#include "snapshot/memory_file.h"
#include "snapshot/userfault.h"
#include "snapshot/working_set.h"
#include "tests/support/child_process.h"
#include "tests/support/files.h"
#include "tests/unit/snapshot/page_ranges.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <filesystem>
#include <thread>

#include <gtest/gtest.h>

namespace mayfly {
namespace {

constexpr std::uint64_t kRecordedPages = kMiB / kPage;

/// A guest's memory that a recorder serves from a file whose page N is full of the letter 'a' + N % 26.
class Recorder : public ::testing::Test {
 protected:
  void SetUp() override {
    auto memory = GuestMemory::create({.size_mib = 1});
    ASSERT_TRUE(memory.has_value());
    memory_.emplace(std::move(*memory));
    if (auto watched = watch_for_faults(*GuestMemory::create({.size_mib = 1}), "test"); !watched)
      GTEST_SKIP() << watched.error().message;
    std::string content;
    for (std::uint64_t page = 0; page < kRecordedPages; ++page) content.append(kPage, letter(page));
    path_ = testing::make_file(scratch_.file("memory"), content);
    auto file = open_for_reading(path_);
    ASSERT_TRUE(file.has_value());
    auto recorder =
        WorkingSetRecorder::start(*memory_, MemoryLayers{.files = {std::make_shared<OwnedFd>(std::move(*file))}}, log_);
    ASSERT_TRUE(recorder.has_value()) << recorder.error().message;
    recorder_ = std::move(*recorder);
  }
  static char letter(std::uint64_t page) { return static_cast<char>('a' + page % 26); }
  [[nodiscard]] std::byte* at(std::uint64_t page) const {
    return memory_->bytes(GuestAddress{page * kPage}, 1)->data();
  }
  [[nodiscard]] char touch(std::uint64_t page) const {
    return static_cast<char>(*const_cast<volatile std::byte*>(at(page) + 77));
  }

  testing::ScratchDirectory scratch_;
  std::string path_;
  Log log_{"test"};
  std::optional<GuestMemory> memory_;
  std::unique_ptr<WorkingSetRecorder> recorder_;
};

TEST_F(Recorder, GivesEachPageFromTheLayerThatShowsIt) {
  recorder_.reset();
  auto memory = GuestMemory::create({.size_mib = 1});
  auto base = open_for_reading(path_);
  auto upper = open_for_reading(testing::make_file(scratch_.file("upper"), std::string(kMiB, '#')));
  ASSERT_TRUE(memory && base && upper);
  const MemoryLayers layers{
      .files = {std::make_shared<OwnedFd>(std::move(*base)), std::make_shared<OwnedFd>(std::move(*upper))},
      .parts = {{3 * kPage, 2 * kPage, 1}, {255 * kPage, kPage, 1}}};
  auto recorder = WorkingSetRecorder::start(*memory, layers, log_);
  ASSERT_TRUE(recorder) << recorder.error().message;
  memory->set_served(layers);
  EXPECT_EQ(memory->file_ranges().size(), 4U);
  for (const std::uint64_t page : {2U, 3U, 4U, 5U, 254U, 255U}) {
    const bool is_upper = page == 3 || page == 4 || page == 255;
    EXPECT_EQ(memory->load<char>(GuestAddress{page * kPage + 5}), is_upper ? '#' : letter(page)) << page;
  }
  EXPECT_EQ((*recorder)->touched().size(), 6U);
  recorder->reset();
}

TEST_F(Recorder, SeesEachPageOnceInTheOrderOfTheFirstTouch) {
  for (const std::uint64_t page : {200U, 3U, 4U, 200U, 3U, 255U, 0U}) EXPECT_EQ(touch(page), letter(page));
  EXPECT_EQ(recorder_->touched(), (std::vector<std::uint64_t>{200 * kPage, 3 * kPage, 4 * kPage, 255 * kPage, 0}));
}

TEST_F(Recorder, ServesOnAfterTheEndOfTheRecording) {
  EXPECT_EQ(touch(1), letter(1));
  EXPECT_EQ(recorder_->touched().size(), 1U);
  recorder_->stop();
  EXPECT_EQ(touch(2), letter(2));
  EXPECT_TRUE(recorder_->touched().empty());
}

TEST_F(Recorder, LeavesOutWhatIsToBeIgnored) {
  recorder_->ignore(true);
  EXPECT_EQ(touch(1), letter(1));
  recorder_->ignore(false);
  EXPECT_EQ(touch(2), letter(2));
  EXPECT_EQ(recorder_->touched(), std::vector<std::uint64_t>{2 * kPage});
}

TEST_F(Recorder, KeepsWhatIsWrittenToAPage) {
  memory_->bytes(GuestAddress{5 * kPage}, kPage)->front() = std::byte{'!'};
  EXPECT_EQ(touch(5), letter(5));
  EXPECT_EQ(static_cast<char>(*at(5)), '!');
}

TEST_F(Recorder, ServesTheKernelToo) {
  testing::Pipe pipe;
  ASSERT_EQ(::write(pipe.write.get(), at(9), 10), 10);
  EXPECT_EQ(recorder_->touched(), std::vector<std::uint64_t>{9 * kPage});
}

TEST_F(Recorder, ServesManyThreadsThatWantTheSamePages) {
  std::vector<std::thread> threads;
  std::array<bool, 8> good{};
  for (bool& mine : good)
    threads.emplace_back([&] {
      mine = true;
      for (std::uint64_t page = 0; page < kRecordedPages; ++page) mine = mine && touch(page) == letter(page);
    });
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(std::ranges::count(good, true), 8);
  const auto touched = recorder_->touched();
  EXPECT_EQ(touched.size(), kRecordedPages);
  EXPECT_EQ(ranges_in_order(touched), (std::vector<PageRange>{{0, kMiB}}));
}

TEST_F(Recorder, TakesAPageAwayThatCannotBeRead) {
  std::filesystem::resize_file(path_, 10 * kPage);
  testing::Pipe pipe;
  EXPECT_EQ(::write(pipe.write.get(), at(10), 10), -1);
  EXPECT_EQ(errno, EFAULT);
  EXPECT_EQ(touch(9), letter(9));
  EXPECT_EQ(recorder_->touched(), std::vector<std::uint64_t>{9 * kPage});
}

TEST_F(Recorder, EndsWithItsThread) {
  const std::size_t before = testing::open_descriptors();
  recorder_.reset();
  EXPECT_EQ(testing::open_descriptors(), before - 3);
}

}  // namespace
}  // namespace mayfly
