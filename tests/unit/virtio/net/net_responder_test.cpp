// Interfaces that answer some frames themselves: both directions and the device at once.
#include "tests/support/files.h"
#include "tests/unit/virtio/fake_responder.h"
#include "tests/unit/virtio/mmds/fake_guest.h"
#include "tests/unit/virtio/net/fake_network.h"
#include "virtio/mmds/network_stack.h"
#include "vmm/base/clock.h"
#include "vmm/config/mac_address.h"

#include <algorithm>
#include <initializer_list>
#include <memory>

#include <gtest/gtest.h>

namespace mayfly::testing {
namespace {

constexpr std::uint64_t kNotMergeable = ~net_abi::bit(net_abi::kMergeable);
constexpr std::uint64_t kMillisecondNs = 1'000'000;

Bytes as_bytes(const FakeResponder::Frame& frame) {
  const auto bytes = std::as_bytes(std::span{frame});
  return {bytes.begin(), bytes.end()};
}
FakeResponder::Frame as_frame(const Bytes& bytes) {
  FakeResponder::Frame frame;
  for (const std::byte byte : bytes) frame.push_back(std::to_integer<std::uint8_t>(byte));
  return frame;
}
/// Frames for the responder, and for the TAP.
Bytes claimed(std::size_t length, unsigned seed = 1) {
  Bytes frame = make_frame(length, seed);
  frame[0] = std::byte{FakeResponder::kClaimed};
  return frame;
}
Bytes foreign(std::size_t length, unsigned seed = 1) {
  Bytes frame = make_frame(length, seed);
  frame[0] = std::byte{2};
  return frame;
}

/// An interface, and its responder.
struct World {
  explicit World(FakeNetwork::Options options = {}) : World(std::move(options), std::make_unique<FakeResponder>()) {}
  World(FakeNetwork::Options options, std::unique_ptr<FakeResponder> made)
      : responder(*made), net(with(std::move(options), std::move(made))) {}
  static FakeNetwork::Options with(FakeNetwork::Options options, std::unique_ptr<FakeResponder> made) {
    options.responder = std::move(made);
    return options;
  }

  void transmit(const Bytes& frame, std::size_t piece = 1 << 20) { net.transmit({{}, frame}, piece); }
  /// Has the guest say something, and waits until there is no room for the answer.
  void ask_in_vain() {
    const std::uint64_t before = net.metrics.rx_no_buffer_count.value();
    transmit(claimed(60));
    net.serve_until([&] { return net.metrics.rx_no_buffer_count.value() > before; });
  }
  /// Waits until a read waits for the TAP: the kernel has seen it when it has seen what came after it.
  void let_reads_wait() {
    transmit(foreign(60));
    (void)net.from_guest();
  }

