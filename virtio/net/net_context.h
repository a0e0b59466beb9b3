#pragma once

#include "virtio/device.h"
#include "virtio/mmds/frame_responder.h"
#include "virtio/net/net_header.h"
#include "virtio/net/tap.h"
#include "virtio/rate_limiter.h"
#include "vmm/base/log.h"
#include "vmm/base/metrics.h"
#include "vmm/io/event_loop.h"

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>

namespace mayfly {

/// Queues of an interface (virtio 1.2, 5.1.2): the first pair, and no control queue.
inline constexpr unsigned kNetReceiveQueue = 0;
inline constexpr unsigned kNetTransmitQueue = 1;

/// What the two directions of a network interface share: its TAP in the ring, what was negotiated, and the transport.
/// Everything here is under the device's lock, but what is constant.
struct NetContext {
  NetContext(EventLoop& loop_in, NetMetrics& metrics_in, Log& log_in, std::string name_in, Tap tap_in,
             std::unique_ptr<FrameResponder> responder_in);

  /// The device's lock.
  [[nodiscard]] Mutex& lock() const noexcept RETURN_CAPABILITY(host->mutex()) { return host->mutex(); }
  [[nodiscard]] bool has_feature(net_abi::Feature feature) const noexcept REQUIRES(lock()) {
    return (features & net_abi::bit(feature)) != 0;
  }
  /// Whether chains may be taken.
  [[nodiscard]] bool is_active() const noexcept REQUIRES(lock()) {
    return host->phase() == DevicePhase::Active && !offloads_refused;
  }
  [[nodiscard]] bool is_draining() const noexcept REQUIRES(lock()) { return host->phase() == DevicePhase::Draining; }
  /// Says so, where nothing is in flight any more.
  void end_drain() noexcept REQUIRES(lock());
  /// Whether the TAP still serves frames; the driver is told of a change.
  void set_link(bool up) noexcept REQUIRES(lock());
  /// A limiter of one direction; `retry` is called under the device's lock.
  [[nodiscard]] Result<std::unique_ptr<RateLimiter>> make_limiter(const std::optional<RateLimiterConfig>& limit,
                                                                  std::move_only_function<void()> retry);

  // Constant
  EventLoop& loop;
  NetMetrics& metrics;
  Log& log;
  const std::string name;  ///< "network interface eth0"
  Tap tap;
  RegisteredFile file;
  const std::unique_ptr<FrameResponder> responder;  ///< Answers some frames in the network's place; may be null.
  DeviceHost* host = nullptr;                       ///< From VirtioDevice::connect() on.

  LogRate log_rate{};
  std::uint64_t features GUARDED_BY(lock()) = 0;     ///< As the driver has accepted them.
  std::size_t in_flight GUARDED_BY(lock()) = 0;      ///< Operations of both directions in the ring.
  bool link_up GUARDED_BY(lock()) = true;            ///< As the driver reads it.
  bool offloads_refused GUARDED_BY(lock()) = false;  ///< To the driver that starts; the loop stops it.
  std::optional<std::uint64_t> still_since
      GUARDED_BY(lock()){};  ///< While the machine is paused: the guest's timeouts do not advance.
};

}  // namespace mayfly
