#include "api/client/deadline.h"

#include "tests/support/child_process.h"

#include <poll.h>
#include <unistd.h>

#include <gtest/gtest.h>

namespace mayfly {
namespace {

Deadline in(std::chrono::milliseconds time) { return Deadline::clock::now() + time; }

TEST(DeadlineTest, LeavesNoTimeOnceItIsOver) {
  EXPECT_EQ(time_left(in(std::chrono::seconds{-1})).count(), 0);
  EXPECT_GT(time_left(in(std::chrono::hours{1})), std::chrono::minutes{59});
}

TEST(DeadlineTest, AWaitEndsAtItOrBefore) {
  const testing::Pipe pipe;
  EXPECT_TRUE(is_ready_by(in(std::chrono::hours{1}), pipe.write.get(), POLLOUT));
  EXPECT_FALSE(is_ready_by(in(std::chrono::milliseconds{5}), pipe.read.get(), POLLIN));
  EXPECT_FALSE(is_ready_by(in(std::chrono::seconds{-1}), pipe.write.get(), POLLOUT)) << "who is always ready";
}

TEST(DeadlineTest, AWaitCanBeCancelled) {
  const testing::Pipe pipe;
  const testing::Pipe cancel;
  EXPECT_TRUE(is_ready_by(in(std::chrono::hours{1}), pipe.write.get(), POLLOUT, cancel.read.get()));
  ASSERT_EQ(::write(cancel.write.get(), "x", 1), 1);
  EXPECT_FALSE(is_ready_by(in(std::chrono::hours{1}), pipe.read.get(), POLLIN, cancel.read.get()));
}

}  // namespace
}  // namespace mayfly
