#include "rootfs-tools/clones/up.h"

#include "rootfs-tools/clones/template_file.h"
#include "tests/support/child_process.h"
#include "tests/support/files.h"

#include <sys/stat.h>

#include <filesystem>

#include <gtest/gtest.h>

namespace mayfly::clones {
namespace {

namespace fs = std::filesystem;
using mayfly::testing::ScratchDirectory;

/// With programs in the place of the monitor.
class UpTest : public ::testing::Test {
 protected:
  UpTest() {
    fs::create_directory(template_);
    Template made{.directory = template_};
    for (const char* name : {kBaseName, kLayerName, kStateName, kMemoryName}) {
      testing::make_file(template_ / name, name);
      made.files.push_back({.name = name, .size = std::string{name}.size()});
    }
    testing::make_file(template_ / "template.json", to_json(made));
  }
  UpOptions order(const std::string& script) const {
    const std::string monitor = testing::make_file(scratch_.file("mayfly"), "#!/bin/sh\n" + script + "\n");
    ::chmod(monitor.c_str(), 0700);
    return {.directory = template_,
            .id = "vm-1",
            .jail = false,
            .bases = {.jails = scratch_.file("jails"), .run = run_},
            .monitor = monitor,
            .patience_s = 1};
  }

  ScratchDirectory scratch_;
  fs::path template_ = scratch_.file("app.template");
  fs::path run_ = scratch_.file("clones");
};

TEST_F(UpTest, TheDeadlineIsAlsoTheMonitorsStart) {
  const double begin = testing::now_us();
  const auto up = bring_up(order("exec sleep 1000"));
  EXPECT_FALSE(up);
  EXPECT_GE(testing::now_us() - begin, 1e6);
  EXPECT_LT(testing::now_us() - begin, 20e6) << "not a minute of its own";
  EXPECT_FALSE(fs::exists(run_ / "vm-1"));
  EXPECT_TRUE(fs::is_empty(run_ / ".starting"));
}

TEST_F(UpTest, AMonitorThatEndsIsQuoted) {
  const auto up = bring_up(order("echo I cannot >&2; exit 1"));
  ASSERT_FALSE(up);
  EXPECT_TRUE(up.error().message.ends_with("it ended before its API answered; its monitor said: I cannot"))
      << up.error().message;
  EXPECT_FALSE(fs::exists(run_ / "vm-1"));
}

TEST_F(UpTest, LimitsNeedAJail) {
  UpOptions limited = order("exit 1");
  limited.jailer_words = {"--cgroup", "pids.max=1"};
  const auto up = bring_up(limited);
  ASSERT_FALSE(up);
  EXPECT_EQ(up.error().message, "--cgroup is a jail's: be root, and leave --no-jail out");
  EXPECT_FALSE(fs::exists(run_)) << "nothing is made";
}

}  // namespace
}  // namespace mayfly::clones
