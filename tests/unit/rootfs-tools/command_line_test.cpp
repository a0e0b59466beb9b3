#include "rootfs-tools/command_line.h"

#include <gtest/gtest.h>

namespace mayfly::guest_init {
namespace {

TEST(GuestInitCommandLine, WithoutOrdersItIsAShellAndThenPowerOff) {
  const Orders orders = parse_orders("console=ttyS0 quiet\n");
  EXPECT_EQ(orders.run, "");
  EXPECT_EQ(orders.end, End::power_off);
  EXPECT_EQ(orders.unknown_end, "");
}

TEST(GuestInitCommandLine, QuotesStandAroundAValueOrAWholeWord) {
  EXPECT_EQ(parse_orders(R"(quiet mayfly.run="echo a  b" x)").run, "echo a  b");
  EXPECT_EQ(parse_orders(R"("mayfly.run=echo a  b" x)").run, "echo a  b");
  EXPECT_EQ(parse_orders(R"(mayfly.run="echo a)").run, "echo a");
}

TEST(GuestInitCommandLine, TheLastOrderCountsAndAnUnknownEndChangesNothing) {
  const Orders orders = parse_orders("mayfly.run=a mayfly.end=reboot mayfly.end=never mayfly.run=b");
  EXPECT_EQ(orders.run, "b");
  EXPECT_EQ(orders.end, End::reboot);
  EXPECT_EQ(orders.unknown_end, "never");
}

TEST(GuestInitCommandLine, WhatIsNoParameterIsPassedOver) {
  EXPECT_FALSE(parse_orders("\" =\"\"= \"mayfly.end").unknown_end.size());
  EXPECT_EQ(parse_orders("mayfly.runx=a mayfly.run").run, "");
}

}  // namespace
}  // namespace mayfly::guest_init
