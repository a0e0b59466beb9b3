#include "virtio/net/net_header.h"

#include <cstring>
#include <random>
#include <string>

#include <gtest/gtest.h>

namespace mayfly {
namespace {

using net_abi::bit;

constexpr std::uint64_t kAll = bit(net_abi::kCsum) | bit(net_abi::kHostTso4) | bit(net_abi::kHostTso6) |
                               bit(net_abi::kHostEcn) | bit(net_abi::kHostUso) | bit(net_abi::kGuestCsum) |
                               bit(net_abi::kGuestTso4) | bit(net_abi::kGuestTso6) | bit(net_abi::kGuestEcn) |
                               bit(net_abi::kGuestUso4) | bit(net_abi::kGuestUso6);
constexpr std::uint64_t kFrame = 4000;

/// TCP over IPv4 in segments, as a driver fills it in.
NetHeader tcp4() {
  return {.flags = net_abi::kNeedsCsum,
          .gso_type = net_abi::kGsoTcp4,
          .hdr_len = 54,
          .gso_size = 1448,
          .csum_start = 34,
          .csum_offset = 16,
          .num_buffers = 0};
}
NetHeader udp_segments() {
  NetHeader header = tcp4();
  header.gso_type = net_abi::kGsoUdpSegments;
  header.csum_offset = 6;
  return header;
}
bool passes(const NetHeader& header, std::uint64_t length = kFrame, std::uint64_t features = kAll) {
  return check_net_header(header, length, features).has_value();
}
std::string fault(const NetHeader& header, std::uint64_t length = kFrame, std::uint64_t features = kAll) {
  const auto checked = check_net_header(header, length, features);
  return checked ? "none" : std::string{checked.error()};
}
bool same(const NetHeader& one, const NetHeader& other) { return std::memcmp(&one, &other, sizeof one) == 0; }

TEST(NetHeader, APlainFramePassesWithEveryDriver) {
  EXPECT_TRUE(passes({}, 60, 0));
  EXPECT_TRUE(passes({}, 60, kAll));
}

TEST(NetHeader, AFrameIsAsLongAsAnEthernetHeaderAndAtMostAsLongAsAPacket) {
  EXPECT_FALSE(passes({}, 0));
  EXPECT_FALSE(passes({}, 13));
  EXPECT_TRUE(passes({}, 14));
  EXPECT_TRUE(passes({}, 65'550));
  EXPECT_FALSE(passes({}, 65'551));
}

TEST(NetHeader, WhatMeansSomethingIsPassedOnAsItIs) {
  EXPECT_TRUE(same(check_net_header(tcp4(), kFrame, kAll).value(), tcp4()));
  EXPECT_TRUE(same(check_net_header(udp_segments(), kFrame, kAll).value(), udp_segments()));
}

TEST(NetHeader, WhatMeansNothingComesOutAsZero) {
  const NetHeader noise{.flags = 0x40,
                        .gso_type = net_abi::kGsoNone,
                        .hdr_len = 9999,
                        .gso_size = 77,
                        .csum_start = 60'000,
                        .csum_offset = 60'000,
                        .num_buffers = 12};
  EXPECT_TRUE(same(check_net_header(noise, 60, kAll).value(), NetHeader{}));
}

TEST(NetHeader, FlagsThatOnlyADeviceSetsAreRefused) {
  EXPECT_FALSE(passes({.flags = net_abi::kDataValid}));
  EXPECT_FALSE(passes({.flags = net_abi::kRscInfo}));
}

TEST(NetHeader, AChecksumLiesWithinTheFrame) {
  NetHeader header{.flags = net_abi::kNeedsCsum, .csum_start = 34, .csum_offset = 16};
  EXPECT_TRUE(passes(header, 52));
  EXPECT_FALSE(passes(header, 51));
  header.csum_start = 65'535;
  header.csum_offset = 65'535;
  EXPECT_NE(fault(header).find("beyond"), std::string::npos);
}

TEST(NetHeader, AChecksumDoesNotBeginInTheEthernetHeader) {
  EXPECT_FALSE(passes({.flags = net_abi::kNeedsCsum, .csum_start = 13, .csum_offset = 16}));
  EXPECT_FALSE(passes({.flags = net_abi::kNeedsCsum, .csum_start = 0, .csum_offset = 0}));
}

TEST(NetHeader, AChecksumNeedsItsFeature) {
  EXPECT_FALSE(passes({.flags = net_abi::kNeedsCsum, .csum_start = 34, .csum_offset = 16}, kFrame, 0));
}

TEST(NetHeader, EachTypeOfSegmentationNeedsItsFeature) {
  NetHeader tcp6 = tcp4();
  tcp6.gso_type = net_abi::kGsoTcp6;
  NetHeader ecn = tcp4();
  ecn.gso_type |= net_abi::kGsoEcn;
  EXPECT_FALSE(passes(tcp4(), kFrame, kAll & ~bit(net_abi::kHostTso4)));
  EXPECT_FALSE(passes(tcp6, kFrame, kAll & ~bit(net_abi::kHostTso6)));
  EXPECT_FALSE(passes(ecn, kFrame, kAll & ~bit(net_abi::kHostEcn)));
  EXPECT_FALSE(passes(udp_segments(), kFrame, kAll & ~bit(net_abi::kHostUso)));
  EXPECT_TRUE(passes(tcp6));
  EXPECT_TRUE(passes(ecn));
}

TEST(NetHeader, UnknownTypesOfSegmentationAreRefused) {
  for (unsigned type = 0; type <= 0xFF; ++type) {
    NetHeader header = tcp4();
    header.gso_type = static_cast<std::uint8_t>(type);
    const bool known = type == net_abi::kGsoNone || type == net_abi::kGsoTcp4 || type == net_abi::kGsoTcp6 ||
                       type == (net_abi::kGsoTcp4 | net_abi::kGsoEcn) || type == (net_abi::kGsoTcp6 | net_abi::kGsoEcn);
    EXPECT_EQ(passes(header), known) << type;
  }
}

TEST(NetHeader, SegmentsHaveASize) {
  NetHeader header = tcp4();
  header.gso_size = 0;
  EXPECT_FALSE(passes(header));
  header.gso_size = 0xFFFF;  // means something else to the kernel
  EXPECT_FALSE(passes(header));
  header.gso_size = 1;
  EXPECT_TRUE(passes(header));
}

TEST(NetHeader, SegmentsNeedAChecksumWhereTheirTransportHasIt) {
  NetHeader header = tcp4();
  header.flags = 0;
  EXPECT_FALSE(passes(header));
  header = tcp4();
  header.csum_offset = 6;
  EXPECT_FALSE(passes(header));
  header = udp_segments();
  header.csum_offset = 16;
  EXPECT_FALSE(passes(header));
}

TEST(NetHeader, HeadersLieWithinTheFrameOrAreNotCounted) {
  NetHeader header = tcp4();
  header.hdr_len = static_cast<std::uint16_t>(kFrame + 1);
  EXPECT_FALSE(passes(header));
  header.hdr_len = 13;
  EXPECT_FALSE(passes(header));
  header.hdr_len = 0;
  EXPECT_TRUE(passes(header));
}

TEST(NetHeader, NothingThatPassesCanPointOutsideItsFrame) {
  std::mt19937_64 random{20};
  unsigned passed = 0;
  for (int i = 0; i < 2'000'000; ++i) {
    const std::uint64_t bits[2] = {random(), random()};
    NetHeader raw{};
    std::memcpy(&raw, bits, sizeof raw);
    if ((bits[1] & 1ULL << 40) != 0) raw.flags &= net_abi::kNeedsCsum;
    if ((bits[1] & 1ULL << 41) != 0) raw.gso_type &= net_abi::kGsoEcn | 7;
    if ((bits[1] & 1ULL << 42) != 0) raw.csum_offset = (bits[1] & 1ULL << 43) != 0 ? 16 : 6;
    const std::uint64_t length = random() % 70'000;
    const auto checked = check_net_header(raw, length, random());
    if (!checked) continue;
    ++passed;
    ASSERT_EQ(checked->flags & ~net_abi::kNeedsCsum, 0);
    if (checked->flags != 0) {
      ASSERT_LE(checked->csum_start + checked->csum_offset + 2ULL, length);
    }
    if (checked->gso_type != 0) {
      ASSERT_TRUE(checked->gso_size != 0 && checked->flags != 0 && checked->hdr_len <= length);
    }
  }
  EXPECT_GT(passed, 1000u);
}

TEST(NetHeader, ADriverGetsOnlyFramesThatItUnderstands) {
  EXPECT_TRUE(driver_understands(0, net_abi::kGsoNone, 0));
  EXPECT_TRUE(driver_understands(net_abi::kDataValid, net_abi::kGsoNone, 0));
  EXPECT_FALSE(driver_understands(net_abi::kNeedsCsum, net_abi::kGsoNone, 0));
  EXPECT_TRUE(driver_understands(net_abi::kNeedsCsum, net_abi::kGsoNone, bit(net_abi::kGuestCsum)));
  for (const std::uint8_t type : {net_abi::kGsoTcp4, net_abi::kGsoTcp6, net_abi::kGsoUdpSegments}) {
    EXPECT_TRUE(driver_understands(net_abi::kNeedsCsum, type, kAll));
    EXPECT_FALSE(driver_understands(net_abi::kNeedsCsum, type, bit(net_abi::kGuestCsum)));
  }
  EXPECT_FALSE(
      driver_understands(net_abi::kNeedsCsum, net_abi::kGsoTcp4 | net_abi::kGsoEcn, kAll & ~bit(net_abi::kGuestEcn)));
  EXPECT_FALSE(driver_understands(0, 7, kAll));
}

}  // namespace
}  // namespace mayfly
