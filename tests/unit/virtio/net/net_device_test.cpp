#include "virtio/net/net_device.h"

#include "tests/support/files.h"
#include "tests/support/repeats.h"
#include "tests/support/tap_network.h"
#include "tests/unit/virtio/net/fake_network.h"
#include "tests/unit/virtio/net/tap_namespace.h"
#include "vmm/config/mac_address.h"

#include <arpa/inet.h>
#include <linux/if_packet.h>
#include <linux/virtio_ids.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <poll.h>

#include <algorithm>
#include <array>
#include <deque>

#include <gtest/gtest.h>

namespace mayfly::testing {
namespace {

using net_abi::bit;

// --- What the driver is told

TEST(NetDevice, IsANetworkDeviceWithOnePairOfQueues) {
  const FakeNetwork net;
  EXPECT_EQ(net.device->type(), static_cast<std::uint32_t>(VIRTIO_ID_NET));
  EXPECT_EQ(net.device->name(), "network interface eth0");
  ASSERT_EQ(net.device->queue_sizes().size(), 2u);
  EXPECT_EQ(net.device->queue_sizes()[0], 256);
  EXPECT_EQ(net.device->queue_sizes()[1], 256);
}

TEST(NetDevice, OffersWhatATapCanDoAndNoControlQueue) {
  const FakeNetwork net;
  for (const auto feature : {net_abi::kMac, net_abi::kStatus, net_abi::kMergeable, net_abi::kCsum, net_abi::kGuestCsum,
                             net_abi::kHostTso4, net_abi::kHostTso6, net_abi::kHostUso, net_abi::kGuestTso4,
                             net_abi::kGuestTso6, net_abi::kGuestUso4, net_abi::kGuestUso6})
    EXPECT_NE(net.device->features() & bit(feature), 0u) << feature;
  constexpr unsigned kControlQueue = 17;  // VIRTIO_NET_F_CTRL_VQ
  EXPECT_EQ(net.device->features() & 1ULL << kControlQueue, 0u);
  EXPECT_EQ(net.device->features() & bit(net_abi::kMtu), 0u);
}

TEST(NetDevice, TheConfigurationSpaceHoldsAddressLinkAndMtu) {
  const MacAddress mac{0x06, 0x00, 0xC0, 0xA8, 0x00, 0x02};
  const FakeNetwork net{{.config = {.iface_id = "eth0", .guest_mac = mac, .mtu = 9001}}};
  EXPECT_NE(net.device->features() & bit(net_abi::kMtu), 0u);
  std::array<std::byte, 16> space{};
  space.fill(std::byte{0xEE});
  net.device->read_config(0, space);
  const std::uint8_t expected[16] = {0x06, 0x00, 0xC0, 0xA8, 0x00, 0x02, 1, 0, 1, 0, 0x29, 0x23, 0, 0, 0, 0};
  EXPECT_EQ(std::memcmp(space.data(), expected, sizeof expected), 0);
}

TEST(NetDevice, TheConfigurationSpaceIsReadAtAnyPlaceAndZeroBehindItsEnd) {
  const FakeNetwork net;
  std::array<std::byte, 16> space{};
  net.device->read_config(0, space);
  for (std::uint64_t offset = 0; offset < 32; ++offset) {
    for (const std::size_t width : {1U, 2U, 4U, 8U}) {
      std::array<std::byte, 8> data{};
      data.fill(std::byte{0xEE});
      net.device->read_config(offset, std::span{data}.first(width));
      for (std::size_t i = 0; i < width; ++i)
        EXPECT_EQ(data[i], offset + i < 12 ? space[offset + i] : std::byte{0}) << offset << "+" << i;
    }
  }
  std::array<std::byte, 4> far{};
  net.device->read_config(~0ULL - 1, far);
}

TEST(NetDevice, AnAddressIsMadeWhereNoneIsGiven) {
  const FakeNetwork net;
  EXPECT_EQ(net.device->mac(), derive_mac_address("eth0"));
}

// --- Reset

TEST(NetDevice, AResetWithReadsWaitingLeavesNothingBehind) {
  FakeNetwork net{{.ram_mib = 512}};
  net.start();
  const std::size_t descriptors = open_descriptors();
  const GuestAddress buffers = net.ram.room(2048 * 256);
  for (unsigned i = 0; i < 100; ++i) {
    for (unsigned j = 0; j < i; ++j) net.offer_receive({{{buffers.value + 2048 * j}, 2048, true}});
    net.host->kick(kNetReceiveQueue);
    if (i % 2 == 0) {  // the read has reached the kernel
      net.transmit({{}, make_frame(60, i)});
      EXPECT_EQ(net.from_guest().frame, make_frame(60, i));
    }
    net.host->reset();
    net.start(i % 3 == 0);
  }
  EXPECT_EQ(open_descriptors(), descriptors);
  net.post(60, 2048);
  net.to_guest({{}, make_frame(65'550)});
  EXPECT_EQ(net.receive_one().frame, make_frame(65'550));
  EXPECT_TRUE(net.host->faults.empty());
}

TEST(NetDevice, AfterAResetNothingIsWrittenToTheOldBuffers) {
  FakeNetwork net;
  net.start();
  const GuestAddress buffer = net.ram.room(2048);
  net.offer_receive({{buffer, 2048, true}});
  net.host->kick(kNetReceiveQueue);
  net.host->reset();
  net.to_guest({{}, make_frame(100)});
  net.start();
  net.post(1, 2048);
  EXPECT_EQ(net.receive_one().frame, make_frame(100));
  EXPECT_TRUE(std::ranges::all_of(net.ram.bytes(buffer, 2048), [](std::byte byte) { return byte == std::byte{0}; }));
}

TEST(NetDevice, ADriverThatChangesOffloadsWithoutEndIsStopped) {
  FakeNetwork net;
  unsigned starts = 0;
  for (; starts < 1000 && net.host->faults.empty(); ++starts) {
    net.start_with(starts % 2 == 0 ? kEveryFeature : 0);
    net.host->kick(kNetReceiveQueue);
    net.host->reset();
  }
  EXPECT_GT(starts, 10u);
  EXPECT_LT(starts, 100u);
  ASSERT_EQ(net.host->faults.size(), 1u);
  EXPECT_NE(net.host->faults[0].find("offloads"), std::string::npos) << net.host->faults[0];
  // It takes nothing: frames would come as its driver cannot read them.
  net.start_with(starts % 2 == 0 ? 0 : kEveryFeature);
  net.post(50, 1536);
  net.offer_transmit(FakeNetwork::bytes_of({{}, make_frame(60)}));
  net.host->kick(kNetTransmitQueue);
  net.host->drain();
  EXPECT_EQ(net.device->state().receive_heads.size(), 0u);
  EXPECT_FALSE(net.try_from_guest());
}

TEST(NetDevice, ADriverThatStartsWithoutEndIsNotStopped) {
  FakeNetwork net;
  for (unsigned i = 0; i < testing::repeats(1000U, 200U); ++i) {
    net.start_with(0);
    net.host->kick(kNetReceiveQueue);
    net.host->reset();
  }
  EXPECT_TRUE(net.host->faults.empty());
}

TEST(NetDevice, OneThatWasNeverStartedCanBeResetAndDestroyed) {
  FakeNetwork net;
  net.host->reset();
  net.host->kick(kNetReceiveQueue);
  net.host->kick(kNetTransmitQueue);
}

// --- Pause and snapshot

TEST(NetDevice, PausedItTakesNothingAndGoesOnWithTheBuffersItHeld) {
  FakeNetwork net;
  net.start();
  net.post(100, 1536);
  for (unsigned round = 0; round < 20; ++round) {
    net.host->drain();
    net.to_guest({{}, make_frame(3000, round)});
    net.offer_transmit(FakeNetwork::bytes_of({{}, make_frame(60, round)}));
    net.host->kick(kNetTransmitQueue);
    EXPECT_EQ(net.transmit_queue->used_index(), round);
    net.host->undrain();
    net.host->kick(kNetReceiveQueue);
    net.host->kick(kNetTransmitQueue);
    EXPECT_EQ(net.receive_one(false).frame, make_frame(3000, round));
    EXPECT_EQ(net.from_guest().frame, make_frame(60, round));
    net.wait_transmitted(1);
  }
  EXPECT_EQ(net.metrics.rx_packets_count.value(), 20u);
}

TEST(NetDevice, ARestoredOneHoldsTheBuffersThatTheSavedOneHeld) {
  FakeNetwork net{{.config = {.iface_id = "eth0",
                              .rx_rate_limiter = RateLimiterConfig{
                                  .ops = TokenBucketConfig{.size = 50, .refill_time_ms = 3'600'000}}}}};
  net.start();
  net.post(50, 1536);
  for (unsigned i = 0; i < 3; ++i) net.to_guest({{}, make_frame(2000, i)});
  (void)net.receive(3, false);
  net.host->drain();
  const NetDeviceState saved = net.device->state();
  EXPECT_EQ(saved.receive_heads.size(), 43u);  // what the longest frame needs
  EXPECT_EQ(saved.receive_limiter.ops->budget, 47u);
  std::vector<QueueState> queues;
  for (const VirtQueue& queue : net.host->queues()) queues.push_back(queue.state());

  // The machine goes on in another device on the same memory, as after loading it.
  net.host->reset();
  net.device->restore(saved);
  EXPECT_EQ(net.device->state().receive_heads, saved.receive_heads);
  EXPECT_EQ(net.device->state().features, saved.features);
  for (std::size_t i = 0; i < queues.size(); ++i) ASSERT_TRUE(net.host->queues()[i].restore(queues[i]));
  net.host->activate(saved.features);
  net.host->kick(kNetReceiveQueue);
  for (unsigned i = 0; i < 22; ++i) {
    net.to_guest({{}, make_frame(2000, i)});
    ASSERT_EQ(net.receive_one(false).frame, make_frame(2000, i));
  }
  EXPECT_EQ(net.receive_queue->free_descriptors(), 256u);
}

TEST(NetDevice, ASavedHeadThatIsNoneStopsTheDeviceAndNothingElse) {
  FakeNetwork net;
  net.device->restore({.receive_heads = {7, 9999}});
  net.start();
  net.host->kick(kNetReceiveQueue);
  EXPECT_EQ(net.host->faults.size(), 1u);
  net.host->reset();
}

TEST(NetDevice, AReceiveQueueThatWasResetAloneIsForgotten) {
  FakeNetwork net;
  net.start();
  net.post(50, 1536);
  net.host->drain();
  net.host->queues()[kNetReceiveQueue].reset();
  net.host->undrain();
  net.host->kick(kNetReceiveQueue);
  net.host->kick(kNetTransmitQueue);
  net.transmit({{}, make_frame(60)});
  EXPECT_EQ(net.from_guest().frame, make_frame(60));
}

// --- On a real TAP

class NetDeviceOnTap : public ::testing::Test {
 protected:
  void SetUp() override {
    if (const std::string missing = space_.enter(); !missing.empty()) GTEST_SKIP() << missing;
    space_.add_tap("tap0");
    host_ = OwnedFd{::socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, htons(ETH_P_ALL))};
    sockaddr_ll address{};
    address.sll_family = AF_PACKET;
    address.sll_protocol = htons(ETH_P_ALL);
    address.sll_ifindex = static_cast<int>(::if_nametoindex("tap0"));
    ASSERT_EQ(::bind(host_.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address), 0);
    auto tap = Tap::open("tap0");
    ASSERT_TRUE(tap) << tap.error().message;
    net_.emplace(FakeNetwork::Options{.tap = &*tap});
    net_->start();
    await_running("tap0");
    net_->loop->poll(host_.get(), POLLIN, host_ready_);
  }
  void TearDown() override { net_.reset(); }
  /// A frame of a protocol that nobody else speaks.
  static Bytes frame(std::size_t length, unsigned seed) {
    Bytes bytes = make_frame(length, seed);
    std::fill_n(bytes.begin(), 6, std::byte{0xFF});
    bytes[6] = std::byte{2};
    bytes[12] = std::byte{0x88};
    bytes[13] = std::byte{0xB5};  // for local experiments
    return bytes;
  }
  void send(const Bytes& bytes) {
    ASSERT_EQ(::send(host_.get(), bytes.data(), bytes.size(), 0), static_cast<ssize_t>(bytes.size()));
  }
  /// The next frame of ours that the host sees coming in.
  Bytes from_guest() {
    Bytes bytes;
    net_->serve_until([&] {
      bytes.resize(70'000);
      sockaddr_ll source{};
      socklen_t length = sizeof source;
      const ssize_t got =
          ::recvfrom(host_.get(), bytes.data(), bytes.size(), 0, reinterpret_cast<sockaddr*>(&source), &length);
      if (got < 0 || source.sll_pkttype == PACKET_OUTGOING || bytes[12] != std::byte{0x88}) return false;
      bytes.resize(static_cast<std::size_t>(got));
      return true;
    });
    return bytes;
  }
  /// The next frame of ours that the guest gets; IPv6 of the host announces itself, too.
  Bytes to_guest() {
    while (received_.empty())
      for (Packet& packet : net_->receive_at_least_one())
        if (packet.frame.at(12) == std::byte{0x88}) received_.push_back(std::move(packet.frame));
    Bytes next = std::move(received_.front());
    received_.pop_front();
    return next;
  }

  TapNamespace space_;
  OwnedFd host_;
  std::deque<Bytes> received_;
  CallbackOperation host_ready_{[](int, bool) {}};  // makes the loop look again
  std::optional<FakeNetwork> net_;
};

TEST_F(NetDeviceOnTap, FramesPassBothWays) {
  net_->post(120, 1536);
  space_.set_mtu("tap0", 9000);
  for (const std::size_t size : {60U, 1514U, 4000U, 9014U}) {
    net_->transmit({{}, frame(size, 1)}, 700);
    EXPECT_EQ(from_guest(), frame(size, 1));
    send(frame(size, 2));
    EXPECT_EQ(to_guest(), frame(size, 2));
  }
}

TEST_F(NetDeviceOnTap, AFrameTooLongForItsBufferIsDroppedWhole) {
  net_->host->reset();
  net_->start();
  space_.set_mtu("tap0", 9000);
  net_->post(1, 1526);  // one read, with less room than the frame needs
  net_->transmit({{}, frame(60, 1)});
  (void)from_guest();
  send(frame(4000, 1));
  send(frame(1514, 2));
  EXPECT_EQ(to_guest(), frame(1514, 2));
  EXPECT_GE(net_->metrics.rx_fails.value(), 1u);
}

TEST_F(NetDeviceOnTap, ABurstArrivesWholeAndInOrder) {
  net_->post(256, 1536);
  constexpr unsigned kFrames = 300;  // of the 500 that a TAP holds
  for (unsigned i = 0; i < kFrames; ++i) send(frame(100 + i, i));
  for (unsigned i = 0; i < kFrames; ++i) ASSERT_EQ(to_guest(), frame(100 + i, i));
}

TEST_F(NetDeviceOnTap, AHeaderThatPassesOurCheckPassesTheKernels) {
  Bytes bytes = frame(3000, 1);
  const std::uint8_t ip[] = {0x08, 0x00, 0x45, 0, 0x0B, 0xAA, 0, 0, 0x40, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2};
  std::memcpy(&bytes[12], ip, sizeof ip);
  bytes[46] = std::byte{0x50};  // 20 bytes of TCP header
  net_->transmit({{.flags = net_abi::kNeedsCsum,
                   .gso_type = net_abi::kGsoTcp4,
                   .hdr_len = 54,
                   .gso_size = 1448,
                   .csum_start = 34,
                   .csum_offset = 16},
                  bytes});
  net_->wait_transmitted(1);
  EXPECT_EQ(net_->metrics.tx_packets_count.value(), 1u);
  EXPECT_EQ(net_->metrics.tx_fails.value(), 0u);
}

TEST_F(NetDeviceOnTap, OneThatIsDownRefusesFramesUntilItIsUpAgain) {
  space_.set_up("tap0", false);
  net_->transmit({{}, frame(60, 1)});
  net_->wait_transmitted(1);
  EXPECT_EQ(net_->metrics.tx_fails.value(), 1u);
  space_.set_up("tap0", true);
  net_->transmit({{}, frame(60, 2)});
  EXPECT_EQ(from_guest(), frame(60, 2));
}

TEST_F(NetDeviceOnTap, OneThatIsDeletedTakesTheLinkDownAndTheMachineGoesOn) {
  net_->post(60, 1536);
  net_->transmit({{}, frame(60, 1)});
  (void)from_guest();  // reads wait
  space_.remove("tap0");
  net_->serve_until([&] { return net_->metrics.tap_gone_count.value() == 1; });
  EXPECT_EQ(net_->host->config_changes, 1);
  for (unsigned i = 0; i < 10; ++i) net_->transmit({{}, frame(60, i)});
  net_->serve_until([&] { return net_->metrics.tx_fails.value() == 10; });
  // Tried again after a pause, and only then.
  net_->serve_until([&] { return net_->metrics.rx_fails.value() >= 2; });
  EXPECT_EQ(net_->metrics.tap_gone_count.value(), 1u);
  net_->host->reset();
  net_->start();
}

}  // namespace
}  // namespace mayfly::testing
