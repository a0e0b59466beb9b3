#include "vmm/io/event_loop.h"

#include "tests/support/run_until.h"
#include "vmm/base/clock.h"
#include "vmm/io/loop_timer.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/uio.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <cstdint>
#include <thread>
#include <utility>

#include <gtest/gtest.h>

namespace mayfly {
namespace {

struct Pipe {
  Pipe() {
    std::array<int, 2> ends{};
    if (::pipe2(ends.data(), O_CLOEXEC) != 0) std::abort();
    read = OwnedFd{ends[0]};
    write = OwnedFd{ends[1]};
  }
  OwnedFd read, write;
};

std::unique_ptr<EventLoop> make_loop() {
  auto loop = EventLoop::create();
  EXPECT_TRUE(loop) << loop.error().message;
  return std::move(*loop);
}

TEST(EventLoop, RunsTasksInTheOrderOfTheirPosting) {
  const auto loop = make_loop();
  std::vector<int> order;
  for (int i = 0; i < 5; ++i) loop->post([&order, i] { order.push_back(i); });
  loop->stop();
  ASSERT_TRUE(loop->run());
  EXPECT_EQ(order, (std::vector{0, 1, 2, 3, 4}));
}

TEST(EventLoop, RunsTasksOfOtherThreadsOnItsOwn) {
  const auto loop = make_loop();
  constexpr int kTasks = 2000;
  int count = 0;  // no lock: every task runs on this thread
  std::thread other{[&] {
    for (int i = 0; i < kTasks; ++i) loop->post([&count] { ++count; });
    loop->stop();
  }};
  ASSERT_TRUE(loop->run());
  other.join();
  EXPECT_EQ(count, kTasks);
}

// What a round within a round waits for may be in the outer one's batch.
TEST(EventLoopDeathTest, ARoundWithinATaskOrACompletionIsRefused) {
  ::testing::FLAGS_gtest_death_test_style = "threadsafe";
  EXPECT_DEATH(
      {
        const auto loop = make_loop();
        loop->post([&] { (void)loop->run_once(); });
        (void)loop->run();
      },
      "within another");
  EXPECT_DEATH(
      {
        const auto loop = make_loop();
        const OwnedFd event{::eventfd(1, EFD_CLOEXEC)};
        CallbackOperation operation{[&](int, bool) { (void)loop->run_once(); }};
        loop->poll_once(event.get(), POLLIN, operation);
        (void)loop->run();
      },
      "within another");
}

TEST(EventLoop, ReadsWhatIsWrittenToAPipe) {
  const auto loop = make_loop();
  Pipe pipe;
  std::array<std::byte, 8> buffer{};
  int got = 0;
  CallbackOperation done{[&](int result, bool) {
    got = result;
    loop->stop();
  }};
  loop->read(pipe.read.get(), buffer, EventLoop::kNoOffset, done);
  loop->post([&] { ASSERT_EQ(::write(pipe.write.get(), "abc", 3), 3); });
  ASSERT_TRUE(loop->run());
  EXPECT_EQ(got, 3);
  EXPECT_EQ(buffer[2], std::byte{'c'});
}

TEST(EventLoop, AMultishotPollCompletesForEachEventUntilCancelled) {
  const auto loop = make_loop();
  Pipe pipe;
  int events = 0;
  int last = 0;
  CallbackOperation ready{[&](int result, bool more) {
    if (result < 0) {
      last = result;
      loop->stop();
      return;
    }
    EXPECT_TRUE(more);
    ++events;
    std::array<char, 4> sink{};
    ASSERT_GT(::read(pipe.read.get(), sink.data(), sink.size()), 0);
    if (events < 3)
      ASSERT_EQ(::write(pipe.write.get(), "x", 1), 1);
    else
      loop->cancel(ready);
  }};
  loop->poll(pipe.read.get(), POLLIN, ready);
  loop->post([&] { ASSERT_EQ(::write(pipe.write.get(), "x", 1), 1); });
  ASSERT_TRUE(loop->run());
  EXPECT_EQ(events, 3);
  EXPECT_EQ(last, -ECANCELED);
}

TEST(EventLoop, TakesMoreRequestsThanItsQueueHasEntries) {
  const auto loop = make_loop();
  Pipe pipe;
  constexpr int kWrites = 1000;
  int completed = 0;
  const std::array byte = {std::byte{1}};
  CallbackOperation done{[&](int result, bool) {
    EXPECT_EQ(result, 1);
    if (++completed == kWrites) loop->stop();
  }};
  loop->post([&] {
    for (int i = 0; i < kWrites; ++i) loop->write(pipe.write.get(), byte, EventLoop::kNoOffset, done);
  });
  ASSERT_TRUE(loop->run());
}

TEST(EventLoop, ATaskPostedAfterCloseIsDestroyedUnrun) {
  const auto loop = make_loop();
  bool ran = false;
  auto alive = std::make_shared<int>(0);
  loop->post([&ran, alive] { ran = true; });
  loop->close();
  loop->post([&ran, alive] { ran = true; });
  EXPECT_EQ(alive.use_count(), 1);
  EXPECT_FALSE(ran);
}

TEST(EventLoop, CloseTakesBackWhatIsInFlightWithoutTellingAnybody) {
  const auto loop = make_loop();
  Pipe pipe;
  std::array<std::byte, 8> buffer{};
  CallbackOperation read{[](int, bool) { FAIL() << "told of a completion after close()"; }};
  CallbackOperation poll{[](int, bool) { FAIL() << "told of a completion after close()"; }};
  loop->read(pipe.read.get(), buffer, EventLoop::kNoOffset, read);
  loop->poll(pipe.read.get(), POLLIN, poll);
  loop->stop();
  ASSERT_TRUE(loop->run());
  loop->close();
  ASSERT_EQ(::write(pipe.write.get(), "abc", 3), 3);
  EXPECT_EQ(buffer[0], std::byte{0});
}

TEST(LoopTimer, FiresOnceAtItsDeadlineAndNotWhenCancelled) {
  const auto loop = make_loop();
  int fired = 0;
  auto never = LoopTimer::create(*loop, [&] { FAIL() << "a cancelled timer fired"; });
  ASSERT_TRUE(never);
  const std::uint64_t start = monotonic_ns();
  std::unique_ptr<LoopTimer> timer;
  auto made = LoopTimer::create(*loop, [&] {
    if (++fired < 3)
      timer->arm(monotonic_ns() + 1'000'000);
    else
      loop->stop();
  });
  ASSERT_TRUE(made);
  timer = std::move(*made);
  (*never)->listen();
  timer->listen();
  (*never)->arm(start + 500'000);
  (*never)->cancel();
  timer->arm(start + 1'000'000);
  ASSERT_TRUE(loop->run());
  EXPECT_EQ(fired, 3);
  EXPECT_GE(monotonic_ns() - start, 3'000'000U);
}

TEST(LoopTimer, ADeadlineInThePastFiresAtOnce) {
  const auto loop = make_loop();
  auto timer = LoopTimer::create(*loop, [&] { loop->stop(); });
  ASSERT_TRUE(timer);
  (*timer)->listen();
  (*timer)->arm(0);
  ASSERT_TRUE(loop->run());
}

}  // namespace
}  // namespace mayfly
