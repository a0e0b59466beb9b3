#include "virtio/net/net_transmitter.h"

#include "tests/support/files.h"
#include "tests/unit/virtio/net/fake_network.h"
#include "vmm/base/clock.h"

#include <algorithm>
#include <random>

#include <gtest/gtest.h>

namespace mayfly::testing {
namespace {

constexpr std::size_t kSentSizes[] = {14, 15, 60, 1513, 1514, 1515, 4096, 9014, 32'768, 65'535, 65'549, 65'550};

TEST(NetTransmitter, FramesOfEverySizeArriveWholeHoweverTheyAreCut) {
  FakeNetwork net;
  net.start();
  for (const std::size_t size : kSentSizes) {
    for (const std::size_t piece : {std::size_t{1} << 20, std::size_t{4096}, std::size_t{12}, std::size_t{5}}) {
      const Packet packet{{}, make_frame(size)};
      if ((size + sizeof(NetHeader)) / piece >= 250) continue;  // more buffers than a chain has
      net.transmit(packet, piece);
      EXPECT_EQ(net.from_guest(), packet) << size << " in pieces of " << piece;
      net.wait_transmitted(1);
    }
  }
  EXPECT_EQ(net.metrics.tx_fails.value() + net.metrics.tx_malformed_frames.value(), 0u);
}

TEST(NetTransmitter, AHeaderThatPassesArrivesWithItsFrame) {
  FakeNetwork net;
  net.start();
  const Packet packet{{.flags = net_abi::kNeedsCsum,
                       .gso_type = net_abi::kGsoTcp4,
                       .hdr_len = 54,
                       .gso_size = 1448,
                       .csum_start = 34,
                       .csum_offset = 16},
                      make_frame(40'000)};
  net.transmit(packet);
  EXPECT_EQ(net.from_guest(), packet);
}

TEST(NetTransmitter, FramesThatTheHostMustNotSeeAreDroppedAndCountedAndTheRestGoesOn) {
  FakeNetwork net;
  net.start();
  const Bytes frame = make_frame(100);
  const Packet wrong[] = {
      {{.flags = net_abi::kDataValid}, frame},
      {{.flags = net_abi::kNeedsCsum, .csum_start = 99, .csum_offset = 16}, frame},
      {{.gso_type = net_abi::kGsoTcp4, .gso_size = 0}, frame},
      {{.flags = net_abi::kNeedsCsum, .gso_type = 7, .gso_size = 9, .csum_start = 34, .csum_offset = 16}, frame},
      {{.gso_type = net_abi::kGsoEcn}, frame},
      {{}, make_frame(13)},
      {{}, {}},
      {{}, make_frame(65'551)},
  };
  for (const Packet& packet : wrong) net.offer_transmit(FakeNetwork::bytes_of(packet));
  net.offer_transmit(Bytes(11));  // less than a header
  net.transmit({{}, frame});
  EXPECT_EQ(net.from_guest(), (Packet{{}, frame}));
  net.wait_transmitted(std::size(wrong) + 2);
  EXPECT_EQ(net.metrics.tx_malformed_frames.value(), std::size(wrong) + 1);
  EXPECT_EQ(net.metrics.tx_packets_count.value(), 1u);
  EXPECT_TRUE(net.host->faults.empty());
}

TEST(NetTransmitter, BuffersToWriteAreNoFrame) {
  FakeNetwork net;
  net.start();
  net.transmit_queue->offer({{net.ram.room(2000), 2000, true}});
  net.transmit_queue->offer({{net.ram.room(100), 100, false}, {net.ram.room(2000), 2000, true}});
  net.host->kick(kNetTransmitQueue);
  net.wait_transmitted(2);
  EXPECT_EQ(net.metrics.tx_malformed_frames.value(), 2u);
}

TEST(NetTransmitter, EmptyBuffersWithinAChainAreNothing) {
  FakeNetwork net;
  net.start();
  const Packet packet{{}, make_frame(60)};
  const GuestAddress at = net.ram.put(FakeNetwork::bytes_of(packet));
  net.transmit_queue->offer({{at, 0, false}, {at, 12, false}, {at, 0, false}, {{at.value + 12}, 60, false}});
  net.host->kick(kNetTransmitQueue);
  EXPECT_EQ(net.from_guest(), packet);
}

TEST(NetTransmitter, AnAddressOutsideMemoryStopsTheDeviceUntilItsReset) {
  FakeNetwork net;
  net.start();
  net.transmit_queue->offer({{{net.ram.end() - 10}, 100, false}});
  net.host->kick(kNetTransmitQueue);
  ASSERT_EQ(net.host->faults.size(), 1u);
  net.transmit({{}, make_frame(60)});
  net.host->reset();
  EXPECT_FALSE(net.try_from_guest());
  net.start();
  net.transmit({{}, make_frame(60)});
  EXPECT_EQ(net.from_guest().frame, make_frame(60));
}

TEST(NetTransmitter, AFullQueueIsSentInItsOrder) {
  FakeNetwork net;
  net.start();
  for (unsigned round = 0; round < 4; ++round) {
    for (unsigned i = 0; i < NetDevice::kQueueSize; ++i)
      net.offer_transmit(FakeNetwork::bytes_of({{}, make_frame(60, i)}));
    net.host->kick(kNetTransmitQueue);
    for (unsigned i = 0; i < NetDevice::kQueueSize; ++i) EXPECT_EQ(net.from_guest().frame, make_frame(60, i));
    net.wait_transmitted(NetDevice::kQueueSize);
  }
}

TEST(NetTransmitter, AQueueFullOfRubbishDoesNotStopWhatFollows) {
  FakeNetwork net;
  net.start();
  for (unsigned i = 0; i < NetDevice::kQueueSize; ++i) net.offer_transmit(Bytes(5));
  net.host->kick(kNetTransmitQueue);
  net.wait_transmitted(NetDevice::kQueueSize);
  // The device must have asked for this kick.
  EXPECT_EQ(net.transmit_queue->available_event(), net.transmit_queue->available_index());
  net.transmit({{}, make_frame(60)});
  EXPECT_EQ(net.from_guest().frame, make_frame(60));
}

void hold_frames(bool nowait) {
  FakeNetwork net{{.nowait = nowait}};
  net.start();
  constexpr unsigned kFrames = 100;
  for (unsigned i = 0; i < kFrames; ++i) net.offer_transmit(FakeNetwork::bytes_of({{}, make_frame(60'000, i)}));
  net.host->kick(kNetTransmitQueue);
  // The other direction goes on.
  net.post(50, 1536);
  net.to_guest({{}, make_frame(200)});
  EXPECT_EQ(net.receive_one().frame, make_frame(200));
  std::vector<Bytes> sent, arrived;
  for (unsigned i = 0; i < kFrames; ++i) {
    sent.push_back(make_frame(60'000, i));
    arrived.push_back(net.from_guest().frame);
  }
  net.wait_transmitted(kFrames);
  std::ranges::sort(sent);
  std::ranges::sort(arrived);
  EXPECT_EQ(sent, arrived);
  EXPECT_EQ(net.metrics.tx_fails.value(), 0u);
}

TEST(NetTransmitter, AHostThatTakesNothingHoldsFramesAndNothingElse) { hold_frames(true); }
TEST(NetTransmitter, SoItDoesOnAnOlderKernelThatCannotWaitInTheRing) { hold_frames(false); }

void reset_with_frames_waiting(bool nowait) {
  FakeNetwork net{{.nowait = nowait}};
  net.start();
  for (unsigned i = 0; i < 100; ++i) net.offer_transmit(FakeNetwork::bytes_of({{}, make_frame(60'000, i)}));
  net.host->kick(kNetTransmitQueue);
  net.host->reset();
  while (net.try_from_guest()) continue;
  net.start();
  net.transmit({{}, make_frame(60)});
  EXPECT_EQ(net.from_guest().frame, make_frame(60));
}

TEST(NetTransmitter, FramesThatWaitForRoomDoNotHoldUpAReset) {
  reset_with_frames_waiting(true);
  reset_with_frames_waiting(false);
}

void pause_with_frames_waiting(bool nowait) {
  const std::string log = make_file(::testing::TempDir() + "pause.log", "");
  FakeNetwork net{{.nowait = nowait}};
  ASSERT_TRUE(net.log.configure({.log_path = log, .level = LogLevel::Warning}));
  net.start();
  for (unsigned i = 0; i < 100; ++i) net.offer_transmit(FakeNetwork::bytes_of({{}, make_frame(60'000, i)}));
  net.host->kick(kNetTransmitQueue);
  net.host->drain();
  EXPECT_LT(net.metrics.tx_packets_count.value(), net.take_transmitted());
  EXPECT_EQ(net.metrics.tx_fails.value(), 0u);
  EXPECT_EQ(content_of(log), "");
}

TEST(NetTransmitter, WhatAPauseTakesBackNobodyRefused) {
  pause_with_frames_waiting(true);
  pause_with_frames_waiting(false);
}

TEST(NetTransmitter, AFrameFromAnothersAddressIsDroppedWhereThatIsAskedFor) {
  const MacAddress mac{0x06, 0, 0, 0, 0, 1};
  FakeNetwork net{{.config = {.iface_id = "eth0", .guest_mac = mac, .check_source_mac = true}}};
  net.start();
  Bytes own = make_frame(500);
  for (std::size_t i = 0; i < mac.size(); ++i) own[6 + i] = std::byte{mac[i]};
  Bytes spoofed = own;
  spoofed[11] ^= std::byte{1};
  for (const std::size_t piece : {std::size_t{1} << 20, std::size_t{7}, std::size_t{12}, std::size_t{26}}) {
    net.transmit({{}, spoofed}, piece);
    net.transmit({{}, own}, piece);
    EXPECT_EQ(net.from_guest(), (Packet{{}, own}));
    net.wait_transmitted(2);
  }
  const Bytes shortest{own.begin(), own.begin() + 14};
  net.transmit({{}, shortest});
  EXPECT_EQ(net.from_guest().frame, shortest);
  EXPECT_EQ(net.metrics.tx_spoofed_mac_count.value(), 4u);
  EXPECT_FALSE(net.try_from_guest());
}

TEST(NetTransmitter, AnyAddressMaySendWhereNobodyAsks) {
  FakeNetwork net;
  net.start();
  net.transmit({{}, make_frame(60)});
  EXPECT_EQ(net.from_guest().frame, make_frame(60));
  EXPECT_EQ(net.metrics.tx_spoofed_mac_count.value(), 0u);
}

TEST(NetTransmitter, FramesBeyondTheLimitWaitForTheirTime) {
  constexpr std::uint64_t kRefillMs = 100;
  FakeNetwork net{{.config = {.iface_id = "eth0",
                              .tx_rate_limiter = RateLimiterConfig{
                                  .ops = TokenBucketConfig{.size = 10, .refill_time_ms = kRefillMs}}}}};
  net.start();
  const std::uint64_t begin = monotonic_ns();
  for (unsigned i = 0; i < 20; ++i) net.offer_transmit(FakeNetwork::bytes_of({{}, make_frame(60, i)}));
  net.host->kick(kNetTransmitQueue);
  EXPECT_EQ(net.transmit_queue->used_index(), 0u);
  net.host->kick(kNetTransmitQueue);  // changes nothing
  for (unsigned i = 0; i < 20; ++i) EXPECT_EQ(net.from_guest().frame, make_frame(60, i));
  EXPECT_GE(monotonic_ns() - begin, kRefillMs * 1'000'000);
  EXPECT_GE(net.metrics.tx_rate_limiter_throttled.value(), 1u);
}

TEST(NetTransmitter, TheLimitOfBytesCountsFramesWithoutHeaders) {
  FakeNetwork net{{.config = {.iface_id = "eth0",
                              .tx_rate_limiter = RateLimiterConfig{
                                  .bandwidth = TokenBucketConfig{.size = 6000, .refill_time_ms = 3'600'000}}}}};
  net.start();
  for (unsigned i = 0; i < 7; ++i) net.offer_transmit(FakeNetwork::bytes_of({{}, make_frame(1000, i)}));
  net.host->kick(kNetTransmitQueue);
  net.wait_transmitted(6);
  EXPECT_EQ(net.metrics.tx_packets_count.value(), 6u);
  EXPECT_EQ(net.metrics.tx_rate_limiter_throttled.value(), 1u);
  // A patch takes the limit away, and what waits goes.
  net.device->update_rate_limiters(
      {.iface_id = "eth0", .tx_rate_limiter = RateLimiterConfig{.bandwidth = TokenBucketConfig{}}});
  net.wait_transmitted(1);
}

TEST(NetTransmitter, AWireThatIsGoneLosesFramesAndNothingElse) {
  FakeNetwork net;
  net.start();
  net.wire.reset();
  for (unsigned i = 0; i < 100; ++i) net.offer_transmit(FakeNetwork::bytes_of({{}, make_frame(60, i)}));
  net.host->kick(kNetTransmitQueue);
  net.wait_transmitted(100);
  EXPECT_EQ(net.metrics.tx_fails.value(), 100u);
  EXPECT_TRUE(net.host->faults.empty());
}

}  // namespace
}  // namespace mayfly::testing
