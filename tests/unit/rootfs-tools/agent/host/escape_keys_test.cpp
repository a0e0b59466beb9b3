#include "rootfs-tools/agent/host/escape_keys.h"

#include <string>
#include <string_view>

#include <gtest/gtest.h>

namespace mayfly::agent {
namespace {

/// What a guest is typed, key by key, and "|" where it is left.
std::string typed(std::string_view keys) {
  EscapeKeys escape;
  std::string all;
  for (const char key : keys) {
    const auto passed = escape.pass({&key, 1});
    all += passed.keys;
    if (passed.leaves) return all + '|';
  }
  return all;
}

TEST(EscapeKeys, LeaveAtTheBeginOfALine) {
  EXPECT_EQ(typed("~.ls"), "|");
  EXPECT_EQ(typed("ls\r~.x"), "ls\r|");
  EXPECT_EQ(typed("ls\n~.x"), "ls\n|");
}

TEST(EscapeKeys, AreTheGuestsElsewhere) {
  EXPECT_EQ(typed("cd ~.\r"), "cd ~.\r");
  EXPECT_EQ(typed("~/.\r"), "~/.\r");
  EXPECT_EQ(typed("a~.~."), "a~.~.");
  EXPECT_EQ(typed("~~.\r"), "~.\r") << "a tilde that is meant";
  EXPECT_EQ(typed("~\r~."), "~\r|");
}

TEST(EscapeKeys, AreFoundInAPieceAsOneByOne) {
  EscapeKeys escape;
  const auto passed = escape.pass("one\r~~two\r~.three");
  EXPECT_EQ(passed.keys, "one\r~two\r");
  EXPECT_TRUE(passed.leaves);
}

TEST(EscapeKeys, SayHowManyWait) {
  EscapeKeys escape;
  EXPECT_EQ(escape.held(), 0U);
  EXPECT_EQ(escape.pass("~").keys, "");
  EXPECT_EQ(escape.held(), 1U);
  EXPECT_EQ(escape.pass("a").keys, "~a");
  EXPECT_EQ(escape.held(), 0U);
}

}  // namespace
}  // namespace mayfly::agent
