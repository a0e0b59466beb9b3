#pragma once

#include "virtio/device.h"
#include "virtio/net/net_device_state.h"
#include "virtio/net/net_receiver.h"
#include "virtio/net/net_transmitter.h"
#include "vmm/io/token_bucket.h"

#include <array>
#include <cstdint>
#include <memory>
#include <string_view>

/// A network interface (virtio 1.2, 5.1) on a TAP.
///
///   auto tap = Tap::open(config.host_dev_name);
///   auto device = NetDevice::create(config, std::move(*tap), nullptr, loop, metrics.net, log);
///   auto transport = MmioTransport::create(**device, ...);
///
/// One pair of queues. Checksums and segmentation are the host's work in both directions as far as the driver takes
/// part, so that 64 KiB cost one crossing: what a driver accepts at its start is set on the TAP then and stays. There
/// is no control queue: it would only allow changing that later, which drivers do for XDP alone.
///
/// Without a TAP (Tap::none()) there is only the responder: what it does not claim is dropped and counted.
///
/// With a responder, frames that it claims go to it and never to the TAP, and frames of its own reach the driver as
/// those from the TAP do. Rate limiters are for the network: frames of the responder do not count.
namespace mayfly {

class NetDevice final : public VirtioDevice {
 public:
  /// Entries of each queue.
  static constexpr std::uint16_t kQueueSize = NetDeviceState::kQueueSize;

  /// Loop's thread. Destroyed on it, too, and not before EventLoop::close() where it has been in use. Errors: the host
  /// gives no descriptors, or the ring no place for the TAP.
  [[nodiscard]] static Result<std::unique_ptr<NetDevice>> create(const NetworkInterfaceConfig& config, Tap tap,
                                                                 std::unique_ptr<FrameResponder> responder,
                                                                 EventLoop& loop, NetMetrics& metrics, Log& log);
  ~NetDevice() override = default;

  /// The address that the guest is told.
  [[nodiscard]] const MacAddress& mac() const noexcept { return mac_; }

  // VirtioDevice
  void connect(DeviceHost& host) noexcept override;
  [[nodiscard]] std::uint32_t type() const noexcept override;
  [[nodiscard]] std::string_view name() const noexcept override { return context_.name; }
  [[nodiscard]] std::uint64_t features() const noexcept override { return offered_; }
  [[nodiscard]] FeatureText feature_text(unsigned feature) const noexcept override;
  [[nodiscard]] std::span<const std::uint16_t> queue_sizes() const noexcept override { return kQueueSizes; }
  void read_config(std::uint64_t offset, std::span<std::byte> data) const noexcept override;
  void prepare(std::uint64_t features) noexcept override;
  void activate(std::uint64_t features, std::span<VirtQueue> queues) noexcept override;
  void reset() noexcept override;
  void on_kick(unsigned queue) noexcept override;
  void drain() noexcept override;
  void undrain() noexcept override;

  /// PATCH: only what is present changes. Loop's thread, without the lock.
  void update_rate_limiters(const NetworkInterfacePatch& patch);

  /// The machine is paused or resumed: timeouts of its guest do not advance in between. Loop's thread, without the lock.
  void freeze();
  void thaw();

  /// Drained, or never activated. Loop's thread, without the lock.
  [[nodiscard]] NetDeviceState state();
  /// Takes a saved device over, as made or reset; before the transport's restore(), which activates it.
  void restore(const NetDeviceState& state);

 private:
  static constexpr std::array<std::uint16_t, 2> kQueueSizes = {kQueueSize, kQueueSize};

  NetDevice(const NetworkInterfaceConfig& config, Tap tap, std::unique_ptr<FrameResponder> responder, EventLoop& loop,
            NetMetrics& metrics, Log& log);

  /// As has_lock(), of both directions as well: it is one lock.
  void parts_have_lock() const noexcept
      ASSERT_CAPABILITY(mutex(), context_.lock(), receiver_.lock(), transmitter_.lock()) {}

  NetContext context_;
  const MacAddress mac_;
  const std::optional<std::uint16_t> mtu_;
  const std::uint64_t offered_;
  bool link_news_ GUARDED_BY(mutex()) =
      false;                     // restored to a driver that may know the link as another; the loop tells it
  TokenBucket offload_changes_;  // prepare()'s
  NetReceiver receiver_;
  NetTransmitter transmitter_;
};

}  // namespace mayfly
