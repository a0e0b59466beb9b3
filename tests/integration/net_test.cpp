// The bare-metal `net` guest on real TAPs, by the API. The whole test process moves to a network namespace of its own.

#include "tests/integration/kvm_required.h"
#include "tests/support/monitor.h"
#include "tests/support/tap_network.h"

#include <algorithm>
#include <csignal>
#include <random>

namespace mayfly::testing {
namespace {

constexpr std::array<std::uint8_t, 6> kTapGuestMac{0x06, 0, 0, 0, 0, 0x01};
constexpr std::array<std::uint8_t, 6> kOurMac{0x06, 0, 0, 0, 0, 0x02};

/// A frame to the guest, of `size` bytes in all; the protocol is one that nobody else takes.
Frame frame_of(std::size_t size, unsigned seed) {
  Frame frame(size);
  std::ranges::copy(kTapGuestMac, frame.begin());
  std::ranges::copy(kOurMac, frame.begin() + 6);
  frame[12] = 0x88;
  frame[13] = 0xB5;  // IEEE 802: local experimental
  std::mt19937 random{seed};
  for (std::size_t i = 14; i < size; ++i) frame[i] = static_cast<std::uint8_t>(random());
  return frame;
}

Frame swapped(Frame frame) {
  for (std::size_t i = 0; i < 6; ++i) std::swap(frame[i], frame[6 + i]);
  return frame;
}

class NetTest : public KvmTest {
 protected:
  void SetUp() override {
    KvmTest::SetUp();
    if (IsSkipped()) return;
    if (const auto why = enter_fresh_network()) GTEST_SKIP() << *why;
  }
  static HttpAnswer put_interface(Monitor& monitor, const std::string& tap, const std::string& more = "") {
    HttpAnswer answer =
        monitor.put("/network-interfaces/eth0", R"({"iface_id": "eth0", "guest_mac": "06:00:00:00:00:01", )"
                                                R"("host_dev_name": ")" +
                                                    tap + "\"" + more + "}");
    if (answer.status == 204) await_running(tap);
    return answer;
  }
  static void boot(Monitor& monitor, const std::string& arguments = "") {
    monitor.boot("net", "console=ttyS0 mac=0x060000000001 " + arguments);
    monitor.console_until("GUEST READY");
  }
  static void save(Monitor& monitor, const ScratchDirectory& scratch) {
    ASSERT_EQ(monitor.patch("/vm", R"({"state": "Paused"})").status, 204);
    const HttpAnswer taken =
        monitor.put("/snapshot/create", R"({"snapshot_path": ")" + scratch.file("state") + R"(", "mem_file_path": ")" +
                                            scratch.file("memory") + "\"}");
    ASSERT_EQ(taken.status, 204) << taken.body;
  }
  /// What save() left.
  static void load_on_tap1(Monitor& monitor, const ScratchDirectory& scratch, const std::string& more = "") {
    const HttpAnswer loaded =
        monitor.put("/snapshot/load", R"({"snapshot_path": ")" + scratch.file("state") +
                                          R"(", "mem_backend": {"backend_type": "File", "backend_path": ")" +
                                          scratch.file("memory") +
                                          R"("}, "network_overrides": [{"iface_id": "eth0", "host_dev_name": "tap1"}])"
                                          R"(, "resume_vm": true)" +
                                          more + "}");
    ASSERT_EQ(loaded.status, 204) << loaded.body;
    await_running("tap1");
  }
};

