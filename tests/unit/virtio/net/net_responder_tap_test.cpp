// An interface that answers some frames itself, on a real TAP behind which a host has the service's address, too.
#include "tests/support/tap_network.h"
#include "tests/unit/virtio/mmds/fake_guest.h"
#include "tests/unit/virtio/net/fake_network.h"
#include "tests/unit/virtio/net/tap_namespace.h"
#include "virtio/mmds/network_stack.h"

#include <arpa/inet.h>
#include <netinet/in.h>

#include <array>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include <gtest/gtest.h>

namespace mayfly::testing {
namespace {

constexpr std::array<std::uint8_t, 4> kHostIp = {172, 16, 0, 1};

Bytes tap_bytes(const Frame& frame) {
  const auto bytes = std::as_bytes(std::span{frame});
  return {bytes.begin(), bytes.end()};
}
Frame tap_frame(const Bytes& bytes) {
  Frame frame;
  for (const std::byte byte : bytes) frame.push_back(std::to_integer<std::uint8_t>(byte));
  return frame;
}

class NetResponderOnTap : public ::testing::Test {
 protected:
  void SetUp() override {
    if (const std::string missing = space_.enter(); !missing.empty()) GTEST_SKIP() << missing;
    space_.add_tap("tap0");
    give_address("tap0", kHostIp);
    give_address("tap0:1", kServiceIp);
  }
  void TearDown() override { net_.reset(); }
  static void give_address(const char* name, const std::array<std::uint8_t, 4>& address) {
    const OwnedFd fd{::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0)};
    ifreq request{};
    std::strcpy(request.ifr_name, name);
    sockaddr_in where{.sin_family = AF_INET, .sin_port = 0, .sin_addr = {}, .sin_zero = {}};
    std::memcpy(&where.sin_addr, address.data(), address.size());
    std::memcpy(&request.ifr_addr, &where, sizeof where);
    ASSERT_EQ(::ioctl(fd.get(), SIOCSIFADDR, &request), 0) << name;
  }
  void start(std::unique_ptr<FrameResponder> responder) {
    auto tap = Tap::open("tap0");
    ASSERT_TRUE(tap) << tap.error().message;
    net_.emplace(FakeNetwork::Options{.tap = &*tap, .responder = std::move(responder)});
    net_->start();
    await_running("tap0");
    net_->post(200, 1536);
  }
  /// How many of the requests with so many tags of `type` before them the host has answered.
  unsigned answered_by_host(unsigned tags, std::uint16_t type) {
    Frame request = arp_frame();
    for (unsigned i = 0; i < tags; ++i) request = tagged(std::move(request), type);
    net_->transmit({{}, tap_bytes(request)});
    net_->transmit({{}, tap_bytes(arp_frame(kHostIp))});  // the host answers in order
    unsigned answers = 0;
    for (;;) {
      for (const Packet& packet : net_->receive_at_least_one()) {
        const Frame frame = tap_frame(packet.frame);
        if (frame.size() < 42 || get16(frame, 12) != 0x0806 || get16(frame, 20) != 2) continue;
        if (std::equal(NetworkStack::kMac.begin(), NetworkStack::kMac.end(), frame.begin() + 22)) continue;
        if (std::equal(kHostIp.begin(), kHostIp.end(), frame.begin() + 28)) return answers;
        ++answers;
      }
    }
  }

  TapNamespace space_;
  std::optional<FakeNetwork> net_;
};

TEST_F(NetResponderOnTap, AHostTakesAnyNumberOfTagsOffThatNameNoVlan) {
  start(nullptr);
  for (const std::uint16_t type : {std::uint16_t{0x8100}, std::uint16_t{0x88A8}})
    for (unsigned tags = 0; tags <= 5; ++tags) EXPECT_EQ(answered_by_host(tags, type), 1U) << tags << " of " << type;
}

TEST_F(NetResponderOnTap, NoRequestForTheServiceReachesAHostHoweverItIsTagged) {
  MmdsMetrics metrics;
  MetadataStore store;
  const MetadataService service{
      {.network_interfaces = {"eth0"}}, store, {SessionTokens{SipKey{1}, 0}, 0x5EED}, metrics};
  start(std::make_unique<NetworkStack>(service, SipKey{2}, metrics));
  for (const std::uint16_t type : {std::uint16_t{0x8100}, std::uint16_t{0x88A8}})
    for (unsigned tags = 0; tags <= 5; ++tags) EXPECT_EQ(answered_by_host(tags, type), 0U) << tags << " of " << type;
  EXPECT_EQ(metrics.rx_count.value(), 6U);                   // 0, 1 and 2 tags: it answers itself
  EXPECT_EQ(net_->metrics.tx_malformed_frames.value(), 6U);  // 3, 4 and 5
  net_.reset();                                              // before the service
}

}  // namespace
}  // namespace mayfly::testing
