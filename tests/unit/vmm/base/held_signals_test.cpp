#include "vmm/base/held_signals.h"

#include <csignal>

#include <gtest/gtest.h>

namespace mayfly {
namespace {

TEST(HeldSignals, WaitAndAreDeliveredAtTheEnd) {
  static volatile std::sig_atomic_t delivered = 0;
  delivered = 0;
  struct sigaction counting{};
  counting.sa_handler = [](int) { delivered = delivered + 1; };
  struct sigaction before{};
  ASSERT_EQ(::sigaction(SIGHUP, &counting, &before), 0);
  {
    HeldSignals held{SIGHUP, SIGTERM};
    EXPECT_EQ(held.waiting(), 0);
    ::raise(SIGHUP);
    EXPECT_EQ(held.waiting(), SIGHUP);
    EXPECT_EQ(delivered, 0);
    held.let_through();
    EXPECT_EQ(delivered, 1);
    held.hold();
    ::raise(SIGHUP);
    EXPECT_EQ(delivered, 1);
  }
  EXPECT_EQ(delivered, 2);
  ::sigaction(SIGHUP, &before, nullptr);
}

TEST(HeldSignals, ThoseThatAreIgnoredStayIgnored) {
  const auto before = ::signal(SIGHUP, SIG_IGN);
  const HeldSignals held{SIGHUP};
  ::raise(SIGHUP);
  EXPECT_EQ(held.waiting(), 0);
  ::signal(SIGHUP, before);
}

}  // namespace
}  // namespace mayfly
