#include "vmm/base/unix_listener.h"

#include "tests/unit/api/unix_client.h"

#include <sys/stat.h>

#include <fstream>
#include <optional>

#include <gtest/gtest.h>

namespace mayfly {
namespace {

class UnixListenerTest : public ::testing::Test {
 protected:
  static std::string failure(const std::string& path) {
    const auto listener = UnixListener::create(path);
    EXPECT_FALSE(listener) << path;
    return listener ? "" : listener.error().message;
  }
  static unsigned mode_of(const std::string& path) {
    struct stat status{};
    EXPECT_EQ(::lstat(path.c_str(), &status), 0);
    return status.st_mode & 07777U;
  }

  TestDirectory directory_;
  std::string path_ = directory_.file("api.sock");
};

TEST_F(UnixListenerTest, IsConnectedToAndIsItsOwnersAlone) {
  const mode_t umask_before = ::umask(0);
  const auto listener = UnixListener::create(path_);
  ::umask(umask_before);
  ASSERT_TRUE(listener) << listener.error().message;
  EXPECT_EQ(mode_of(path_), 0600U);
  EXPECT_TRUE(UnixClient{path_}.connected());
}

TEST_F(UnixListenerTest, RemovesItsFileAtTheEnd) {
  {
    const auto listener = UnixListener::create(path_);
    ASSERT_TRUE(listener);
    EXPECT_TRUE(std::filesystem::exists(path_));
  }
  EXPECT_FALSE(std::filesystem::exists(path_));
}

TEST_F(UnixListenerTest, LeavesAFileThatIsNotItsOwn) {
  std::optional<UnixListener> first{std::move(*UnixListener::create(path_))};
  std::filesystem::remove(path_);
  const auto second = UnixListener::create(path_);
  ASSERT_TRUE(second);
  first.reset();
  EXPECT_TRUE(UnixClient{path_}.connected());
}

TEST_F(UnixListenerTest, SaysThatSomeoneIsListening) {
  const auto listener = UnixListener::create(path_);
  ASSERT_TRUE(listener);
  EXPECT_EQ(failure(path_), "cannot make the API socket " + path_ +
                                ": another process is listening there; choose another path or stop it");
  EXPECT_TRUE(UnixClient{path_}.connected());
}

TEST_F(UnixListenerTest, SaysThatASocketIsStaleAndLeavesIt) {
  {
    const OwnedFd abandoned{::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0)};
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    path_.copy(address.sun_path, sizeof address.sun_path - 1);
    ASSERT_EQ(::bind(abandoned.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address), 0);
  }
  EXPECT_EQ(failure(path_), "cannot make the API socket " + path_ +
                                ": a stale socket is there, left by a process that has ended; remove it (rm " + path_ +
                                ") and start again");
  EXPECT_TRUE(std::filesystem::exists(path_));
}

TEST_F(UnixListenerTest, SaysThatAnotherFileIsThere) {
  std::ofstream{path_} << "precious";
  EXPECT_EQ(failure(path_),
            "cannot make the API socket " + path_ + ": a file that is no socket is there; choose another path");
  EXPECT_EQ(std::filesystem::file_size(path_), 8U);
}

TEST_F(UnixListenerTest, SaysHowLongAPathMayBe) {
  const std::string longest = directory_.file(std::string(107 - directory_.file("").size(), 's'));
  ASSERT_EQ(longest.size(), 107U);
  const auto listener = UnixListener::create(longest);
  ASSERT_TRUE(listener) << listener.error().message;
  EXPECT_TRUE(std::filesystem::exists(longest));
  EXPECT_TRUE(UnixClient{longest}.connected());
  EXPECT_EQ(failure(longest + 's'),
            "the path of the API socket is 108 bytes long, and the kernel takes at most 107: " + longest + 's');
}

TEST_F(UnixListenerTest, SaysWhatIsWrongWithAPath) {
  EXPECT_EQ(failure(""), "the path of the API socket is empty");
  EXPECT_EQ(failure(std::string{"a\0b", 3}), "the path of the API socket has a NUL character");
  const std::string nowhere = directory_.file("nowhere/api.sock");
  EXPECT_EQ(failure(nowhere), "cannot make the API socket " + nowhere + " in " + directory_.file("nowhere/") +
                                  ": No such file or directory (ENOENT)");
}

}  // namespace
}  // namespace mayfly
