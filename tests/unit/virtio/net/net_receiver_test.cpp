#include "virtio/net/net_receiver.h"

#include "tests/support/repeats.h"
#include "tests/unit/virtio/net/fake_network.h"
#include "vmm/base/clock.h"

#include <deque>
#include <random>

#include <gtest/gtest.h>

namespace mayfly::testing {
namespace {

using net_abi::bit;

constexpr std::size_t kSizes[] = {14, 15, 60, 1513, 1514, 1515, 4096, 9014, 32'768, 65'535, 65'549, 65'550};
constexpr std::uint64_t kAllButMergeable = ~bit(net_abi::kMergeable);

TEST(NetReceiver, FramesOfEverySizeArriveInAsManyBuffersAsTheyNeed) {
  for (const std::uint32_t size : {1536U, 4096U, 500U, 70'000U}) {
    FakeNetwork net;
    net.start();
    net.post(size < 1000 ? 256 : 100, size);
    for (const std::size_t length : kSizes) {
      net.to_guest({{.num_buffers = 9}, make_frame(length)});
      const Packet packet = net.receive_one();
      EXPECT_EQ(packet.frame, make_frame(length)) << length << " in buffers of " << size;
      EXPECT_EQ(packet.header.num_buffers, (length + sizeof(NetHeader) + size - 1) / size);
    }
    EXPECT_EQ(net.metrics.rx_packets_count.value(), std::size(kSizes));
    EXPECT_EQ(net.metrics.rx_fails.value(), 0u);
  }
}

TEST(NetReceiver, ABufferInPiecesIsOneBuffer) {
  FakeNetwork net;
  net.start();
  net.post(40, 5, 6);  // 30 bytes, and the header over three pieces
  net.to_guest({{}, make_frame(100)});
  const Packet packet = net.receive_one();
  EXPECT_EQ(packet.frame, make_frame(100));
  EXPECT_EQ(packet.header.num_buffers, 4u);
}

TEST(NetReceiver, WithoutMergingEachFrameFillsOneBuffer) {
  FakeNetwork net{{.features = kAllButMergeable}};
  net.start();
  net.post(8, 65'562);
  for (const std::size_t length : kSizes) {
    net.to_guest({{.num_buffers = 9}, make_frame(length)});
    const Packet packet = net.receive_one();
    EXPECT_EQ(packet.frame, make_frame(length));
    EXPECT_EQ(packet.header.num_buffers, 1u);  // 5.1.6.4.1
  }
}

TEST(NetReceiver, AFrameThatFitsExactlyArrivesAndOneByteMoreIsDropped) {
  FakeNetwork net{{.features = kAllButMergeable}};
  net.start();
  net.post(2, 1526);  // 5.1.6.3.1: the least
  net.to_guest({{}, make_frame(1515, 1)});
  net.to_guest({{}, make_frame(1514, 2)});
  net.to_guest({{}, make_frame(9000, 3)});
  net.to_guest({{}, make_frame(60, 4)});
  const auto packets = net.receive(2);
  EXPECT_EQ(packets[0].frame, make_frame(1514, 2));
  EXPECT_EQ(packets[1].frame, make_frame(60, 4));
  EXPECT_EQ(net.metrics.rx_fails.value(), 2u);
}

TEST(NetReceiver, WithoutBuffersFramesStayWithTheHostUntilThereAreSome) {
  FakeNetwork net;
  net.start();
  net.host->kick(kNetReceiveQueue);
  EXPECT_GE(net.metrics.rx_no_buffer_count.value(), 1u);
  for (unsigned i = 0; i < 20; ++i) net.to_guest({{}, make_frame(100, i)});
  for (unsigned i = 0; i < 20; ++i) {
    net.post(1, 1536);
    EXPECT_EQ(net.receive_one(false).frame, make_frame(100, i));
  }
}

TEST(NetReceiver, TheDeviceAsksForAKickWhereItHasNoBuffers) {
  FakeNetwork net;
  net.start();
  net.post(1, 1536);
  net.to_guest({{}, make_frame(100)});
  (void)net.receive_one(false);
  EXPECT_EQ(net.receive_queue->available_event(), net.receive_queue->available_index());
}

TEST(NetReceiver, WhileItHasBuffersTheDeviceAsksForNoKick) {
  FakeNetwork net;
  net.start();
  net.post(4, 1536);
  const std::uint16_t asked = net.receive_queue->available_event();
  for (unsigned i = 0; i < 50; ++i) {
    net.to_guest({{}, make_frame(100, i)});
    EXPECT_EQ(net.receive_one().frame, make_frame(100, i));
  }
  EXPECT_EQ(net.receive_queue->available_event(), asked);
}

TEST(NetReceiver, BuffersThatComeLaterMakeRoomForALongFrame) {
  FakeNetwork net;
  net.start();
  net.post(2, 1536);
  net.transmit({{}, make_frame(60)});
  (void)net.from_guest();  // the read waits now, with little room
  net.post(60, 1536);
  net.transmit({{}, make_frame(60)});
  (void)net.from_guest();
  net.to_guest({{}, make_frame(65'550)});
  EXPECT_EQ(net.receive_one().frame, make_frame(65'550));
  EXPECT_EQ(net.metrics.rx_fails.value(), 0u);
}

TEST(NetReceiver, AFrameWaitsForTheBuffersThatItNeedsAndThoseBehindItToo) {
  FakeNetwork net;
  net.start();
  net.post(2, 1536);
  for (unsigned i = 0; i < 3; ++i) net.to_guest({{}, make_frame(20'000 + i, i)});
  net.serve_until([&] { return net.metrics.rx_no_buffer_count.value() >= 1; });
  EXPECT_EQ(net.receive_queue->used_index(), 0u);
  EXPECT_EQ(net.receive_queue->available_event(), net.receive_queue->available_index());
  net.post(40, 1536);
  for (unsigned i = 0; i < 3; ++i) {
    const auto packets = net.receive_at_least_one();
    ASSERT_EQ(packets.size(), 1u);
    EXPECT_EQ(packets[0].frame, make_frame(20'000 + i, i));
  }
  EXPECT_EQ(net.metrics.rx_fails.value(), 0u);
}

TEST(NetReceiver, AFrameThatADriverNeverHasRoomForIsDroppedAndTheNextArrives) {
  FakeNetwork net;
  net.start();
  net.post(2, 1536);
  net.to_guest({{}, make_frame(20'000)});
  net.to_guest({{}, make_frame(100)});
  EXPECT_EQ(net.receive_one().frame, make_frame(100));
  EXPECT_EQ(net.metrics.rx_fails.value(), 1u);
}

/// An interface with a frame that waits for buffers.
struct ParkedFrame {
  ParkedFrame() {
    net.start();
    net.post(2, 1536);
    net.to_guest({{}, make_frame(9000)});
    net.serve_until([this] { return net.metrics.rx_no_buffer_count.value() >= 1; });
  }
  static constexpr std::uint64_t kLongerThanItWaits = 150'000'000;
  FakeNetwork net;
};

TEST(NetReceiver, WhileTheMachineIsPausedAFrameWaitsForBuffers) {
  ParkedFrame parked;
  FakeNetwork& net = parked.net;
  net.device->freeze();
  net.let_pass(ParkedFrame::kLongerThanItWaits);
  net.device->thaw();
  net.post(6, 1536);
  EXPECT_EQ(net.receive_one().frame, make_frame(9000));
  EXPECT_EQ(net.metrics.rx_fails.value(), 0u);
}

TEST(NetReceiver, AfterAPauseAFrameWaitsNoLongerThanBefore) {
  ParkedFrame parked;
  FakeNetwork& net = parked.net;
  net.device->freeze();
  net.let_pass(ParkedFrame::kLongerThanItWaits);
  net.to_guest({{}, make_frame(100)});
  net.device->thaw();
  EXPECT_EQ(net.receive_one().frame, make_frame(100));
  EXPECT_EQ(net.metrics.rx_fails.value(), 1u);
}

TEST(NetReceiver, WhileTheDeviceStandsAFrameWaitsForBuffersAndThenNoLongerThanBefore) {
  for (const bool offers : {true, false}) {
    ParkedFrame parked;
    FakeNetwork& net = parked.net;
    net.host->drain();
    net.let_pass(ParkedFrame::kLongerThanItWaits);
    net.host->undrain();
    net.host->kick(kNetReceiveQueue);
    EXPECT_EQ(net.metrics.rx_fails.value(), 0u);
    if (offers) {
      net.post(6, 1536);
      EXPECT_EQ(net.receive_one().frame, make_frame(9000));
    } else {
      net.to_guest({{}, make_frame(100)});
      EXPECT_EQ(net.receive_one().frame, make_frame(100));
      EXPECT_EQ(net.metrics.rx_fails.value(), 1u);
    }
  }
}

TEST(NetReceiver, AResetForgetsAFrameThatWaits) {
  FakeNetwork net;
  net.start();
  net.post(2, 1536);
  net.to_guest({{}, make_frame(20'000)});
  net.serve_until([&] { return net.metrics.rx_no_buffer_count.value() >= 1; });
  net.host->reset();
  net.start();
  net.post(60, 1536);
  net.to_guest({{}, make_frame(100)});
  EXPECT_EQ(net.receive_one().frame, make_frame(100));
}

TEST(NetReceiver, ABurstArrivesInItsOrder) {
  for (const unsigned kind : {0U, 1U, 2U, 3U}) {
    FakeNetwork net{{.features = (kind & 1) == 0 ? kEveryFeature : kAllButMergeable, .nowait = (kind & 2) == 0}};
    net.start();
    net.post(256, 1536);
    std::uint16_t sent = 0, got = 0;
    while (got < 3000) {
      for (unsigned i = 0; i < 50; ++i, ++sent) net.to_guest({{}, make_frame(60 + sent % 1400, sent)});
      for (const Packet& packet : net.receive(50)) {
        ASSERT_EQ(packet.frame, make_frame(60 + got % 1400, got));
        ++got;
      }
    }
    EXPECT_EQ(net.metrics.rx_fails.value(), 0u);
  }
}

TEST(NetReceiver, LongFramesAmongShortOnesArriveWhole) {
  for (const bool nowait : {true, false}) {
    FakeNetwork net{{.nowait = nowait}};
    net.start();
    net.post(256, 1536);
    const std::uint64_t asked = net.metrics.rx_no_buffer_count.value();
    unsigned seed = 0;
    const auto send = [&](std::size_t length, unsigned count) {
      for (unsigned i = 0; i < count; ++i) {
        net.to_guest({{}, make_frame(length, ++seed)});
        ASSERT_EQ(net.receive_one().frame, make_frame(length, seed)) << length << " bytes, frame " << seed;
      }
    };
    for (int round = 0; round < 3; ++round) {
      send(60, 300);  // reads are short again
      send(65'550, 1);
      send(60, 1);
      send(1519, 2);
      send(1518, 300);
      send(1519, 1);
    }
    EXPECT_EQ(net.metrics.rx_fails.value(), 0u);
    EXPECT_EQ(net.metrics.rx_no_buffer_count.value(), asked);
  }
}

TEST(NetReceiver, ALongFrameThatWasBegunArrivesBeforeTheDeviceStands) {
  for (const bool nowait : {true, false}) {
    FakeNetwork net{{.nowait = nowait}};
    net.start();
    net.post(256, 1536);
    net.to_guest({{}, make_frame(60, 1)});
    ASSERT_EQ(net.receive_one().frame, make_frame(60, 1));  // a short read waits
    net.to_guest({{}, make_frame(20'000, 2)});
    net.host->drain();
    const auto packets = net.take_received();
    ASSERT_EQ(packets.size(), 1u);
    EXPECT_EQ(packets[0].frame, make_frame(20'000, 2));
  }
}

TEST(NetReceiver, ALongFrameThatComesBehindAShortOneArrivesBehindIt) {
  for (const bool nowait : {true, false}) {
    FakeNetwork net{{.nowait = nowait}};
    net.start();
    net.post(256, 1536);
    net.to_guest({{}, make_frame(60, 1)});
    net.to_guest({{}, make_frame(40'000, 2)});
    net.to_guest({{}, make_frame(60, 3)});
    const auto packets = net.receive(3);
    EXPECT_EQ(packets[0].frame, make_frame(60, 1));
    EXPECT_EQ(packets[1].frame, make_frame(40'000, 2));
    EXPECT_EQ(packets[2].frame, make_frame(60, 3));
  }
}

TEST(NetReceiver, RandomTrafficBothWaysArrivesAsItWasSent) {
  std::mt19937 random{7};
  for (const unsigned kind : {0U, 1U, 2U, 3U}) {
    const bool mergeable = (kind & 1) == 0;
    FakeNetwork net{{.features = mergeable ? kEveryFeature : kAllButMergeable, .nowait = (kind & 2) == 0}};
    net.start();
    for (unsigned i = 0; i < (mergeable ? 200U : 30U); ++i)
      net.post(1, mergeable ? static_cast<std::uint32_t>(600 + random() % 4000) : 65'562);
    std::deque<Bytes> to_guest, from_guest;
    const auto length = [&] { return 14 + random() % (random() % 4 == 0 ? 65'537 : 1500); };
    for (unsigned step = 0; step < testing::repeats(4000U, 1000U); ++step) {
      if (random() % 2 == 0 && to_guest.size() < 3) {
        to_guest.push_back(make_frame(length(), step));
        net.to_guest({{}, to_guest.back()});
      }
      if (random() % 2 == 0 && from_guest.size() < 3) {
        from_guest.push_back(make_frame(length(), step));
        net.transmit({{}, from_guest.back()}, 1 + random() % 9000 + 300);
      }
      if (random() % 3 == 0 && !to_guest.empty()) {
        for (const Packet& packet : net.receive_at_least_one()) {
          ASSERT_EQ(packet.frame, to_guest.front());
          to_guest.pop_front();
        }
      }
      if (random() % 3 == 0 && !from_guest.empty()) {
        ASSERT_EQ(net.from_guest().frame, from_guest.front());
        from_guest.pop_front();
        (void)net.take_transmitted();
      }
    }
    EXPECT_EQ(net.metrics.rx_fails.value() + net.metrics.tx_fails.value(), 0u);
  }
}

TEST(NetReceiver, OnAnOlderKernelThatCannotWaitInTheRingItWaitsBesideIt) {
  FakeNetwork net{{.nowait = false}};
  net.start();
  net.post(60, 1536);
  net.transmit({{}, make_frame(60)});
  EXPECT_EQ(net.from_guest().frame, make_frame(60));
  for (unsigned i = 0; i < 20; ++i) {
    net.to_guest({{}, make_frame(100, i)});
    EXPECT_EQ(net.receive_one().frame, make_frame(100, i));
  }
  net.host->reset();
  net.start();
  net.post(60, 1536);
  net.to_guest({{}, make_frame(100)});
  EXPECT_EQ(net.receive_one().frame, make_frame(100));
}

TEST(NetReceiver, AHeaderOfTheHostReachesADriverThatUnderstandsIt) {
  FakeNetwork net;
  net.start();
  net.post(60, 1536);
  const NetHeader header{.flags = net_abi::kNeedsCsum,
                         .gso_type = net_abi::kGsoTcp6,
                         .hdr_len = 74,
                         .gso_size = 1428,
                         .csum_start = 54,
                         .csum_offset = 16};
  net.to_guest({header, make_frame(9000)});
  NetHeader expected = header;
  expected.num_buffers = 6;
  EXPECT_EQ(net.receive_one(), (Packet{expected, make_frame(9000)}));
}

TEST(NetReceiver, ADriverWithoutChecksumsGetsNoFlagsAndNoUnfinishedFrames) {
  FakeNetwork net{{.features = bit(net_abi::kMergeable)}};
  net.start();
  net.post(60, 1536);
  net.to_guest({{.flags = net_abi::kNeedsCsum, .csum_start = 34, .csum_offset = 16}, make_frame(100, 1)});
  net.to_guest({{.gso_type = net_abi::kGsoTcp4, .gso_size = 1400}, make_frame(100, 2)});
  net.to_guest({{.flags = net_abi::kDataValid}, make_frame(100, 3)});
  EXPECT_EQ(net.receive_one(), (Packet{{.num_buffers = 1}, make_frame(100, 3)}));
  EXPECT_EQ(net.metrics.rx_fails.value(), 2u);
}

TEST(NetReceiver, BuffersThatNoDriverMayOfferStopTheDevice) {
  const auto faults_of = [](std::vector<FakeBuffer> buffers) {
    FakeNetwork net;
    net.start();
    for (FakeBuffer& buffer : buffers) buffer.at = net.ram.room(2000);
    net.offer_receive(buffers);
    net.host->kick(kNetReceiveQueue);
    return net.host->faults;
  };
  EXPECT_EQ(faults_of({{{}, 1500, false}}).size(), 1u);
  EXPECT_EQ(faults_of({{{}, 10, false}, {{}, 1500, true}}).size(), 1u);
  EXPECT_EQ(faults_of({{{}, 11, true}}).size(), 1u);
  EXPECT_EQ(faults_of({{{}, 0, true}}).size(), 1u);
  EXPECT_EQ(faults_of({{{}, 12, true}}).size(), 0u);
}

TEST(NetReceiver, AFaultStopsTheDeviceUntilItsReset) {
  FakeNetwork net;
  net.start();
  net.post(3, 1536);
  net.offer_receive({{net.ram.room(100), 100, false}});
  net.host->kick(kNetReceiveQueue);
  net.to_guest({{}, make_frame(3000)});  // uses all but the last
  net.serve_until([&] { return net.host->faults.size() == 1; });
  net.host->reset();
  net.start();
  net.post(60, 1536);
  net.to_guest({{}, make_frame(100)});
  EXPECT_EQ(net.receive_one().frame, make_frame(100));
}

TEST(NetReceiver, ChainsOfManyPiecesAreServedWithinTheBoundsOfOneRead) {
  FakeNetwork net;
  net.start();
  const GuestAddress room = net.ram.room(1 << 20);
  for (unsigned i = 0; i < 20; ++i) {
    std::vector<FakeBuffer> pieces;
    for (unsigned j = 0; j < 250; ++j) pieces.push_back({{room.value + 40ULL * (250 * i + j)}, 40, true});
    net.receive_queue->offer_indirect(pieces);
  }
  net.host->kick(kNetReceiveQueue);
  net.to_guest({{}, make_frame(20'000)});
  net.serve_until([&] { return net.receive_queue->used_index() > 0; });
  EXPECT_EQ(net.receive_queue->used_entry(0).length, 10'000u);
  EXPECT_EQ(net.receive_queue->used_index(), 3u);
}

TEST(NetReceiver, FramesBeyondTheLimitWaitForTheirTime) {
  constexpr std::uint64_t kRefillMs = 100;
  FakeNetwork net{{.config = {.iface_id = "eth0",
                              .rx_rate_limiter = RateLimiterConfig{
                                  .ops = TokenBucketConfig{.size = 10, .refill_time_ms = kRefillMs}}}}};
  net.start();
  net.post(256, 1536);
  for (unsigned i = 0; i < 20; ++i) net.to_guest({{}, make_frame(60, i)});
  const std::uint64_t begin = monotonic_ns();
  for (unsigned i = 0; i < 20; ++i) EXPECT_EQ(net.receive_one().frame, make_frame(60, i));
  EXPECT_GE(monotonic_ns() - begin, kRefillMs * 1'000'000 - 1'000'000);
  EXPECT_GE(net.metrics.rx_rate_limiter_throttled.value(), 1u);
}

TEST(NetReceiver, ALimitOfOperationsLetsThroughExactlySoMany) {
  FakeNetwork net{{.config = {.iface_id = "eth0",
                              .rx_rate_limiter = RateLimiterConfig{
                                  .ops = TokenBucketConfig{.size = 7, .refill_time_ms = 3'600'000}}}}};
  net.start();
  net.post(256, 1536);
  for (unsigned i = 0; i < 20; ++i) net.to_guest({{}, make_frame(60, i)});
  (void)net.receive(7);
  net.serve_until([&] { return net.metrics.rx_rate_limiter_throttled.value() == 1; });
  EXPECT_EQ(net.metrics.rx_packets_count.value(), 7u);
  net.device->update_rate_limiters(
      {.iface_id = "eth0", .rx_rate_limiter = RateLimiterConfig{.ops = TokenBucketConfig{}}});
  (void)net.receive(13);
}

TEST(NetReceiver, AWireThatIsGoneTakesTheLinkDownAndIsNotReadInABusyLoop) {
  FakeNetwork net;
  net.start();
  net.post(60, 1536);
  net.wire.reset();
  net.serve_until([&] { return net.metrics.rx_fails.value() >= 2; });
  EXPECT_EQ(net.metrics.tap_gone_count.value(), 1u);
  EXPECT_EQ(net.host->config_changes, 1);
  std::array<std::byte, 2> status{};
  net.device->read_config(6, status);
  EXPECT_EQ(status[0], std::byte{0});
  const std::uint64_t fails = net.metrics.rx_fails.value();
  net.host->kick(kNetReceiveQueue);  // posts nothing before the pause is over
  net.transmit({{}, make_frame(60)});
  net.wait_transmitted(1);
  EXPECT_EQ(net.metrics.rx_fails.value(), fails);
  net.host->reset();
}

}  // namespace
}  // namespace mayfly::testing
