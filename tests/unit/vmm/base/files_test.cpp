#include "vmm/base/files.h"

#include "tests/support/child_process.h"
#include "tests/support/files.h"
#include "vmm/base/owned_fd.h"

#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdlib>
#include <string_view>
#include <thread>

#include <gtest/gtest.h>

namespace mayfly::testing {
namespace {

class ReadFileTest : public ::testing::Test {
 protected:
  ScratchDirectory scratch_;
};

std::string refusal_of(const std::string& path, std::size_t longest) {
  const auto text = read_file(path, "--file " + path, longest);
  return text ? "read" : text.error().message;
}

TEST_F(ReadFileTest, GivesAllUpToTheLongest) {
  const std::string content(10'000, 'x');
  const std::string path = make_file(scratch_.file("f"), content);
  const auto text = read_file(path, "--file", content.size());
  ASSERT_TRUE(text) << text.error().message;
  EXPECT_EQ(*text, content);
  EXPECT_EQ(refusal_of(path, content.size() - 1), "--file " + path + " has over 9999 bytes");
}

TEST_F(ReadFileTest, WaitsForThePipesOfAShell) {
  Pipe pipe;
  ASSERT_EQ(::write(pipe.write.get(), "one ", 4), 4);
  std::thread writer{[&pipe] {
    for (int left = 4; left > 0; std::this_thread::yield()) ::ioctl(pipe.read.get(), FIONREAD, &left);
    EXPECT_EQ(::write(pipe.write.get(), "two", 3), 3);
    pipe.write.reset();
  }};
  const auto text = read_file("/dev/fd/" + std::to_string(pipe.read.get()), "--file", 100);
  writer.join();
  ASSERT_TRUE(text) << text.error().message;
  EXPECT_EQ(*text, "one two");
}

TEST_F(ReadFileTest, APipeThatNobodyWritesIsEmpty) {
  ASSERT_EQ(::mkfifo(scratch_.file("fifo").c_str(), 0600), 0);
  const auto text = read_file(scratch_.file("fifo"), "--file", 100);
  ASSERT_TRUE(text) << text.error().message;
  EXPECT_EQ(*text, "");
}

TEST_F(ReadFileTest, NamesWhatCannotBeRead) {
  const std::string missing = scratch_.file("none");
  EXPECT_EQ(refusal_of(missing, 100), "--file " + missing + " cannot be opened: No such file or directory (ENOENT)");
  const std::string directory = scratch_.file("");
  EXPECT_EQ(refusal_of(directory, 100), "--file " + directory + " cannot be read: Is a directory (EISDIR)");
}

TEST_F(ReadFileTest, ReadsAndWritesAllAtAnOffset) {
  const OwnedFd file{::open(make_file(scratch_.file("f"), "0123").c_str(), O_RDWR | O_CLOEXEC)};
  EXPECT_TRUE(write_all_at(file.get(), std::as_bytes(std::span{std::string_view{"abc"}}), 3));
  std::array<char, 5> read{};
  EXPECT_EQ(read_all_at(file.get(), std::as_writable_bytes(std::span{read}), 1), 5U);
  EXPECT_EQ((std::string_view{read.data(), read.size()}), "12abc");
}

TEST_F(ReadFileTest, TellsTheEndOfAFileFromAFailure) {
  const OwnedFd file{::open(make_file(scratch_.file("f"), "0123").c_str(), O_RDONLY | O_CLOEXEC)};
  std::array<std::byte, 8> read{};
  EXPECT_EQ(read_all_at(file.get(), read, 1), 3U);
  EXPECT_EQ(errno, 0);
  EXPECT_EQ(read_all_at(-1, read, 0), 0U);
  EXPECT_EQ(errno, EBADF);
  EXPECT_FALSE(write_all_at(file.get(), read, 0));
  EXPECT_EQ(errno, EBADF);
}

TEST(NonblockingTwinTest, OfAPipeBlocksNobodyElse) {
  Pipe pipe;
  const OwnedFd reader = nonblocking_twin(pipe.read.get(), O_RDONLY);
  const OwnedFd writer = nonblocking_twin(pipe.write.get(), O_WRONLY);
  ASSERT_TRUE(reader && writer);
  EXPECT_EQ(::fcntl(pipe.read.get(), F_GETFL) & O_NONBLOCK, 0);
  EXPECT_EQ(::fcntl(pipe.write.get(), F_GETFL) & O_NONBLOCK, 0);
  char byte = 0;
  EXPECT_EQ(::read(reader.get(), &byte, 1), -1);
  EXPECT_EQ(errno, EAGAIN);
  ASSERT_EQ(::write(writer.get(), "x", 1), 1);
  ASSERT_EQ(::read(pipe.read.get(), &byte, 1), 1);
  EXPECT_EQ(byte, 'x');
}

TEST(NonblockingTwinTest, OfATerminalAsWell) {
  const OwnedFd terminal{::posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC)};
  ASSERT_TRUE(terminal);
  ASSERT_EQ(::unlockpt(terminal.get()), 0);
  const OwnedFd other{::open(::ptsname(terminal.get()), O_RDWR | O_NOCTTY | O_CLOEXEC)};
  ASSERT_TRUE(other);
  const OwnedFd twin = nonblocking_twin(other.get(), O_RDONLY);
  ASSERT_TRUE(twin);
  EXPECT_EQ(::fcntl(other.get(), F_GETFL) & O_NONBLOCK, 0);
  EXPECT_EQ(::fcntl(twin.get(), F_GETFL) & O_NONBLOCK, O_NONBLOCK);
}

TEST(NonblockingTwinTest, OfAFileThereIsNone) {
  // Its offset would be another one.
  const ScratchDirectory scratch;
  const OwnedFd file{::open(make_file(scratch.file("f"), "text").c_str(), O_WRONLY | O_APPEND | O_CLOEXEC)};
  EXPECT_FALSE(nonblocking_twin(file.get(), O_WRONLY));
  EXPECT_FALSE(nonblocking_twin(-1, O_WRONLY));
}

}  // namespace
}  // namespace mayfly::testing