  FakeResponder& responder;
  FakeNetwork net;
};

// --- From the guest

TEST(NetResponder, AFrameThatIsClaimedArrivesWholeHoweverItIsCutAndNeverReachesTheTap) {
  World world;
  world.net.start();
  const std::size_t sizes[] = {14, 41, 42, 43, 49, 50, 51, 60, 1514, FrameResponder::kLongestReceived};
  for (const std::size_t size : sizes) {
    for (const std::size_t piece : {std::size_t{1} << 20, std::size_t{50}, std::size_t{17}}) {
      world.responder.received.clear();
      world.transmit(claimed(size), piece);
      world.net.wait_transmitted(1);
      ASSERT_EQ(world.responder.received.size(), 1u);
      EXPECT_EQ(as_bytes(world.responder.received[0].first), claimed(size)) << size << " in pieces of " << piece;
      EXPECT_EQ(world.responder.received[0].second, TcpChecksum::Complete);
    }
  }
  world.let_reads_wait();
  EXPECT_FALSE(world.net.try_from_guest());
  EXPECT_EQ(world.net.metrics.tx_packets_count.value(), 1u);
  EXPECT_TRUE(world.net.host->faults.empty());
}

TEST(NetResponder, ItIsToldWhereTheChecksumIsLeftToTheDevice) {
  World world;
  world.net.start();
  world.net.transmit({{.flags = net_abi::kNeedsCsum, .csum_start = 34, .csum_offset = 16}, claimed(100)});
  world.net.wait_transmitted(1);
  ASSERT_EQ(world.responder.received.size(), 1u);
  EXPECT_EQ(world.responder.received[0].second, TcpChecksum::LeftToUs);
}

TEST(NetResponder, NobodyWritesTheDestinationOnceItHasBeenLookedAt) {
  World world;
  world.net.start();
  for (const std::uint16_t start : {std::uint16_t{14}, std::uint16_t{33}}) {
    const auto offset = static_cast<std::uint16_t>(start == 14 ? 16 : 0);  // Ethernet 14, destination 16
    world.net.transmit({{.flags = net_abi::kNeedsCsum, .csum_start = start, .csum_offset = offset}, foreign(100)});
  }
  world.net.wait_transmitted(2);
  world.let_reads_wait();
  EXPECT_FALSE(world.net.try_from_guest());
  EXPECT_EQ(world.net.metrics.tx_malformed_frames.value(), 2u);
}

/// The address that is asked for is 24 bytes behind an ARP frame's network header.
TEST(NetResponder, NobodyWritesTheAddressThatArpAsksForEither) {
  World world;
  world.net.start();
  Frame frame = arp_frame({172, 16, 0, 1});
  for (std::uint16_t tags = 0; tags <= 2; ++tags, frame = tagged(frame, 0x8100)) {
    for (const int start : {20, 27, 28}) {
      Bytes padded = as_bytes(frame);
      padded.resize(60);
      const auto at = static_cast<std::uint16_t>(14 + 4 * tags + start);
      world.net.transmit({{.flags = net_abi::kNeedsCsum, .csum_start = at, .csum_offset = 4}, padded});
    }
    world.net.wait_transmitted(3);
  }
  EXPECT_EQ(world.net.metrics.tx_malformed_frames.value(), 6U);
}

TEST(NetResponder, AFrameWithAThirdTagReachesNeitherHostNorResponder) {
  for (const unsigned type : {0x8100U, 0x88A8U}) {
    World world;
    world.net.start();
    Frame frame = arp_frame({172, 16, 0, 1});
    for (unsigned tags = 0; tags <= 5; ++tags, frame = tagged(frame, type)) {
      world.transmit(as_bytes(frame));
      world.transmit(foreign(60));
      if (tags <= 2) {
        EXPECT_EQ(world.net.from_guest().frame, as_bytes(frame)) << tags;
      }
      EXPECT_EQ(world.net.from_guest().frame, foreign(60)) << tags;
    }
    EXPECT_EQ(world.net.metrics.tx_malformed_frames.value(), 3U);
    EXPECT_TRUE(world.responder.received.empty());
  }
}

TEST(NetResponder, AClaimedFrameThatIsTooLongForItIsDropped) {
  World world;
  world.net.start();
  world.transmit(claimed(FrameResponder::kLongestReceived + 1));
  world.transmit(claimed(65'550));
  world.net.wait_transmitted(2);
  world.let_reads_wait();
  EXPECT_FALSE(world.net.try_from_guest());
  EXPECT_TRUE(world.responder.received.empty());
}

TEST(NetResponder, AllOtherFramesPassAsTheyAre) {
  World world;
  world.net.start();
  for (const std::size_t size : std::initializer_list<std::size_t>{14, 41, 42, 43, 60, 1514, 9014, 65'550}) {
    for (const std::size_t piece : {std::size_t{1} << 20, std::size_t{4096}, std::size_t{12}, std::size_t{5}}) {
      if ((size + sizeof(NetHeader)) / piece >= 250) continue;  // more buffers than a chain has
      const Packet packet{{}, foreign(size)};
      world.net.transmit(packet, piece);
      EXPECT_EQ(world.net.from_guest(), packet) << size << " in pieces of " << piece;
      world.net.wait_transmitted(1);
    }
  }
  EXPECT_TRUE(world.responder.received.empty());
}

TEST(NetResponder, AFrameWithAnothersSourceReachesNeither) {
  const MacAddress mac{0x06, 0, 0xAC, 0x10, 0, 2};
  World world{{.config = {.iface_id = "eth0", .guest_mac = mac, .check_source_mac = true}}};
  world.net.start();
  Bytes mine = claimed(100);
  std::ranges::copy(std::as_bytes(std::span{mac}), mine.begin() + 6);
  world.transmit(claimed(100));
  world.transmit(mine);
  world.net.wait_transmitted(2);
  EXPECT_EQ(world.net.metrics.tx_spoofed_mac_count.value(), 1u);
  ASSERT_EQ(world.responder.received.size(), 1u);
  EXPECT_EQ(as_bytes(world.responder.received[0].first), mine);
}

TEST(NetResponder, ARingFullOfClaimedFramesIsServedAtOnceAndTheRestGoesOn) {
  World world;
  world.net.start();
  for (unsigned i = 0; i < NetDevice::kQueueSize - 1; ++i)
    world.net.offer_transmit(FakeNetwork::bytes_of({{}, claimed(60, i)}));
  world.transmit(foreign(60));
  EXPECT_EQ(world.net.from_guest().frame, foreign(60));
  world.net.wait_transmitted(NetDevice::kQueueSize);
  EXPECT_EQ(world.responder.received.size(), NetDevice::kQueueSize - 1u);
}

TEST(NetResponder, ClaimedFramesAreNotTheRateLimitersBusiness) {
  World world{{.config = {.iface_id = "eth0",
                          .tx_rate_limiter =
                              RateLimiterConfig{.ops = TokenBucketConfig{.size = 1, .refill_time_ms = 3'600'000}}}}};
  world.net.start();
  for (unsigned i = 0; i < 10; ++i) world.transmit(claimed(100, i));
  world.net.wait_transmitted(10);
  world.transmit(foreign(60));
  EXPECT_EQ(world.net.from_guest().frame, foreign(60));
  EXPECT_EQ(world.net.metrics.tx_rate_limiter_throttled.value(), 0u);
}

// --- To the guest

class NetResponderReads : public ::testing::TestWithParam<bool> {};
INSTANTIATE_TEST_SUITE_P(WithAndWithoutNowait, NetResponderReads, ::testing::Bool());

TEST_P(NetResponderReads, AnAnswerArrivesWhileTheTapIsSilentAndFramesOfTheTapAfterIt) {
  World world{{.nowait = GetParam()}};
  world.responder.answer = {as_frame(make_frame(1514, 7)), as_frame(make_frame(42, 8))};
  world.net.start();
  world.net.post(100, 1536);
  world.let_reads_wait();
  for (unsigned i = 0; i < 20; ++i) {
    world.transmit(claimed(60));
    const auto packets = world.net.receive(2);
    EXPECT_EQ(packets[0], (Packet{{.num_buffers = 1}, make_frame(1514, 7)}));
    EXPECT_EQ(packets[1], (Packet{{.num_buffers = 1}, make_frame(42, 8)}));
    world.net.to_guest({{}, make_frame(3000, i)});
    EXPECT_EQ(world.net.receive_one().frame, make_frame(3000, i));
  }
  EXPECT_EQ(world.net.metrics.rx_packets_count.value(), 20u);  // those of the network
  EXPECT_EQ(world.net.metrics.rx_fails.value(), 0u);
}

TEST_P(NetResponderReads, FramesOfBothKeepTheirOrderAndNoneIsLost) {
  World world{{.nowait = GetParam()}};
  world.net.start();
  world.net.post(200, 1536);
  unsigned sent = 0, said = 0, got = 0, heard = 0;
  while (got < 2000 || heard < 500) {
    for (unsigned i = 0; i < 5 && sent < 2000 && sent < got + 20; ++i, ++sent) {
      Bytes frame = make_frame(100 + sent % 3000, sent);
      frame[1] = std::byte{0};
      world.net.to_guest({{}, frame});
    }
    if (said < 500 && said < heard + 20) {
      Bytes frame = make_frame(60 + said % 1400, said);
      frame[1] = std::byte{1};
      world.responder.answer = {as_frame(frame)};
      world.transmit(claimed(60));
      ++said;
    }
    for (const Packet& packet : world.net.receive_at_least_one()) {
      unsigned& number = packet.frame[1] == std::byte{1} ? heard : got;
      Bytes expected = packet.frame[1] == std::byte{1} ? make_frame(60 + number % 1400, number)
                                                       : make_frame(100 + number % 3000, number);
      expected[1] = packet.frame[1];
      ASSERT_EQ(packet.frame, expected) << number;
      ++number;
    }
    (void)world.net.take_transmitted();
  }
  EXPECT_EQ(world.net.metrics.rx_fails.value(), 0u);
}

TEST(NetResponder, AnAnswerFillsAsManyBuffersAsItNeeds) {
  World world;
  world.responder.answer = {as_frame(make_frame(1514))};
  world.net.start();
  world.net.post(40, 500);
  world.transmit(claimed(60));
  EXPECT_EQ(world.net.receive_one(), (Packet{{.num_buffers = 4}, make_frame(1514)}));
}

TEST(NetResponder, WithoutBuffersAnswersStayWhereTheyAreAndTheDriverIsAskedForSome) {
  World world;
  world.responder.answer = {as_frame(make_frame(100))};
  world.net.start();
  world.net.host->kick(kNetReceiveQueue);
  world.transmit(claimed(60));
  world.net.wait_transmitted(1);
  EXPECT_EQ(world.responder.to_say.size(), 1u);
  EXPECT_EQ(world.net.receive_queue->available_event(), world.net.receive_queue->available_index());
  world.net.post(1, 1536);
  EXPECT_EQ(world.net.receive_one(false).frame, make_frame(100));
}

TEST(NetResponder, AnAnswerThatDoesNotFitABufferIsLostAndTheNextArrives) {
  World world{{.features = kNotMergeable}};
  world.responder.answer = {as_frame(make_frame(1514)), as_frame(make_frame(100))};
  world.net.start();
  world.net.post(4, 1000);
  world.transmit(claimed(60));
  EXPECT_EQ(world.net.receive_one(), (Packet{{.num_buffers = 1}, make_frame(100)}));
  EXPECT_EQ(world.net.metrics.rx_fails.value(), 1u);
}

TEST(NetResponder, AnAnswerWaitsUntilTheDriverHasOfferedWhatItNeeds) {
  World world;
  world.responder.answer = {as_frame(make_frame(1514)), as_frame(make_frame(100))};
  world.net.start();
  world.net.post(2, 500);
  world.ask_in_vain();
  EXPECT_TRUE(world.net.take_received().empty());
  world.net.post(3, 500);
  const auto packets = world.net.receive(2, false);
  EXPECT_EQ(packets[0], (Packet{{.num_buffers = 4}, make_frame(1514)}));
  EXPECT_EQ(packets[1], (Packet{{.num_buffers = 1}, make_frame(100)}));
  EXPECT_EQ(world.net.metrics.rx_fails.value(), 0u);
}

TEST(NetResponder, AnAnswerForWhichTheDriverNeverHasRoomIsLostAndTheTapIsHeardAgain) {
  World world;
  world.responder.answer = {as_frame(make_frame(1514))};
  world.net.start();
  world.net.post(1, 300);
  world.ask_in_vain();
  world.net.to_guest({{}, make_frame(100)});
  EXPECT_EQ(world.net.receive_one().frame, make_frame(100));
  EXPECT_EQ(world.net.metrics.rx_fails.value(), 1u);
}

TEST(NetResponder, AnAnswerThatWaitsForBuffersIsForgottenByAReset) {
  World world;
  world.responder.answer = {as_frame(make_frame(1514))};
  world.net.start();
  world.net.post(1, 300);
  world.ask_in_vain();
  world.net.host->reset();
  world.net.start();
  world.net.post(50, 1536);
  world.net.to_guest({{}, make_frame(200)});
  EXPECT_EQ(world.net.receive_one().frame, make_frame(200));
}

TEST(NetResponder, AnAnswerPassesAReceiverWhoseLimitIsReached) {
  World world{{.config = {.iface_id = "eth0",
                          .rx_rate_limiter =
                              RateLimiterConfig{.ops = TokenBucketConfig{.size = 1, .refill_time_ms = 3'600'000}}}}};
  world.responder.answer = {as_frame(make_frame(1514))};
  world.net.start();
  world.net.post(50, 1536);
  world.net.to_guest({{}, make_frame(60)});
  EXPECT_EQ(world.net.receive_one().frame, make_frame(60));
  EXPECT_EQ(world.net.metrics.rx_rate_limiter_throttled.value(), 1u);
  for (unsigned i = 0; i < 10; ++i) {
    world.transmit(claimed(60));
    EXPECT_EQ(world.net.receive_one().frame, make_frame(1514));
  }
}

TEST(NetResponder, AnAnswerWaitsForAFrameOfTheTapThatHasBeenReadInPart) {
  World world;
  world.responder.answer = {as_frame(make_frame(1514))};
  world.net.start();
  world.net.post(2, 1536);
  world.net.to_guest({{}, make_frame(20'000)});
  world.net.serve_until([&] { return world.net.metrics.rx_no_buffer_count.value() >= 1; });
  world.transmit(claimed(60));
  world.net.wait_transmitted(1);
  world.net.post(40, 1536);
  const auto packets = world.net.receive(2);
  EXPECT_EQ(packets[0].frame, make_frame(20'000));
  EXPECT_EQ(packets[1].frame, make_frame(1514));
}

TEST(NetResponder, WhoHasNoEndOfAnswersFillsWhatThereIsAndStopsNobody) {
  World world;
  world.responder.to_say.assign(100'000, as_frame(make_frame(60)));
  world.net.start();
  world.net.post(256, 1536);
  EXPECT_EQ(world.net.receive(256, false).size(), 256u);
  EXPECT_EQ(world.responder.to_say.size(), 100'000u - 256u);
  world.transmit(foreign(60));
  EXPECT_EQ(world.net.from_guest().frame, foreign(60));
}

TEST(NetResponder, ABrokenReceiveRingStopsTheDeviceWhenThereIsAnAnswer) {
  World world;
  world.responder.answer = {as_frame(make_frame(100))};
  world.net.start();
  world.transmit(claimed(60));
  world.net.wait_transmitted(1);
  world.net.offer_receive({{world.net.ram.room(100), 100, false}});
  world.net.host->kick(kNetReceiveQueue);
  EXPECT_EQ(world.net.host->faults.size(), 1u);
  world.net.host->reset();
}

// --- Time

TEST(NetResponder, ItIsCalledWhenItsTimeHasComeAndWhatItSaysThenArrives) {
  World world;
  world.responder.on_timer = {as_frame(make_frame(77))};
  world.net.start();
  world.net.post(50, 1536);
  world.let_reads_wait();
  for (unsigned i = 1; i < 4; ++i) {
    const std::uint64_t at = monotonic_ns() + 20 * kMillisecondNs;
    world.responder.wants_time = at;
    world.transmit(claimed(60));
    EXPECT_EQ(world.net.receive_one().frame, make_frame(77));
    EXPECT_GE(monotonic_ns(), at);
    EXPECT_EQ(world.responder.timers, i);
  }
}

TEST(NetResponder, ATimeThatMovesAheadCountsAndOneThatMovesAwayIsNotForgotten) {
  World world;
  world.responder.on_timer = {as_frame(make_frame(77))};
  world.net.start();
  world.net.post(50, 1536);
  world.responder.wants_time = monotonic_ns() + 3'600'000 * kMillisecondNs;
  world.transmit(claimed(60));
  world.responder.wants_time = monotonic_ns() + 10 * kMillisecondNs;
  world.transmit(claimed(60));
  world.responder.wants_time = monotonic_ns() + 40 * kMillisecondNs;
  world.transmit(claimed(60));
  EXPECT_EQ(world.net.receive_one().frame, make_frame(77));
  EXPECT_EQ(world.responder.timers, 1u);
}

// --- Reset, pause

TEST(NetResponder, AResetForgetsWhatItHadToSay) {
  World world;
  world.responder.answer = {as_frame(make_frame(100))};
  world.net.start();
  world.transmit(claimed(60));
  world.net.wait_transmitted(1);
  world.responder.wants_time = monotonic_ns() + 5 * kMillisecondNs;
  world.net.host->reset();
  EXPECT_EQ(world.responder.resets, 1u);
  world.net.start();
  world.net.post(50, 1536);
  world.net.to_guest({{}, make_frame(200)});
  EXPECT_EQ(world.net.receive_one().frame, make_frame(200));
  EXPECT_EQ(world.responder.timers, 0u);
}

TEST(NetResponder, AResetWhileReadsAreTakenBackForAnAnswerLeavesNothingBehind) {
  World world{{.ram_mib = 512}};
  world.responder.answer = {as_frame(make_frame(100))};
  world.net.start();
  const std::size_t descriptors = open_descriptors();
  const GuestAddress buffers = world.net.ram.room(2048 * 256);
  for (unsigned i = 0; i < 100; ++i) {
    for (unsigned j = 0; j < 60; ++j) world.net.offer_receive({{{buffers.value + 2048 * j}, 2048, true}});
    world.net.host->kick(kNetReceiveQueue);
    if (i % 2 == 0) world.let_reads_wait();
    world.transmit(claimed(60));  // the volley is cancelled now
    if (i % 3 == 0) world.transmit(claimed(60));
    world.net.host->reset();
    world.net.start(i % 5 == 0);
  }
  EXPECT_LE(open_descriptors(), descriptors);
  world.net.post(60, 2048);
  world.transmit(claimed(60));
  EXPECT_EQ(world.net.receive_one().frame, make_frame(100));
  EXPECT_TRUE(world.net.host->faults.empty());
}

TEST(NetResponder, PausedItSaysNothingAndLosesNothing) {
  World world;
  world.responder.on_timer = {as_frame(make_frame(77))};
  world.net.start();
  world.net.post(100, 1536);
  world.let_reads_wait();
  for (unsigned i = 0; i < 10; ++i) {
    world.responder.wants_time = monotonic_ns() + kMillisecondNs;
    world.transmit(claimed(60));
    world.net.host->drain();
    world.net.let_pass(3 * kMillisecondNs);
    EXPECT_EQ(world.responder.timers, i);
    world.net.host->undrain();
    world.net.host->kick(kNetReceiveQueue);
    world.net.host->kick(kNetTransmitQueue);
    EXPECT_EQ(world.net.receive_one().frame, make_frame(77));
  }
}

TEST(NetResponder, WhileTheMachineStandsStillSoDoesItsTime) {
  World world;
  world.responder.on_timer = {as_frame(make_frame(77))};
  world.net.start();
  world.net.post(50, 1536);
  world.let_reads_wait();
  for (unsigned i = 0; i < 5; ++i) {
    world.net.device->freeze();
    world.responder.wants_time = monotonic_ns() + kMillisecondNs;
    world.transmit(claimed(60));  // which it sent before
    world.net.device->freeze();
    world.net.let_pass(3 * kMillisecondNs);
    EXPECT_EQ(world.responder.timers, i);
    world.net.device->thaw();
    const std::uint64_t at = world.responder.wants_time.value();
    EXPECT_EQ(world.net.receive_one().frame, make_frame(77));
    EXPECT_GE(monotonic_ns(), at);
  }
}

// --- Without a TAP

/// An interface on nothing.
FakeNetwork::Options without_tap(Tap& none) { return {.config = {.iface_id = "eth0"}, .tap = &none}; }

TEST(NetResponder, WithoutATapItIsAllThatAGuestReaches) {
  Tap none = Tap::none();
  World world{without_tap(none)};
  world.responder.answer = {as_frame(make_frame(77))};
  world.net.start();
  world.net.post(50, 1536);
  for (unsigned i = 0; i < 300; ++i) {
    world.transmit(foreign(60, i));
    world.transmit(claimed(60, i));
    EXPECT_EQ(world.net.receive_one().frame, make_frame(77));
    world.net.wait_transmitted(2);
  }
  EXPECT_EQ(world.net.metrics.tx_no_tap_count.value(), 300u);
  EXPECT_EQ(world.net.metrics.tx_packets_count.value(), 0u);
  EXPECT_EQ(world.net.metrics.tx_fails.value(), 0u);
  EXPECT_EQ(world.net.metrics.tap_gone_count.value(), 0u);
  EXPECT_TRUE(world.net.host->faults.empty());
}

TEST(NetResponder, WithoutATapAnswersWaitForBuffersToo) {
  Tap none = Tap::none();
  World world{without_tap(none)};
  world.responder.answer = {as_frame(make_frame(77))};
  world.net.start();
  world.ask_in_vain();
  world.net.post(1, 1536);
  EXPECT_EQ(world.net.receive_one().frame, make_frame(77));
}

TEST(NetResponder, WithoutATapThereIsNothingToDrainOrToSet) {
  Tap none = Tap::none();
  World world{without_tap(none)};
  world.net.start();
  world.net.post(50, 1536);
  world.net.host->drain();
  EXPECT_TRUE(world.net.host->is_drained());
  world.net.host->undrain();
  for (unsigned i = 0; i < 100; ++i) {  // of a TAP, no driver may change offloads as often
    world.net.host->reset();
    world.net.start_with(i % 2 == 0 ? kEveryFeature : 0);
    world.net.host->kick(kNetTransmitQueue);
  }
  EXPECT_TRUE(world.net.host->faults.empty());
  EXPECT_EQ(world.net.device->features() & net_abi::bit(net_abi::kHostUso),
            0u);  // so that a TAP of any host can follow
}

// --- The service itself

TEST(NetResponder, AGuestReadsMetadataThroughItsInterface) {
  MmdsMetrics metrics;
  MetadataStore store;
  ASSERT_TRUE(store.put(*parse_json(R"({"latest": {"meta-data": {"ami-id": "ami-1"}}})", "it")));
  const MetadataService service{
      {.network_interfaces = {"eth0"}}, store, {SessionTokens{SipKey{1}, 0}, 0x5EED}, metrics};
  FakeNetwork net{{.responder = std::make_unique<NetworkStack>(service, SipKey{2}, metrics)}};
  net.start();
  net.post(100, 1536);
  net.transmit({{}, as_bytes(arp_frame())});
  EXPECT_EQ(net.receive_one().frame.size(), 42u);

  TcpClient client{40'000};
  const auto say = [&](const std::vector<FakeResponder::Frame>& frames) {
    for (const auto& frame : frames) net.transmit({{}, as_bytes(frame)});
  };
  say(client.resend());
  say(client.send("GET /latest/meta-data/ami-id HTTP/1.0\r\n\r\n"));
  net.serve_until([&] {
    for (const Packet& packet : net.take_received())
      if (const auto segment = read_service_segment(as_frame(packet.frame))) say(client.take(*segment));
    return client.saw_end();
  });
  EXPECT_TRUE(client.received().ends_with("ami-1")) << client.received();
  EXPECT_FALSE(net.try_from_guest());
  EXPECT_EQ(metrics.connections_created.value(), 1u);
}

}  // namespace
}  // namespace mayfly::testing