TEST_F(NetTest, FramesOfEverySizeComeBack) {
  TapInterface tap{"tap0", 65'521};
  Monitor monitor;
  const HttpAnswer answer = put_interface(monitor, "tap0", R"(, "mtu": 65521)");
  ASSERT_EQ(answer.status, 204) << answer.body;
  boot(monitor, "mtu=65521");
  unsigned seed = 0;
  for (const std::size_t size : std::initializer_list<std::size_t>{60, 61, 64, 100, 1000, 1514, 4083, 4084, 4085, 9000,
                                                                   20'000, 40'000, 65'535}) {
    const Frame frame = frame_of(size, ++seed);
    tap.send(frame);
    ASSERT_EQ(tap.receive(), swapped(frame)) << size;
  }
}

TEST_F(NetTest, FramesOfEverySizeComeBackWithoutMergeableBuffers) {
  TapInterface tap{"tap0", 65'521};
  Monitor monitor;
  ASSERT_EQ(put_interface(monitor, "tap0").status, 204);
  boot(monitor, "mergeable=0");
  unsigned seed = 0;
  for (const std::size_t size : std::initializer_list<std::size_t>{60, 1514, 9000, 65'535}) {
    const Frame frame = frame_of(size, ++seed);
    tap.send(frame);
    ASSERT_EQ(tap.receive(), swapped(frame)) << size;
  }
}

TEST_F(NetTest, ManyFramesComeBackInTheirOrder) {
  TapInterface tap{"tap0"};
  Monitor monitor;
  ASSERT_EQ(put_interface(monitor, "tap0").status, 204);
  boot(monitor);
  std::mt19937 random{7};
  for (unsigned round = 0; round < 100; ++round) {
    std::vector<Frame> sent;
    for (unsigned i = 0; i < 40; ++i) {
      sent.push_back(frame_of(60 + random() % 1400, round * 100 + i));
      tap.send(sent.back());
    }
    for (const Frame& frame : sent) ASSERT_EQ(tap.receive(), swapped(frame)) << round;
  }
}

TEST_F(NetTest, AMachineThatGoesBackHoldsItsBuffersAgain) {
  const ScratchDirectory scratch;
  {
    TapInterface tap{"tap0"};
    Monitor first;
    ASSERT_EQ(put_interface(first, "tap0").status, 204);
    boot(first);
    tap.send(frame_of(1000, 1));  // so that some of its buffers are used, and others held
    ASSERT_EQ(tap.receive(), swapped(frame_of(1000, 1)));
    save(first, scratch);
  }
  TapInterface tap{"tap1"};
  Monitor monitor;
  load_on_tap1(monitor, scratch, R"(, "revertible": true)");
  for (unsigned round = 0; round < 30; ++round) {
    for (unsigned i = 0; i < 5; ++i) {
      const Frame frame = frame_of(60 + 250 * i, round * 10 + i);
      tap.send(frame);
      ASSERT_EQ(tap.receive(), swapped(frame)) << round;
    }
    const HttpAnswer reverted = monitor.put("/snapshot/revert", R"({"resume_vm": true})");
    ASSERT_EQ(reverted.status, 204) << reverted.body;
  }
}

TEST_F(NetTest, ACloneOfAMachineWithoutATapIsGivenOne) {
  const ScratchDirectory scratch;
  {
    Monitor first;
    ASSERT_EQ(first.put("/network-interfaces/eth0", R"({"iface_id": "eth0", "guest_mac": "06:00:00:00:00:01"})").status,
              204);
    boot(first);
    save(first, scratch);
  }
  TapInterface tap{"tap1"};
  Monitor monitor;
  load_on_tap1(monitor, scratch);
  tap.send(frame_of(1000, 1));
  EXPECT_EQ(tap.receive(), swapped(frame_of(1000, 1)));
}

/// From below, which holds however busy the host is; exactly in tests/unit/vmm/io/token_bucket_test.cpp.
TEST_F(NetTest, LimitsHoldBothWays) {
  constexpr double kRate = 1'000'000;  // bytes a second
  constexpr std::size_t kFrames = 250;
  constexpr std::size_t kSize = 1000;
  for (const std::string way : {"rx", "tx"}) {
    TapInterface tap{way + "0"};  // a name of its own: an ended monitor's ring lets go of its TAP a little later
    Monitor monitor;
    const HttpAnswer answer = put_interface(
        monitor, tap.name(), ", \"" + way + R"(_rate_limiter": {"bandwidth": {"size": 50000, "refill_time": 50}})");
    ASSERT_EQ(answer.status, 204) << answer.body;
    boot(monitor);
    const double begin = now_us();
    for (unsigned i = 0; i < kFrames; ++i) tap.send(frame_of(kSize, i));
    for (unsigned i = 0; i < kFrames; ++i) ASSERT_EQ(tap.receive(), swapped(frame_of(kSize, i))) << way << i;
    const double seconds = (now_us() - begin) / 1e6;
    // What the bucket starts with goes at once, and received frames are paid for once they are there.
    const double due = (kFrames * kSize - 50'000) / kRate;
    EXPECT_GT(seconds, due * 0.8) << way;
  }
}

TEST_F(NetTest, ARestoredInterfaceGoesOnOnAnotherTap) {
  const ScratchDirectory scratch;
  const std::string state = scratch.file("state");
  const std::string memory = scratch.file("memory");
  const auto echo = [](TapInterface& tap, unsigned from, unsigned to) {
    for (unsigned i = from; i < to; ++i) {
      const Frame frame = frame_of(60 + 7 * i, i);
      tap.send(frame);
      ASSERT_EQ(tap.receive(), swapped(frame)) << i;
    }
  };
  TapInterface first{"tap0"};
  {
    Monitor monitor;
    ASSERT_EQ(put_interface(monitor, first.name()).status, 204);
    boot(monitor);
    echo(first, 0, 100);
    ASSERT_EQ(monitor.patch("/vm", R"({"state": "Paused"})").status, 204);
    const HttpAnswer taken =
        monitor.put("/snapshot/create", R"({"snapshot_path": ")" + state + R"(", "mem_file_path": ")" + memory + "\"}");
    ASSERT_EQ(taken.status, 204) << taken.body;
    // The machine itself goes on, too.
    ASSERT_EQ(monitor.patch("/vm", R"({"state": "Resumed"})").status, 204);
    echo(first, 100, 130);
  }
  for (const char* name : {"tap1", "tap2"}) {
    TapInterface tap{name};
    Monitor clone;
    const HttpAnswer loaded = clone.put(
        "/snapshot/load", R"({"snapshot_path": ")" + state + R"(", "mem_file_path": ")" + memory +
                              R"(", "resume_vm": true, "network_overrides": [{"iface_id": "eth0", "host_dev_name": ")" +
                              name + "\"}]}");
    ASSERT_EQ(loaded.status, 204) << loaded.body;
    await_running(name);
    echo(tap, 100, 200);
  }
}

// The guest sends back whatever comes, so a request that is made here is the guest's, and the answer comes out of it
// again.

constexpr std::array<std::uint8_t, 6> kServiceMac{0x06, 0x01, 0x23, 0x45, 0x67, 0x01};
constexpr std::array<std::uint8_t, 4> kServiceAddress{169, 254, 169, 254};
constexpr std::array<std::uint8_t, 4> kGuestAddress{10, 9, 0, 2};

template <typename... Parts>
Frame joined(const Parts&... parts) {
  Frame frame;
  (frame.insert(frame.end(), parts.begin(), parts.end()), ...);
  return frame;
}
/// ARP of Ethernet and IPv4.
constexpr std::array<std::uint8_t, 9> kArpBegin{0x08, 0x06, 0, 1, 0x08, 0x00, 6, 4, 0};
constexpr std::array<std::uint8_t, 1> kRequest{1};
constexpr std::array<std::uint8_t, 1> kReply{2};
/// The guest's question who has `address`, as it is sent to the guest.
Frame arp_request(std::array<std::uint8_t, 4> address) {
  Frame frame = joined(kTapGuestMac, kOurMac, kArpBegin, kRequest, kTapGuestMac, kGuestAddress,
                       std::array<std::uint8_t, 6>{}, address);
  frame.resize(60);
  return frame;
}
void expect_metadata_service(TapInterface& tap) {
  tap.send(arp_request(kServiceAddress));
  // The service's answer, which the guest has sent back; its question reached nobody.
  EXPECT_EQ(tap.receive(), joined(kServiceMac, kTapGuestMac, kArpBegin, kReply, kServiceMac, kServiceAddress,
                                  kTapGuestMac, kGuestAddress));
  const Frame other = arp_request({10, 9, 0, 1});
  tap.send(other);
  EXPECT_EQ(tap.receive(), swapped(other));
}

TEST_F(NetTest, TheMetadataServiceAnswersInTheNetworksPlaceAlsoInAClone) {
  const ScratchDirectory scratch;
  const std::string files =
      R"("snapshot_path": ")" + scratch.file("state") + R"(", "mem_file_path": ")" + scratch.file("memory") + "\"";
  constexpr const char* kConfig = R"({"network_interfaces": ["eth0"], "version": "V2"})";
  {
    TapInterface tap{"tap0"};
    Monitor monitor;
    const HttpAnswer refused = monitor.put("/mmds/config", kConfig);
    EXPECT_EQ(refused.status, 400);
    EXPECT_NE(refused.body.find("there is no network interface eth0"), std::string::npos) << refused.body;
    ASSERT_EQ(put_interface(monitor, tap.name()).status, 204);
    ASSERT_EQ(monitor.put("/mmds/config", kConfig).status, 204);
    boot(monitor);
    expect_metadata_service(tap);
    EXPECT_EQ(monitor.put("/mmds/config", kConfig).status, 400);  // it has started
    EXPECT_EQ(monitor.put("/mmds", R"({"name": "parent"})").status, 204);
    EXPECT_EQ(monitor.patch("/mmds", R"({"more": 1})").status, 204);
    EXPECT_EQ(monitor.get("/mmds").body, R"({"more":1,"name":"parent"})");
    ASSERT_EQ(monitor.patch("/vm", R"({"state": "Paused"})").status, 204);
    ASSERT_EQ(monitor.put("/snapshot/create", "{" + files + "}").status, 204);
  }
  TapInterface tap{"tap1"};
  Monitor clone;
  ASSERT_EQ(clone.put("/mmds", R"({"name": "clone"})").status, 204);
  const HttpAnswer loaded = clone.put(
      "/snapshot/load",
      "{" + files + R"(, "resume_vm": true, "network_overrides": [{"iface_id": "eth0", "host_dev_name": "tap1"}]})");
  ASSERT_EQ(loaded.status, 204) << loaded.body;
  await_running("tap1");
  expect_metadata_service(tap);
  EXPECT_EQ(clone.get("/mmds").body, R"({"name":"clone"})");
  const HttpAnswer config = clone.get("/vm/config");
  EXPECT_NE(config.body.find(R"("mmds-config":{"version":"V2","network_interfaces":["eth0"])"), std::string::npos)
      << config.body;
}

TEST_F(NetTest, ATapOfManyQueuesServesByOne) {
  TapInterface tap{"tap0", 1500, TapInterface::kEveryProtocol, TapInterface::Queues::Many};
  Monitor monitor;
  const HttpAnswer answer = put_interface(monitor, "tap0");
  ASSERT_EQ(answer.status, 204) << answer.body;
  boot(monitor);
  for (unsigned i = 0; i < 64; ++i) {
    const Frame frame = frame_of(60 + i, i);
    tap.send(frame);
    ASSERT_EQ(tap.receive(), swapped(frame)) << i;
  }
}

TEST_F(NetTest, BadInterfacesAreRefusedEachByItsOwnSentence) {
  TapInterface tap{"tap0"};
  TapInterface other{"tap1"};
  Monitor holder;
  ASSERT_EQ(put_interface(holder, "tap1").status, 204);
  Monitor monitor;
  const auto refusal = [&](const HttpAnswer& answer, const std::string& names) {
    EXPECT_EQ(answer.status, 400);
    EXPECT_NE(answer.body.find(names), std::string::npos) << answer.body;
  };
  refusal(put_interface(monitor, "nosuchtap"), "nosuchtap");
  refusal(put_interface(monitor, "lo"), "lo");
  refusal(put_interface(monitor, "tap1"), "tap1");
  refusal(put_interface(monitor, "a-name-that-is-too-long"), "a-name-that-is-too-long");
  ASSERT_EQ(put_interface(monitor, "tap0").status, 204) << "the API goes on answering";
  refusal(monitor.put("/network-interfaces/eth1", R"({"iface_id": "eth1", "host_dev_name": "tap0"})"), "eth0");
}

TEST_F(NetTest, ATapThatGoesAwayStopsNothingElse) {
  TapInterface tap{"tap0"};
  Monitor monitor;
  ASSERT_EQ(put_interface(monitor, "tap0").status, 204);
  boot(monitor);
  tap.send(frame_of(100, 1));
  (void)tap.receive();
  tap.remove();
  EXPECT_EQ(monitor.get("/").status, 200);
  EXPECT_EQ(monitor.patch("/vm", R"({"state": "Paused"})").status, 204);
  EXPECT_EQ(monitor.patch("/vm", R"({"state": "Resumed"})").status, 204);
  monitor.signal(SIGTERM);
  EXPECT_EQ(monitor.wait(), 143);
}

TEST_F(NetTest, ATapThatIsDownAndUpAgainWorksAgain) {
  TapInterface tap{"tap0"};
  Monitor monitor;
  ASSERT_EQ(put_interface(monitor, "tap0").status, 204);
  boot(monitor);
  tap.send(frame_of(100, 1));
  (void)tap.receive();
  tap.set_up(false);
  tap.set_up(true);
  const Frame frame = frame_of(200, 2);
  tap.send(frame);
  EXPECT_EQ(tap.receive(), swapped(frame));
}

}  // namespace
}  // namespace mayfly::testing
