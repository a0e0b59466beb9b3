// A saved interface in another monitor, on another host: device and transport together, as a load makes them.
#include "tests/support/run_until.h"
#include "tests/unit/virtio/net/fake_network.h"
#include "virtio/mmio_transport.h"

#include <linux/virtio_config.h>
#include <linux/virtio_mmio.h>
#include <sys/eventfd.h>

#include <memory>
#include <optional>
#include <string>
#include <utility>

#include <gtest/gtest.h>

namespace mayfly::testing {
namespace {

using net_abi::bit;

constexpr std::uint64_t kVersion1 = 1ULL << VIRTIO_F_VERSION_1;
constexpr std::uint32_t kRunning = 15;  // all of the driver's steps

class NetRestore : public ::testing::Test {
 protected:
  ~NetRestore() override { loop_->close(); }

  /// A fresh interface on a TAP of this kernel, or of one before Linux 6.2.
  void make(bool new_kernel = true) {
    int pair[2] = {};
    ASSERT_EQ(::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | (new_kernel ? 0 : SOCK_NONBLOCK), 0, pair), 0);
    wire_ = OwnedFd{pair[1]};
    device_ = NetDevice::create({.iface_id = "eth0", .host_dev_name = "tap0"},
                                Tap::adopt(OwnedFd{pair[0]}, "tap0", new_kernel), nullptr, *loop_, metrics_.net, log_)
                  .value();
    transport_ = MmioTransport::create(
                     *device_, {.memory = ram_.memory(), .service = service_, .log = log_, .metrics = metrics_.virtio})
                     .value();
  }
  /// An interface whose driver runs with `features`.
  MmioTransportState saved(std::uint64_t features = bit(net_abi::kStatus)) {
    MmioTransportState state{.driver_features = features | kVersion1, .status = kRunning, .config_generation = 7};
    for (FakeQueue* const queue : {&receive_, &transmit_}) {
      state.queues.push_back({.ready = true});
      queue->fill(state.queues.back());
    }
    return state;
  }
  /// As a load does it; then lets the ring go round until the kicks of the restore have been served.
  Status restore(const NetDeviceState& device, const MmioTransportState& transport) {
    device_->restore(device);
    if (auto restored = transport_->restore(transport); !restored) return restored;
    transport_->start();
    run_until(*loop_, [&] { return metrics_.virtio.kicks.value() >= 2; });
    loop_->wake();
    bool went = false;
    run_until(*loop_, [&] { return std::exchange(went, true); });
    return {};
  }
  std::uint32_t read(std::uint64_t offset) {
    std::uint32_t value = 0;
    transport_->read(offset, std::as_writable_bytes(std::span{&value, 1}));
    return value;
  }
  bool link_reads_up() {
    std::array<std::byte, 2> status{};
    transport_->read(VIRTIO_MMIO_CONFIG + offsetof(net_abi::Config, status), status);
    return status[0] == std::byte{net_abi::kLinkUp};
  }
  std::uint64_t interrupts() {
    eventfd_t count = 0;
    return ::eventfd_read(transport_->interrupt_fd(), &count) == 0 ? count : 0;
  }

