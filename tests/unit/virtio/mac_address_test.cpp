#include "virtio/mac_address.h"

#include <set>
#include <string>

#include <gtest/gtest.h>

namespace mayfly {
namespace {

TEST(MacAddress, SixHexadecimalBytesAreReadInEitherCase) {
  const MacAddress expected{0x06, 0x00, 0xC0, 0xA8, 0x00, 0x02};
  EXPECT_EQ(parse_mac_address("06:00:c0:a8:00:02").value(), expected);
  EXPECT_EQ(parse_mac_address("06:00:C0:A8:00:02").value(), expected);
}

TEST(MacAddress, WhatIsWrittenReadsTheSame) {
  const MacAddress address{0xFE, 0x0F, 0x10, 0x99, 0xAB, 0x00};
  EXPECT_EQ(format_mac_address(address), "fe:0f:10:99:ab:00");
  EXPECT_EQ(parse_mac_address(format_mac_address(address)).value(), address);
}

TEST(MacAddress, OtherFormsAreRefusedWithTheValueAndAnExample) {
  for (const std::string text :
       {"", "06:00:c0:a8:00", "06:00:c0:a8:00:02:", "06:00:c0:a8:00:02:04", "6:0:c0:a8:0:2", "06-00-c0-a8-00-02",
        "0600c0a80002", "06:00:c0:a8:00:0g", "06:00:c0:a8:00: 2", "06:00:c0:a8:00:-2", "06:00:c0:a8:00:+2",
        "0x:00:c0:a8:00:02", "06:00:c0:a8:0002:", "eth0"}) {
    const auto parsed = parse_mac_address(text);
    ASSERT_FALSE(parsed) << text;
    EXPECT_EQ(parsed.error().kind, ErrorKind::InvalidArgument);
    EXPECT_NE(parsed.error().message.find('"' + text + '"'), std::string::npos) << parsed.error().message;
    EXPECT_NE(parsed.error().message.find("06:00:c0:a8:00:02"), std::string::npos) << parsed.error().message;
  }
}

TEST(MacAddress, GroupsAndNobodyAreNoInterfacesAddresses) {
  EXPECT_NE(parse_mac_address("01:00:5e:00:00:01").error().message.find("multicast"), std::string::npos);
  EXPECT_NE(parse_mac_address("ff:ff:ff:ff:ff:ff").error().message.find("multicast"), std::string::npos);
  EXPECT_NE(parse_mac_address("00:00:00:00:00:00").error().message.find("no interface"), std::string::npos);
}

TEST(MacAddress, OneIsMadeFromAnIdAndStaysTheSame) {
  EXPECT_EQ(derive_mac_address("eth0"), derive_mac_address("eth0"));
  // Across versions, too: guests remember the addresses of their interfaces.
  EXPECT_EQ(format_mac_address(derive_mac_address("eth0")), "66:53:3e:be:60:f7");
}

TEST(MacAddress, MadeOnesAreLocalUnicastAndDiffer) {
  std::set<MacAddress> seen;
  for (int i = 0; i < 1000; ++i) {
    const MacAddress address = derive_mac_address("eth" + std::to_string(i));
    EXPECT_EQ(address[0] & 0x03, 0x02);
    EXPECT_TRUE(parse_mac_address(format_mac_address(address)));
    EXPECT_TRUE(seen.insert(address).second);
  }
}

}  // namespace
}  // namespace mayfly
