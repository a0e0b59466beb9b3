#include "jailer/landlock.h"

#include "tests/support/child_process.h"
#include "tests/support/files.h"

#include <fcntl.h>
#include <netinet/in.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <functional>

#include <gtest/gtest.h>

namespace mayfly::jailer {
namespace {

/// Whether `attempt` holds in a child that is fenced in.
bool holds_inside(const std::function<bool()>& attempt) {
  const pid_t child = ::fork();
  if (child == 0) {
    const bool fenced = ::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 && fence_in("/proc/self/exe").has_value();
    ::_exit(fenced && attempt() ? 0 : 1);
  }
  int status = 0;
  return ::waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

class JailFence : public ::testing::Test {
 protected:
  void SetUp() override {
    if (landlock_version() == 0) GTEST_SKIP() << "this kernel has no Landlock";
  }
  mayfly::testing::ScratchDirectory scratch_;
};

TEST_F(JailFence, LetsFilesBeReadWrittenMadeAndRemoved) {
  const std::string old = mayfly::testing::make_file(scratch_.file("old"), "x");
  EXPECT_TRUE(holds_inside([&] {
    const OwnedFd made{::open(scratch_.file("new").c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600)};
    const OwnedFd opened{::open(old.c_str(), O_RDWR | O_CLOEXEC)};
    return made && opened && ::write(opened.get(), "y", 1) == 1 && ::ftruncate(opened.get(), 0) == 0 &&
           ::rename(scratch_.file("new").c_str(), scratch_.file("newer").c_str()) == 0 && ::unlink(old.c_str()) == 0;
  }));
}

TEST_F(JailFence, LetsNothingElseBeExecuted) {
  EXPECT_TRUE(holds_inside([] {
    ::execl("/bin/sh", "sh", "-c", "exit 0", nullptr);
    return errno == EACCES;
  }));
}

TEST_F(JailFence, LetsNoDirectoriesLinksOrDevicesBeMade) {
  EXPECT_TRUE(holds_inside([&] {
    const bool no_directory = ::mkdir(scratch_.file("d").c_str(), 0700) != 0 && errno == EACCES;
    const bool no_link = ::symlink("/", scratch_.file("l").c_str()) != 0 && errno == EACCES;
    return no_directory && no_link;
  }));
}

TEST_F(JailFence, LetsNoTcpThrough) {
  if (landlock_version() < 4) GTEST_SKIP() << "this kernel's Landlock does not know about networks";
  EXPECT_TRUE(holds_inside([] {
    const OwnedFd socket{::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)};
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    return ::bind(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0 && errno == EACCES;
  }));
}

TEST_F(JailFence, LetsNoSignalOut) {
  if (landlock_version() < 6) GTEST_SKIP() << "this kernel's Landlock does not know about signals";
  EXPECT_TRUE(holds_inside([] { return ::kill(::getppid(), 0) != 0 && errno == EPERM; }));
  EXPECT_TRUE(holds_inside([] { return ::kill(::getpid(), 0) == 0; }));
}

}  // namespace
}  // namespace mayfly::jailer
