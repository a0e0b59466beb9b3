#include "rootfs-tools/clones/up.h"
#include "tests/support/child_process.h"
#include "tests/support/files.h"

#include <fcntl.h>
#include <unistd.h>

#include <filesystem>

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

TEST_F(LogsTest, ACloneThatIsNowhereIsSaidToBe) {
  const auto printed = print_logs({.id = "vm-2", .bases = {.jails = run_ / "jails", .run = run_}});
  ASSERT_FALSE(printed);
  EXPECT_EQ(printed.error().message, "mayfly up has left nothing of vm-2 in " + run_.native() + " or in jails below " +
                                         run_.native() + "/jails; see mayfly ps");
}

}  // namespace
}  // namespace mayfly::clones
