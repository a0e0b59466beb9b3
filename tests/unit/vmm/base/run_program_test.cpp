#include "vmm/base/run_program.h"

#include <sys/wait.h>

#include <csignal>

#include <gtest/gtest.h>

namespace mayfly {
namespace {

TEST(RunProgram, TellsWhatItSaidAndHowItEnded) {
  const auto good = run_program({"/bin/sh", "-c", "echo out; echo err >&2"});
  ASSERT_TRUE(good) << good.error().message;
  EXPECT_TRUE(good->succeeded());
  EXPECT_EQ(good->said, "out\nerr\n");

  const auto failed = run_program({"/bin/sh", "-c", "exit 3"});
  ASSERT_TRUE(failed);
  EXPECT_FALSE(failed->succeeded());
  EXPECT_EQ(WEXITSTATUS(failed->status), 3);

  const auto killed = run_program({"/bin/sh", "-c", "kill -9 $$"});
  ASSERT_TRUE(killed);
  EXPECT_FALSE(killed->succeeded());
  EXPECT_EQ(WTERMSIG(killed->status), SIGKILL);
}

TEST(RunProgram, KeepsTheBeginningOfALongSpeechAndReadsAllOfIt) {
  const auto end = run_program({"/bin/sh", "-c", "head -c 1000000 /dev/zero | tr '\\0' x; exit 0"});
  ASSERT_TRUE(end) << end.error().message;
  EXPECT_TRUE(end->succeeded()) << end->status;
  EXPECT_EQ(end->said, std::string(std::size_t{64} << 10, 'x'));
}

TEST(RunProgram, SaysWhichOneCannotBeRun) {
  const auto end = run_program({"/none/such"});
  ASSERT_FALSE(end);
  EXPECT_EQ(end.error().message, "cannot run /none/such: No such file or directory (ENOENT)");
}

TEST(RunProgram, AnEndThatNobodyTellsIsNoSuccess) {
  const auto before = std::signal(SIGCHLD, SIG_IGN);  // as a shell after trap '' CHLD
  const auto end = run_program({"/bin/sh", "-c", "exit 3"});
  std::signal(SIGCHLD, before);
  EXPECT_FALSE(end && end->succeeded());
}

}  // namespace
}  // namespace mayfly
