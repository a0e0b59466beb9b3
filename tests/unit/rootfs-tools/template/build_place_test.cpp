#include "rootfs-tools/template/build_place.h"

#include "rootfs-tools/template/build.h"
#include "tests/support/child_process.h"
#include "tests/support/files.h"

#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>

#include <gtest/gtest.h>

namespace mayfly::image {
namespace {

namespace fs = std::filesystem;
using mayfly::testing::ChildProcess;
using mayfly::testing::ScratchDirectory;

class BuildPlaceTest : public ::testing::Test {
 protected:
  /// A build that does not get beyond its image.
  [[nodiscard]] std::string refusal() const {
    const std::string program = testing::make_file(scratch_.file("program"), "");
    BuildOrder order;
    order.base.image = scratch_.file("none.tar");
    order.output = output_;
    order.kernel = order.init = order.agent = order.monitor = program;
    const auto made = build_template(order);
    return made ? "" : made.error().message;
  }

  ScratchDirectory scratch_;
  std::string output_ = scratch_.file("app.template");
  std::string directory_ = output_ + ".mayfly-new";
};

TEST_F(BuildPlaceTest, ASecondBuildIsRefusedAndTouchesNothing) {
  const auto place = BuildPlace::take(output_);
  ASSERT_TRUE(place) << place.error().message;
  ASSERT_TRUE(place->clear());
  testing::make_file(directory_ + "/base", "half made");
  EXPECT_EQ(refusal(), "--output " + output_ + ": process " + std::to_string(::getpid()) + " builds it, in " +
                           directory_ + "; wait for its end, or give another path");
  EXPECT_EQ(testing::content_of(directory_ + "/base"), "half made");
}

TEST_F(BuildPlaceTest, WhatAKilledBuildHasLeftIsRemoved) {
  ASSERT_TRUE(fs::create_directories(directory_ + "/.build"));
  testing::make_file(directory_ + "/.build/console", "left");
  testing::make_file(directory_ + "/builder.pid", "1\n");
  EXPECT_TRUE(refusal().contains("none.tar")) << refusal();
  EXPECT_FALSE(fs::exists(directory_));
}

TEST_F(BuildPlaceTest, ADirectoryThatHasBecomeTheTemplateIsNotTakenAgain) {
  auto place = BuildPlace::take(output_);
  ASSERT_TRUE(place);
  ASSERT_TRUE(place->clear());
  ASSERT_TRUE(BuildPlace::hand_over(directory_));
  EXPECT_TRUE(fs::is_empty(directory_));
  fs::rename(directory_, output_);
  EXPECT_EQ(refusal(), "--output " + output_ + " is there already; remove it, or give another path");
  const auto next = BuildPlace::take(output_);
  EXPECT_TRUE(next) << "another directory, which nobody has locked";
}

TEST_F(BuildPlaceTest, TheLockGoesWithTheProcessThatIsKilled) {
  const std::string program = testing::make_file(scratch_.file("program"), "");
  const std::string image = scratch_.file("pipe");
  ASSERT_EQ(::mkfifo(image.c_str(), 0600), 0);
  ChildProcess first{{testing::build_file("mayfly-template"), "build", "--image", image, "--output", output_,
                      "--kernel", program, "--init", program, "--agent", program, "--monitor", program},
                     {}};
  const double deadline = testing::now_us() + 20e6;
  const std::string builder = directory_ + "/builder.pid";  // there is a moment in which it is empty
  while (!fs::exists(builder) || testing::content_of(builder).empty()) ASSERT_LT(testing::now_us(), deadline);
  EXPECT_TRUE(refusal().contains("process " + std::to_string(first.pid()) + " builds it")) << refusal();
  first.signal(SIGKILL);
  first.wait();
  EXPECT_TRUE(fs::exists(directory_));
  EXPECT_TRUE(refusal().contains("none.tar")) << refusal();
  EXPECT_FALSE(fs::exists(directory_));
}

TEST_F(BuildPlaceTest, WhatIsInTheWayIsNamed) {
  testing::make_file(directory_, "a file");
  EXPECT_EQ(refusal(), "--output " + output_ + ": " + directory_ +
                           " must be a directory, or not be there: Not a directory (ENOTDIR)");
}

}  // namespace
}  // namespace mayfly::image
