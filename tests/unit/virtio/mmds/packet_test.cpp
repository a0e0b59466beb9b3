#include "virtio/mmds/packet.h"

#include "tests/unit/virtio/mmds/fake_guest.h"

#include <gtest/gtest.h>

namespace mayfly {
namespace {

using testing::arp_frame;
using testing::fix_checksums;
using testing::Frame;
using testing::frame_of;
using testing::GuestSegment;
using testing::kGuestIp;
using testing::kGuestMac;
using testing::kServiceIp;
using testing::set16;
using testing::tagged;

std::string text_of(std::span<const std::uint8_t> bytes) { return {bytes.begin(), bytes.end()}; }

bool reads(const GuestSegment& segment) {
  return read_tcp_segment(frame_of(segment), TcpChecksum::Complete).has_value();
}

TEST(Packet, ItsDestinationDecidesWhoseAFrameIs) {
  EXPECT_TRUE(frame_is_for(kServiceIp, frame_of({})));
  EXPECT_TRUE(frame_is_for(kServiceIp, frame_of({.protocol = 17})));
  EXPECT_TRUE(frame_is_for(kServiceIp, frame_of({.fragment = 0x2000})));
  EXPECT_FALSE(frame_is_for(kServiceIp, frame_of({.destination = {169, 254, 169, 253}})));
  EXPECT_FALSE(frame_is_for(kServiceIp, frame_of({.source = kServiceIp, .destination = kGuestIp})));
  EXPECT_TRUE(frame_is_for(kServiceIp, arp_frame()));
  EXPECT_TRUE(frame_is_for(kServiceIp, arp_frame(kServiceIp, 2)));
  EXPECT_FALSE(frame_is_for(kServiceIp, arp_frame({172, 16, 0, 1})));
  Frame other_arp = arp_frame();
  set16(other_arp, 16, 0x86DD);
  EXPECT_FALSE(frame_is_for(kServiceIp, other_arp));
}

TEST(Packet, WhatAHostMakesOneForTheServiceIsOne) {
  EXPECT_TRUE(frame_is_for(kServiceIp, tagged(frame_of({}), 0x8100)));
  EXPECT_TRUE(frame_is_for(kServiceIp, tagged(tagged(frame_of({}), 0x8100), 0x88A8)));
  EXPECT_TRUE(frame_is_for(kServiceIp, tagged(tagged(arp_frame(), 0x8100), 0x8100)));
  EXPECT_FALSE(frame_is_for(kServiceIp, tagged(frame_of({.destination = {169, 254, 169, 253}}), 0x8100)));
  EXPECT_FALSE(frame_is_for(kServiceIp, tagged(frame_of({}), 0x86DD)));
  Frame of_other_hardware = arp_frame();
  set16(of_other_hardware, 14, 6);
  EXPECT_TRUE(frame_is_for(kServiceIp, of_other_hardware));
  EXPECT_FALSE(read_arp_request(of_other_hardware));
  const Frame deepest = tagged(tagged(arp_frame(), 0x8100), 0x8100);
  EXPECT_EQ(deepest.size(), kFrameHeadLength);
  for (std::size_t length = 0; length < deepest.size(); ++length)
    EXPECT_FALSE(frame_is_for(kServiceIp, std::span{deepest}.first(length))) << length;
}

TEST(Packet, TheNetworkHeaderIsBehindTags) {
  EXPECT_EQ(network_header_at(frame_of({})), 14U);
  EXPECT_EQ(network_header_at(tagged(frame_of({}), 0x88A8)), 18U);
  EXPECT_EQ(network_header_at(tagged(tagged(tagged(frame_of({}), 0x8100), 0x8100), 0x8100)), 22U);
  EXPECT_EQ(network_header_at({}), 14U);
}

TEST(Packet, OfAnyNumberOfTagsTheThirdTells) {
  for (const unsigned outer : {0x8100U, 0x88A8U}) {
    for (const unsigned inner : {0x8100U, 0x88A8U}) {
      Frame frame = frame_of({});
      for (unsigned tags = 0; tags <= 5; ++tags, frame = tagged(frame, tags % 2 == 0 ? outer : inner)) {
        EXPECT_EQ(has_third_tag(frame), tags >= 3) << tags;
        EXPECT_EQ(has_third_tag(std::span{frame}.first(kFrameHeadLength)), tags >= 3) << tags;
        EXPECT_EQ(frame_is_for(kServiceIp, frame), tags <= 2) << tags;
        for (std::size_t length = 0; length < 22; ++length)
          EXPECT_FALSE(has_third_tag(std::span{frame}.first(length))) << tags << ", " << length;
      }
    }
  }
  EXPECT_FALSE(has_third_tag(tagged(tagged(tagged(frame_of({}), 0x9100), 0x8100), 0x8100)));  // Linux leaves that one
}

TEST(Packet, AHeadIsEnoughToTell) {
  EXPECT_TRUE(frame_is_for(kServiceIp, std::span<const std::uint8_t>{frame_of({})}.first(kFrameHeadLength)));
  EXPECT_TRUE(frame_is_for(kServiceIp, std::span<const std::uint8_t>{frame_of({})}.first(34)));
  for (std::size_t length = 0; length < 34; ++length)
    EXPECT_FALSE(frame_is_for(kServiceIp, std::span<const std::uint8_t>{frame_of({})}.first(length))) << length;
  for (std::size_t length = 0; length < kArpFrameLength; ++length)
    EXPECT_FALSE(frame_is_for(kServiceIp, std::span<const std::uint8_t>{arp_frame()}.first(length))) << length;
}

TEST(Packet, AnArpRequestIsReadAndAnswered) {
  const auto request = read_arp_request(arp_frame());
  ASSERT_TRUE(request);
  EXPECT_EQ(request->mac, kGuestMac);
  EXPECT_EQ(request->address, kGuestIp);
  Frame out(kArpFrameLength);
  const TcpEnd self{.mac = {6, 1, 2, 3, 4, 5}, .address = kServiceIp};
  EXPECT_EQ(write_arp_reply(out, self, *request), kArpFrameLength);
  EXPECT_EQ(out, (Frame{0x06, 0, 0xAC, 0x10, 0, 2, 6, 1,   2,   3,   4,   5,    8, 6,    0,    1, 8, 0,   6,  4, 0,
                        2,    6, 1,    2,    3, 4, 5, 169, 254, 169, 254, 0x06, 0, 0xAC, 0x10, 0, 2, 172, 16, 0, 2}));
  EXPECT_FALSE(read_arp_request(out));
  EXPECT_FALSE(read_arp_request(frame_of({})));
  for (std::size_t length = 0; length < kArpFrameLength; ++length)
    EXPECT_FALSE(read_arp_request(std::span<const std::uint8_t>{arp_frame()}.first(length))) << length;
}

TEST(Packet, ASegmentIsRead) {
  const Frame frame = frame_of({.source_port = 40001,
                                .sequence = 0x80000001,
                                .acknowledgment = 0xFFFFFFFF,
                                .flags = testing::kAck | testing::kPsh,
                                .window = 1234,
                                .payload = "hello"});
  const auto segment = read_tcp_segment(frame, TcpChecksum::Complete);
  ASSERT_TRUE(segment);
  EXPECT_EQ(segment->source.mac, kGuestMac);
  EXPECT_EQ(segment->source.address, kGuestIp);
  EXPECT_EQ(segment->source.port, 40001);
  EXPECT_EQ(segment->destination_port, 80);
  EXPECT_EQ(segment->header.sequence, 0x80000001U);
  EXPECT_EQ(segment->header.acknowledgment, 0xFFFFFFFFU);
  EXPECT_TRUE(segment->has(kTcpAck | kTcpPsh));
  EXPECT_FALSE(segment->has(kTcpAck | kTcpSyn));
  EXPECT_EQ(segment->header.window, 1234);
  EXPECT_EQ(segment->header.maximum_segment, 0);
  EXPECT_EQ(text_of(segment->payload), "hello");
}

TEST(Packet, PaddingBehindAPacketIsNotOfIt) {
  Frame frame = frame_of({.payload = "x"});
  frame.resize(60, 0xEE);
  const auto segment = read_tcp_segment(frame, TcpChecksum::Complete);
  ASSERT_TRUE(segment);
  EXPECT_EQ(text_of(segment->payload), "x");
}

TEST(Packet, OptionsAreSkippedAndTheSegmentSizeIsRead) {
  const Frame frame = frame_of({.payload = "data",
                                .tcp_options = {1, 8, 10, 1, 2, 3, 4, 5, 6, 7, 8, 2, 4, 0x05, 0xB4, 0},
                                .ip_options = {7, 7, 4, 1, 2, 3, 4, 0}});
  const auto read = read_tcp_segment(frame, TcpChecksum::Complete);
  ASSERT_TRUE(read);
  EXPECT_EQ(read->header.maximum_segment, 1460);
  EXPECT_EQ(text_of(read->payload), "data");
}

TEST(Packet, OptionsThatLieAreRefused) {
  EXPECT_TRUE(reads({.tcp_options = {0, 2, 0, 0}}));  // nothing counts behind the end
  EXPECT_TRUE(reads({.tcp_options = {254, 4, 0, 0}}));
  for (const Frame& options : {Frame{2, 0, 0, 0}, Frame{2, 1, 0, 0}, Frame{2, 5, 0, 0}, Frame{1, 1, 1, 2},
                               Frame{2, 3, 5, 1}, Frame{254, 255, 0, 0}, Frame{1, 2, 4, 5}})
    EXPECT_FALSE(reads({.tcp_options = options})) << int{options[0]} << ' ' << int{options[1]};
}

TEST(Packet, WhatNobodyCouldAnswerIsRefused) {
  EXPECT_FALSE(reads({.source = kServiceIp}));
  EXPECT_FALSE(reads({.source = {0, 0, 0, 0}}));
  EXPECT_FALSE(reads({.source = {224, 0, 0, 1}}));
  EXPECT_FALSE(reads({.source = {255, 255, 255, 255}}));
  EXPECT_FALSE(reads({.source_port = 0}));
  Frame group = frame_of({});
  group[6] |= 1;
  EXPECT_FALSE(read_tcp_segment(group, TcpChecksum::Complete));
}

TEST(Packet, FragmentsAndOtherProtocolsAreRefused) {
  for (const unsigned fragment : {0x2000U, 0x0001U, 0x1FFFU, 0x6000U}) EXPECT_FALSE(reads({.fragment = fragment}));
  EXPECT_TRUE(reads({.fragment = 0}));
  EXPECT_FALSE(reads({.protocol = 17}));
  EXPECT_FALSE(reads({.version = 6}));
}

TEST(Packet, EveryTruncationIsRefused) {
  const Frame frame = frame_of({.payload = "payload", .tcp_options = {2, 4, 5, 0xB4}, .ip_options = {1, 1, 1, 1}});
  ASSERT_TRUE(read_tcp_segment(frame, TcpChecksum::Complete));
  for (std::size_t length = 0; length < frame.size(); ++length) {
    const std::vector<std::uint8_t> exact(frame.begin(), frame.begin() + static_cast<std::ptrdiff_t>(length));
    EXPECT_FALSE(read_tcp_segment(exact, TcpChecksum::LeftToUs)) << length;
  }
}

TEST(Packet, LengthsThatLieAreRefused) {
  const Frame good = frame_of({.payload = "payload"});
  const std::size_t total = good.size() - 14;
  for (std::size_t lie = 0; lie < 0x10000; ++lie) {
    Frame frame = good;
    set16(frame, 16, static_cast<unsigned>(lie));
    set16(frame, 24, 0);
    set16(frame, 24, testing::internet_checksum(std::span{frame}.subspan(14, 20)));
    const bool possible = lie >= 40 && lie <= total;
    EXPECT_EQ(read_tcp_segment(frame, TcpChecksum::LeftToUs).has_value(), possible) << lie;
  }
  for (unsigned words = 0; words < 16; ++words) {
    Frame frame = good;
    frame[14] = static_cast<std::uint8_t>(0x40 + words);
    EXPECT_EQ(read_tcp_segment(frame, TcpChecksum::LeftToUs).has_value(), words == 5) << words;
    frame = good;
    frame[46] = static_cast<std::uint8_t>(words * 16);
    // Up to the payload's end a header may go, and this payload is no option: 'p' 'a'.
    EXPECT_EQ(read_tcp_segment(frame, TcpChecksum::LeftToUs).has_value(), words == 5) << words;
  }
}

TEST(Packet, ChecksumsAreVerifiedWhereTheyAreThere) {
  const Frame good = frame_of({.payload = "odd"});
  for (std::size_t i = 14; i < good.size(); ++i) {
    Frame frame = good;
    frame[i] ^= 0x10;
    EXPECT_FALSE(read_tcp_segment(frame, TcpChecksum::Complete)) << i;
  }
  Frame partial = good;
  set16(partial, 50, 0x1234);
  EXPECT_FALSE(read_tcp_segment(partial, TcpChecksum::Complete));
  EXPECT_TRUE(read_tcp_segment(partial, TcpChecksum::LeftToUs));
}

TEST(Packet, WhatIsWrittenIsWhatAGuestTakes) {
  const TcpEnd self{.mac = {6, 1, 0x23, 0x45, 0x67, 1}, .address = kServiceIp, .port = 80};
  const TcpEnd guest{.mac = kGuestMac, .address = kGuestIp, .port = 40000};
  for (const std::string& payload : {std::string{}, std::string{"a"}, std::string(1460, 'x'), std::string(1459, 'y')}) {
    Frame out(1514);
    const TcpHeader header{.sequence = 0xFFFFFFF0, .acknowledgment = 7, .flags = kTcpAck | kTcpPsh, .window = 4096};
    const std::span bytes{reinterpret_cast<const std::uint8_t*>(payload.data()), payload.size()};
    out.resize(write_tcp_segment(out, self, guest, header, bytes));
    const auto segment = testing::read_service_segment(out);
    ASSERT_TRUE(segment) << payload.size();
    EXPECT_EQ(segment->source_port, 80);
    EXPECT_EQ(segment->destination_port, 40000);
    EXPECT_EQ(segment->sequence, 0xFFFFFFF0);
    EXPECT_EQ(segment->acknowledgment, 7U);
    EXPECT_EQ(segment->flags, kTcpAck | kTcpPsh);
    EXPECT_EQ(segment->window, 4096);
    EXPECT_EQ(segment->payload, payload);
  }
  Frame syn(kWrittenSynHeaders);
  EXPECT_EQ(write_tcp_segment(syn, self, guest, {.flags = kTcpSyn | kTcpAck, .maximum_segment = 1460}, {}), syn.size());
  const auto segment = testing::read_service_segment(syn);
  ASSERT_TRUE(segment);
  EXPECT_EQ(segment->maximum_segment, 1460U);
}

}  // namespace
}  // namespace mayfly
