#include "vmm/monitor/log_trimmer.h"

#include "tests/support/child_process.h"
#include "tests/support/files.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <string>

#include <gtest/gtest.h>

namespace mayfly {
namespace {

/// At three quarters it is time.
constexpr off_t kTrimmed = off_t{kLeastBound} * 3 / 4 + 8192;

class LogTrimmerTest : public ::testing::Test {
 protected:
  LogTrimmerTest() {
    auto loop = EventLoop::create();
    if (!loop) std::abort();
    loop_ = std::move(*loop);
  }
  ~LogTrimmerTest() override { loop_->close(); }

  void open(const std::string& path) {
    LoggerConfig config;
    config.log_path = path;
    config.max_bytes = kLeastBound;
    const auto opened = log_.configure(config);
    ASSERT_TRUE(opened) << opened.error().message;
  }
  [[nodiscard]] struct stat status() const {
    struct stat status{};
    EXPECT_EQ(::stat(path_.c_str(), &status), 0);
    return status;
  }
  /// Serves what is posted, and what the ring completes, until the file takes no more than this and the log knows it.
  void serve_until(const LogTrimmer& trimmer, const std::string& path, off_t most) {
    const double deadline = testing::now_us() + 20e6;
    struct stat status{};
    do {
      loop_->post([] {});
      ASSERT_TRUE(loop_->run_once());
      ASSERT_LT(testing::now_us(), deadline);
      ASSERT_EQ(::stat(path.c_str(), &status), 0);
    } while (trimmer.is_freeing() || status.st_blocks * 512 > most);
  }
  void write_lines(int count) {
    for (int i = 0; i < count; ++i) log_.error("{} {}", i, std::string(1000, 'x'));
  }

  std::unique_ptr<EventLoop> loop_;
  testing::ScratchDirectory scratch_;
  std::string path_ = scratch_.file("log");
  Log log_{"vm"};
};

TEST_F(LogTrimmerTest, KeepsTheNewestLinesWithinTheLimit) {
  const LogTrimmer trimmer{*loop_, log_};
  open(path_);
  for (int i = 0; i < 100; ++i) {
    write_lines(20);
    ASSERT_LE(status().st_blocks * 512, static_cast<off_t>(kLeastBound) + 4096);
    serve_until(trimmer, path_, kTrimmed);
  }
  log_.error("the last one");
  EXPECT_EQ(log_.missed(), 0U);
  EXPECT_GT(status().st_size, 1'900'000);
  EXPECT_TRUE(testing::content_of(path_).ends_with("the last one\n"));
  EXPECT_EQ(testing::content_of(path_).front(), '\0') << "the oldest is a hole";
}

TEST_F(LogTrimmerTest, DropsAndCountsWhatComesBeforeThereIsRoom) {
  const LogTrimmer trimmer{*loop_, log_};
  open(path_);
  write_lines(1000);
  EXPECT_LE(status().st_size, static_cast<off_t>(kLeastBound));
  EXPECT_GT(log_.missed(), 800U);
  serve_until(trimmer, path_, kTrimmed);
  log_.error("there is room");
  EXPECT_TRUE(testing::content_of(path_).ends_with("there is room\n"));
}

TEST_F(LogTrimmerTest, AFileThatWasTrimmedBeforeHasRoom) {
  const OwnedFd before{::open(path_.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0600)};
  ASSERT_EQ(::pwrite(before.get(), "the old\n", 8, off_t{10} << 20), 8);
  open(path_);
  log_.error("the first of this life");
  EXPECT_EQ(log_.missed(), 0U);
  EXPECT_TRUE(testing::content_of(path_).ends_with("the first of this life\n"));
  ASSERT_EQ(::ftruncate(before.get(), off_t{20} << 20), 0);
  ASSERT_EQ(::fallocate(before.get(), kFreeMode, 0, off_t{20} << 20), 0);
  open(path_);
  log_.error("after nothing but a hole");
  EXPECT_EQ(log_.missed(), 0U);
}

TEST_F(LogTrimmerTest, TrimsTheFileThatTheLogHasByThen) {
  const LogTrimmer trimmer{*loop_, log_};
  open(path_);
  write_lines(110);
  open(scratch_.file("next"));
  write_lines(110);
  serve_until(trimmer, scratch_.file("next"), kTrimmed);
  log_.error("still there");
  EXPECT_EQ(log_.missed(), 0U);
  EXPECT_NE(testing::content_of(path_).front(), '\0') << "the file before is left as it was";
  EXPECT_EQ(testing::content_of(scratch_.file("next")).front(), '\0');
}

TEST_F(LogTrimmerTest, ALimitIsForRegularFiles) {
  const std::string pipe = scratch_.file("pipe");
  ASSERT_EQ(::mkfifo(pipe.c_str(), 0600), 0);
  LoggerConfig config;
  config.log_path = pipe;
  config.max_bytes = kLeastBound;
  const auto opened = log_.configure(config);
  ASSERT_FALSE(opened);
  EXPECT_EQ(opened.error().message,
            "max_bytes needs a regular file, whose oldest bytes can be freed; " + pipe + " is none");
}

}  // namespace
}  // namespace mayfly
