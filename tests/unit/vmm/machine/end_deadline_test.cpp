#include "vmm/machine/end_deadline.h"

#include "tests/support/no_more_threads.h"

#include <sys/eventfd.h>

#include <gtest/gtest.h>

namespace mayfly {
namespace {

TEST(EndWatch, WithoutThreadsItsErrorSaysSo) {
  Log log{"test"};
  const OwnedFd signals{::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)};
  auto deadline = EndDeadline::create(log, signals.get(), [](int) { FAIL(); });
  ASSERT_TRUE(deadline);
  const testing::NoMoreThreads none;
  const auto watch = EndWatch::start(**deadline, [] { FAIL(); });
  ASSERT_FALSE(watch);
  EXPECT_NE(watch.error().message.find("the host gives no more threads"), std::string::npos) << watch.error().message;
}

}  // namespace
}  // namespace mayfly
