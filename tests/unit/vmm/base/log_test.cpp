#include "vmm/base/log.h"

#include "tests/support/child_process.h"
#include "tests/support/files.h"

#include <fcntl.h>
#include <fnmatch.h>
#include <sys/stat.h>
#include <unistd.h>

#include <gtest/gtest.h>

namespace mayfly {
namespace {

class LogTest : public ::testing::Test {
 protected:
  LogTest() {
    config_.log_path = scratch_.file("log");
    EXPECT_TRUE(log_.configure(config_));
  }
  std::string text() { return testing::content_of(*config_.log_path); }
  testing::ScratchDirectory scratch_;
  LoggerConfig config_;
  Log log_{"vm-7"};
};

TEST_F(LogTest, ALineHasTimeIdLevelAndMessage) {
  log_.warning("{} of {}", 1, 2);
  constexpr const char* kShape =
      "[0-9][0-9][0-9][0-9]-[0-9][0-9]-[0-9][0-9]T[0-9][0-9]:[0-9][0-9]:[0-9][0-9]."
      "[0-9][0-9][0-9][0-9][0-9][0-9]Z [[]vm-7:WARN[]] 1 of 2\n";
  EXPECT_EQ(::fnmatch(kShape, text().c_str(), 0), 0) << text();
}

TEST_F(LogTest, WhateverAMessageQuotesItIsOneLine) {
  log_.error("no file {}", "/a\n2026-01-01T00:00:00.000000Z [vm-7] INFO all is well\x1B[2J\x7F");
  EXPECT_TRUE(text().ends_with(" no file /a?2026-01-01T00:00:00.000000Z [vm-7] INFO all is well?[2J?\n")) << text();
  log_.error("{}", "gr\u00FC\u00DFe");
  EXPECT_TRUE(text().ends_with(" gr\u00FC\u00DFe\n")) << text();
  log_.error("{}", "\xC2\x9B 2J");
  EXPECT_TRUE(text().ends_with("] ?? 2J\n")) << text();
}

TEST_F(LogTest, WritesOnlyTheWantedLevels) {
  log_.debug("hidden");
  LoggerConfig level;
  level.level = LogLevel::Debug;
  ASSERT_TRUE(log_.configure(level));
  log_.debug("shown");
  level.level = LogLevel::Off;
  ASSERT_TRUE(log_.configure(level));
  log_.error("hidden");
  EXPECT_EQ(text().find("hidden"), std::string::npos);
  EXPECT_NE(text().find("shown"), std::string::npos);
}

TEST_F(LogTest, ShowsItsOriginAndFiltersByIt) {
  LoggerConfig origin;
  origin.show_log_origin = true;
  origin.show_level = false;
  ASSERT_TRUE(log_.configure(origin));
  log_.info("here");
  EXPECT_NE(text().find(" [vm-7:"), std::string::npos) << text();
  EXPECT_NE(text().find("log_test.cpp:"), std::string::npos) << text();
  EXPECT_EQ(text().find("INFO"), std::string::npos);
  LoggerConfig module;
  module.module = "somewhere_else";
  ASSERT_TRUE(log_.configure(module));
  log_.info("filtered");
  EXPECT_EQ(text().find("filtered"), std::string::npos);
}

TEST_F(LogTest, AGreetingIsTheFirstFilesFirstLineAtAnyLevel) {
  Log log{"vm-7", "Running"};
  config_.log_path = scratch_.file("greeted");
  config_.level = LogLevel::Error;
  ASSERT_TRUE(log.configure(config_));
  ASSERT_TRUE(log.configure(config_));
  log.info("hidden");
  EXPECT_EQ(text(), "Running\n");
  config_.log_path = scratch_.file("second");
  ASSERT_TRUE(log.configure(config_));
  EXPECT_EQ(text(), "");
}

TEST_F(LogTest, APathThatDoesNotOpenChangesNothing) {
  LoggerConfig bad;
  bad.log_path = scratch_.file("missing/log");
  bad.level = LogLevel::Off;
  const auto refused = log_.configure(bad);
  ASSERT_FALSE(refused);
  EXPECT_NE(refused.error().message.find(*bad.log_path), std::string::npos);
  log_.info("still here");
  EXPECT_NE(text().find("still here"), std::string::npos);
}

TEST_F(LogTest, AFullPipeLosesLinesAndCountsThem) {
  const std::string fifo = scratch_.file("fifo");
  ASSERT_EQ(::mkfifo(fifo.c_str(), 0600), 0);
  LoggerConfig config;
  config.log_path = fifo;
  ASSERT_TRUE(log_.configure(config));
  for (int i = 0; i < 5000 && log_.missed() == 0; ++i) log_.info("{}", std::string(100, 'x'));
  EXPECT_GT(log_.missed(), 0U);
}

TEST_F(LogTest, ALongMessageIsCutToOneLine) {
  log_.info("{}", std::string(100'000, 'x'));
  EXPECT_EQ(text().size(), 4096U);
  EXPECT_TRUE(text().ends_with("x\n"));
}

/// The refusal's sentence; empty where the path was opened.
std::string log_refusal_of(const std::string& path) {
  const auto opened = open_line_sink(path, "log_path");
  return opened ? "" : opened.error().message;
}

TEST(LineSink, IsNeverBehindALink) {
  const testing::ScratchDirectory scratch;
  const std::string target = testing::make_file(scratch.file("target"), "");
  for (const std::string& leads_to : {target, scratch.file("none"), std::string{"/dev/null"}}) {
    ASSERT_EQ(::symlink(leads_to.c_str(), scratch.file("log").c_str()), 0);
    EXPECT_EQ(log_refusal_of(scratch.file("log")),
              "log_path " + scratch.file("log") +
                  " is a link, which could lead to any file; give the path of the file itself");
    ::unlink(scratch.file("log").c_str());
  }
  EXPECT_EQ(::access(scratch.file("none").c_str(), F_OK), -1) << "nothing was made where the link led";
}

TEST(LineSink, IsAFileAFifoOrACharacterDevice) {
  const testing::ScratchDirectory scratch;
  EXPECT_EQ(log_refusal_of(scratch.file("new")), "");
  EXPECT_EQ(log_refusal_of(scratch.file("new")), "") << "and now it is there";
  ASSERT_EQ(::mkfifo(scratch.file("fifo").c_str(), 0600), 0);
  EXPECT_EQ(log_refusal_of(scratch.file("fifo")), "");
  EXPECT_EQ(log_refusal_of("/dev/null"), "");
  EXPECT_NE(log_refusal_of(scratch.file("")), "");
  // Hosts show a jail's log elsewhere so; a link to another's file is the kernel's to refuse (fs.protected_hardlinks).
  ASSERT_EQ(::link(scratch.file("new").c_str(), scratch.file("second-name").c_str()), 0);
  EXPECT_EQ(log_refusal_of(scratch.file("second-name")), "");
}

TEST(LineSink, IsNoFileOfAnotherUser) {
  if (::geteuid() != 0) GTEST_SKIP() << "only root can make a file of another user";
  const testing::ScratchDirectory scratch;
  const std::string planted = testing::make_file(scratch.file("planted"), "");
  ASSERT_EQ(::chmod(planted.c_str(), 0666), 0);
  ASSERT_EQ(::chown(planted.c_str(), 61'234, 61'234), 0);
  EXPECT_EQ(log_refusal_of(planted), "log_path " + planted +
                                         " is a file of user 61234, and this is user 0: its owner could read what is "
                                         "written there; remove it, or give another path");
  ASSERT_EQ(::chown(planted.c_str(), 0, 0), 0);
  EXPECT_EQ(log_refusal_of(planted), "");
}

TEST(LineSink, MayBeADescriptorThatThisProcessWasGiven) {
  const testing::ScratchDirectory scratch;
  const OwnedFd given{::open(scratch.file("given").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600)};
  for (const char* const folder : {"/dev/fd/", "/proc/self/fd/"}) {
    const auto opened = open_line_sink(folder + std::to_string(given.get()), "log_path");
    ASSERT_TRUE(opened) << opened.error().message;
    EXPECT_TRUE(write_whole_line(opened->get(), "a line\n"));
  }
  EXPECT_EQ(testing::content_of(scratch.file("given")), "a line\na line\n");
  EXPECT_NE(log_refusal_of("/proc/self/fd/999999"), "");
  EXPECT_NE(log_refusal_of("/proc/self/exe"), "");
  EXPECT_NE(log_refusal_of("/proc/self/fd/../exe"), "");
  EXPECT_NE(log_refusal_of("/dev/fd/"), "");
}

TEST(LogRate, LetsABurstThroughAndThenWaits) {
  LogRate rate;
  unsigned allowed = 0;
  for (int i = 0; i < 1000; ++i) allowed += rate.allow() ? 1 : 0;
  EXPECT_GE(allowed, LogRate::kBurst);
  EXPECT_LE(allowed, 3 * LogRate::kBurst);  // the loop may pass a second's end
}

}  // namespace
}  // namespace mayfly
