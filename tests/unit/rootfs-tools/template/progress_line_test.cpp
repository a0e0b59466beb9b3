#include "rootfs-tools/template/progress_line.h"

#include "vmm/base/owned_fd.h"

#include <fcntl.h>
#include <unistd.h>

#include <array>
#include <string>

#include <gtest/gtest.h>

namespace mayfly::image {
namespace {

using namespace std::chrono_literals;

class ProgressLineTest : public ::testing::Test {
 protected:
  ProgressLineTest() {
    std::array<int, 2> ends{};
    if (::pipe2(ends.data(), O_CLOEXEC | O_NONBLOCK) != 0) throw std::runtime_error{"pipe2"};
    out_ = OwnedFd{ends[0]};
    in_ = OwnedFd{ends[1]};
  }
  std::string drawn() {
    std::array<char, 4096> text{};
    const ssize_t count = ::read(out_.get(), text.data(), text.size());
    return count > 0 ? std::string{text.data(), static_cast<std::size_t>(count)} : "";
  }

  OwnedFd out_;
  OwnedFd in_;
  ProgressLine::Clock::time_point start_ = ProgressLine::Clock::now();
};

TEST_F(ProgressLineTest, IsDrawnOnlyWhereItTakesTime) {
  ProgressLine line{in_.get(), true};
  line.show("Reading", 1 << 20, 10 << 20, start_ + 1s);
  EXPECT_EQ(drawn(), "");
  line.show("Reading", 5 << 20, 10 << 20, start_ + 3s);
  EXPECT_EQ(drawn(), "\r\033[KReading: [###############               ] 5 of 10 MiB");
  line.show("Reading", 6 << 20, 10 << 20, start_ + 3s + 10ms);
  EXPECT_EQ(drawn(), "") << "a few times a second";
  line.show("Writing", 11 << 20, 10 << 20, start_ + 4s);
  EXPECT_EQ(drawn(), "\r\033[KWriting: [##############################] 10 of 10 MiB");
  line.show("Writing", 0, 0, start_ + 5s);
  EXPECT_EQ(drawn(), "\r\033[KWriting: [                              ] 0 of 0 MiB");
  line.clear();
  EXPECT_EQ(drawn(), "\r\033[K");
}

TEST_F(ProgressLineTest, IsNothingWhereThereIsNoTerminal) {
  {
    ProgressLine line{in_.get(), false};
    line.show("Reading", 1, 2, start_ + 10s);
  }
  EXPECT_EQ(drawn(), "");
}

TEST_F(ProgressLineTest, IsGoneWithTheObject) {
  {
    ProgressLine line{in_.get(), true};
    line.show("Reading", 0, 1, start_ + 10s);
  }
  EXPECT_TRUE(drawn().ends_with("\r\033[K"));
}

}  // namespace
}  // namespace mayfly::image
