#include "rootfs-tools/init/orders.h"

#include "rootfs-tools/init/network.h"

#include <array>
#include <cstdint>

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

TEST(GuestInitCommandLine, NamesAnImageAndWhatItsGuestIs) {
  const Orders orders = parse_orders(
      "mayfly.image=/dev/vda mayfly.overlay=/dev/vdb mayfly.hostname=vm-1 mayfly.nameserver=192.0.2.1 mayfly.images=x");
  EXPECT_EQ(orders.image, "/dev/vda");
  EXPECT_EQ(orders.overlay, "/dev/vdb");
  EXPECT_EQ(orders.hostname, "vm-1");
  EXPECT_EQ(orders.nameserver, "192.0.2.1");
  EXPECT_EQ(parse_orders("mayfly.overlay=/dev/vdb").image, "");
}

TEST(GuestInitNetwork, HasAnAddressOfItsOwnThatIsNeverTheHosts) {
  using Address = std::array<std::uint8_t, 4>;
  EXPECT_EQ(link_local_address({6, 0, 0, 0, 1, 2}), (Address{169, 254, 2, 2}));
  for (int fifth = 0; fifth < 256; ++fifth)
    for (int sixth = 0; sixth < 256; ++sixth) {
      const Address address =
          link_local_address({0, 0, 0, 0, static_cast<std::uint8_t>(fifth), static_cast<std::uint8_t>(sixth)});
      ASSERT_NE(address, (Address{169, 254, 169, 254}));
      ASSERT_TRUE(address[2] >= 1 && address[2] <= 254) << "RFC 3927, 2.1";
    }
}

TEST(GuestInitCommandLine, WhatIsNoParameterIsPassedOver) {
  EXPECT_FALSE(parse_orders("\" =\"\"= \"mayfly.end").unknown_end.size());
  EXPECT_EQ(parse_orders("mayfly.runx=a mayfly.run").run, "");
}

}  // namespace
}  // namespace mayfly::guest_init