  FakeMemory ram_;
  FakeQueue receive_{ram_, NetDevice::kQueueSize};
  FakeQueue transmit_{ram_, NetDevice::kQueueSize};
  Metrics metrics_;
  Log log_{"test"};
  std::unique_ptr<EventLoop> loop_ = EventLoop::create().value();
  VirtioService service_{*loop_};
  OwnedFd wire_;
  std::unique_ptr<NetDevice> device_;
  std::unique_ptr<MmioTransport> transport_;
};

// --- A device that was used since

TEST_F(NetRestore, AnInterfaceThatWasUsedHoldsTheBuffersOfTheSnapshotAgain) {
  make();
  receive_.offer({{ram_.room(2048), 2048, true}});
  const MmioTransportState transport = saved();
  ASSERT_TRUE(restore({.features = bit(net_abi::kStatus), .link_up = true}, transport));
  for (int i = 0; i < 3; ++i) {
    transport_->drain([] {});
    run_until(*loop_, [&] { return transport_->is_drained(); });
    const NetDeviceState used = device_->state();
    EXPECT_EQ(used.receive_heads.size(), 1U) << "the buffer is the interface's";
    transport_->forget_driver();
    EXPECT_TRUE(device_->state().receive_heads.empty());
    device_->restore({.features = bit(net_abi::kStatus), .link_up = true});
    ASSERT_TRUE(transport_->restore(transport));
    const std::uint64_t kicks = metrics_.virtio.kicks.value();
    run_until(*loop_, [&] { return metrics_.virtio.kicks.value() >= kicks + 2; });
  }
}

// --- The link

TEST_F(NetRestore, ADriverWhoseLinkWasDownIsToldThatItIsUp) {
  make();
  ASSERT_TRUE(restore({.features = bit(net_abi::kStatus), .link_up = false}, saved()));
  EXPECT_EQ(read(VIRTIO_MMIO_INTERRUPT_STATUS), 2U);
  EXPECT_EQ(read(VIRTIO_MMIO_CONFIG_GENERATION), 8U);
  EXPECT_EQ(interrupts(), 1U);
  EXPECT_TRUE(link_reads_up());
}

TEST_F(NetRestore, AFileThatDoesNotSayWhatTheLinkWasHasTheDriverLookOnce) {
  make();
  ASSERT_TRUE(restore({.features = bit(net_abi::kStatus), .link_up = std::nullopt}, saved()));
  EXPECT_EQ(read(VIRTIO_MMIO_INTERRUPT_STATUS), 2U);
  EXPECT_EQ(interrupts(), 1U);
  EXPECT_TRUE(link_reads_up());
}

TEST_F(NetRestore, ADriverWhoseLinkWasUpIsNotDisturbed) {
  make();
  ASSERT_TRUE(restore({.features = bit(net_abi::kStatus), .link_up = true}, saved()));
  EXPECT_EQ(read(VIRTIO_MMIO_INTERRUPT_STATUS), 0U);
  EXPECT_EQ(read(VIRTIO_MMIO_CONFIG_GENERATION), 7U);
  EXPECT_EQ(interrupts(), 0U);
  EXPECT_TRUE(link_reads_up());
}

TEST_F(NetRestore, ADriverThatDoesNotReadTheLinkIsNotDisturbed) {
  make();
  ASSERT_TRUE(restore({.features = 0, .link_up = false}, saved(0)));
  EXPECT_EQ(interrupts(), 0U);
}

TEST_F(NetRestore, WhatTheDriverKnowsOfTheLinkIsSaved) {
  FakeNetwork net;
  net.start();
  EXPECT_EQ(net.device->state().link_up, true);
  net.wire.reset();
  net.post(60, 1536);
  net.serve_until([&] { return net.metrics.tap_gone_count.value() == 1; });
  net.host->drain();
  EXPECT_EQ(net.device->state().link_up, false);
  make();
}

// --- Features

TEST_F(NetRestore, AFeatureThatThisHostLacksIsRefusedByItsName) {
  make(false);
  const std::uint64_t uso = bit(net_abi::kHostUso) | bit(net_abi::kStatus);
  const Status restored = restore({.features = uso, .link_up = true}, saved(uso));
  ASSERT_FALSE(restored);
  for (const char* part : {"network interface eth0", "VIRTIO_NET_F_HOST_USO", "Linux 6.2"})
    EXPECT_NE(restored.error().message.find(part), std::string::npos) << restored.error().message;
}

TEST_F(NetRestore, OneThatThisHostHasIsNot) {
  make();
  const std::uint64_t uso = bit(net_abi::kHostUso) | bit(net_abi::kStatus);
  EXPECT_TRUE(restore({.features = uso, .link_up = true}, saved(uso)));
}

}  // namespace
}  // namespace mayfly::testing
