#include "rootfs-tools/clones/up.h"
#include "tests/support/child_process.h"
#include "tests/support/files.h"

#include <fcntl.h>
#include <unistd.h>

#include <cstdio>
#include <filesystem>
#include <thread>

#include <gtest/gtest.h>

namespace mayfly::clones {
namespace {

namespace fs = std::filesystem;
using mayfly::testing::ScratchDirectory;

/// A clone without a jail that has ended.
class LogsTest : public ::testing::Test {
 protected:
  LogsTest() {
    fs::create_directory(place_);
    testing::make_file(place_ / kLog, "");
    testing::make_file(place_ / kConsole, "");
  }
  void write_at(off_t at, const std::string& text) const {
    const OwnedFd file{::open((place_ / kConsole).c_str(), O_WRONLY | O_CLOEXEC)};
    ASSERT_EQ(::pwrite(file.get(), text.data(), text.size(), at), static_cast<ssize_t>(text.size()));
  }
  void show() {
    ::testing::internal::CaptureStdout();
    ::testing::internal::CaptureStderr();
    const auto printed = print_logs({.id = "vm-1", .bases = {.jails = run_ / "jails", .run = run_}});
    out_ = ::testing::internal::GetCapturedStdout();
    err_ = ::testing::internal::GetCapturedStderr();
    EXPECT_TRUE(printed) << printed.error().message;
  }

  ScratchDirectory scratch_;
  fs::path run_ = fs::path{scratch_.file("x")}.parent_path();
  fs::path place_ = run_ / "vm-1";
  std::string out_;
  std::string err_;
};

TEST_F(LogsTest, AreFoundInTheRunDirectoryThatIsGiven) {
  write_at(0, "hello\n");
  show();
  EXPECT_EQ(out_, "hello\n");
  EXPECT_EQ(err_, "");
}

TEST_F(LogsTest, SkipWhatIsGoneAndSayHowMuchThatIs) {
  constexpr off_t kGone = off_t{3} << 20;
  std::string kept(200'001, 'k');
  kept.back() = '\n';
  write_at(kGone, kept);
  show();
  EXPECT_TRUE(out_ == kept) << out_.size() << " bytes";
  EXPECT_EQ(err_, "mayfly logs: 3145728 bytes are gone here; mayfly up --max-output says how much is kept\n");
}

TEST_F(LogsTest, SkipAHoleThatHasNoEnd) {
  write_at(0, std::string(65536, 'k'));
  ASSERT_EQ(::truncate((place_ / kConsole).c_str(), off_t{1} << 42), 0);
  show();
  EXPECT_TRUE(out_ == std::string(65536, 'k')) << out_.size() << " bytes";
}

TEST_F(LogsTest, EndAtWhatWasThereWhereTheGuestPrintsAsItIsRead) {
  const std::string line(std::size_t{1} << 20, 'k');
  write_at(0, line);
  testing::Pipe pipe;
  const OwnedFd before{::dup(STDOUT_FILENO)};
  std::fflush(stdout);
  ASSERT_GE(::dup2(pipe.write.get(), STDOUT_FILENO), 0);
  pipe.write.reset();
  std::size_t read = 0;
  std::jthread reader{[&] {
    std::string piece(4096, '\0');
    for (ssize_t count = 0; (count = ::read(pipe.read.get(), piece.data(), piece.size())) > 0;) {
      read += static_cast<std::size_t>(count);
      if (read < 8 * line.size()) write_at(static_cast<off_t>(read + line.size() / 2), line);
    }
  }};
  const auto printed = print_logs({.id = "vm-1", .bases = {.jails = run_ / "jails", .run = run_}});
  ASSERT_GE(::dup2(before.get(), STDOUT_FILENO), 0);
  reader.join();
  EXPECT_TRUE(printed);
  EXPECT_EQ(read, line.size());
}

TEST_F(LogsTest, ACloneThatIsNowhereIsSaidToBe) {
  const auto printed = print_logs({.id = "vm-2", .bases = {.jails = run_ / "jails", .run = run_}});
  ASSERT_FALSE(printed);
  EXPECT_EQ(printed.error().message, "mayfly up has left nothing of vm-2 in " + run_.native() + " or in jails below " +
                                         run_.native() + "/jails; see mayfly ps");
}

}  // namespace
}  // namespace mayfly::clones
