#include "vmm/config/mac_address.h"

#include <set>

#include <gtest/gtest.h>

namespace mayfly {
namespace {

std::string mac_refusal(std::string_view text) {
  const auto address = parse_mac_address(text);
  EXPECT_FALSE(address) << text;
  return address ? "" : address.error().message;
}

TEST(MacAddress, IsReadInAnyCaseAndWrittenInLower) {
  const auto address = parse_mac_address("06:00:Ac:10:00:fF");
  ASSERT_TRUE(address) << address.error().message;
  EXPECT_EQ(*address, (MacAddress{0x06, 0x00, 0xAC, 0x10, 0x00, 0xFF}));
  EXPECT_EQ(format_mac_address(*address), "06:00:ac:10:00:ff");
}

TEST(MacAddress, WhatIsNoneIsRefused) {
  EXPECT_EQ(mac_refusal("06:00:ac:10:00"),
            R"("06:00:ac:10:00" is not a MAC address; one looks like aa:bb:cc:dd:ee:ff)");
  for (const std::string_view text :
       {"", ":", "06:00:ac:10:00:0", "06:00:ac:10:00:022", "06-00-ac-10-00-02", "06:00:ac:10:00:0g", "0600ac100002",
        "06:00:ac:10:00:+2", "06:00:ac:10:00:-2", "06:00:ac:10:00: 2", "0x:00:ac:10:00:02", "06:00:ac:10:0002:"}) {
    EXPECT_NE(mac_refusal(text).find("is not a MAC address"), std::string::npos) << text;
  }
  EXPECT_LT(mac_refusal(std::string(1000, 'a')).size(), 150U);
}

TEST(MacAddress, MulticastAndZeroHaveTheirOwnSentences) {
  EXPECT_EQ(mac_refusal("01:00:5e:00:00:01"),
            "the MAC address 01:00:5e:00:00:01 is a multicast one, which no interface can have: its first byte must be "
            "even");
  EXPECT_NE(mac_refusal("ff:ff:ff:ff:ff:ff").find("multicast"), std::string::npos);
  EXPECT_EQ(mac_refusal("00:00:00:00:00:00"),
            "the MAC address 00:00:00:00:00:00 is all zero, which no interface can have");
  EXPECT_TRUE(parse_mac_address("00:00:00:00:00:01"));
}

TEST(MacAddress, ADerivedOneIsStableLocalUnicastAndOfItsInterface) {
  EXPECT_EQ(format_mac_address(derive_mac_address("eth0")), "7e:e7:88:28:43:3a");
  std::set<MacAddress> seen;
  for (int i = 0; i < 1000; ++i) {
    const MacAddress address = derive_mac_address("eth" + std::to_string(i));
    EXPECT_EQ(address[0] & 0b11, 0b10) << i;
    EXPECT_TRUE(seen.insert(address).second) << i;
    EXPECT_EQ(parse_mac_address(format_mac_address(address)).value_or(MacAddress{}), address);
  }
  EXPECT_EQ(derive_mac_address("")[0] & 0b11, 0b10);
}

}  // namespace
}  // namespace mayfly
