#include "vmm/config/ipv4_address.h"

#include <gtest/gtest.h>

namespace mayfly {
namespace {

std::string refusal(std::string_view text) {
  const auto address = parse_mmds_address(text);
  EXPECT_FALSE(address) << text;
  return address ? "" : address.error().message;
}

TEST(MmdsAddress, IsTheOneThatGuestsTryFirst) {
  EXPECT_EQ(format_ipv4_address(MmdsConfig{}.ipv4_address), "169.254.169.254");
}

TEST(MmdsAddress, LinkLocalAddressesAreRead) {
  for (const std::string_view text : {"169.254.169.254", "169.254.1.0", "169.254.254.255", "169.254.170.2"}) {
    const auto address = parse_mmds_address(text);
    ASSERT_TRUE(address) << text;
    EXPECT_EQ(format_ipv4_address(*address), text);
  }
}

TEST(MmdsAddress, WhatIsNoAddressIsRefused) {
  for (const std::string_view text :
       {"", "169.254.169", "169.254.169.", "169.254.169.254.", "169.254.169.256", "169.254.169.0254", "169.254.01.1",
        " 169.254.1.1", "169.254.1.1 ", "169.254.-1.1", "169.254.+1.1", "169..1.1", "fe80::1", "169,254,1,1"}) {
    EXPECT_NE(refusal(text).find("is not an IPv4 address"), std::string::npos) << text;
  }
  EXPECT_LT(refusal(std::string(1000, '1')).size(), 120U);
}

TEST(MmdsAddress, AddressesThatAreNotLinkLocalOrReservedAreRefused) {
  for (const std::string_view text : {"169.254.0.1", "169.254.255.1", "169.253.1.1", "10.0.0.1", "127.0.0.1"})
    EXPECT_NE(refusal(text).find("169.254.1.0 to 169.254.254.255"), std::string::npos) << text;
}

}  // namespace
}  // namespace mayfly
