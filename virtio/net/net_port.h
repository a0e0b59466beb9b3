#pragma once

#include "virtio/device.h"
#include "virtio/mmds/frame_responder.h"
#include "virtio/net/net_header.h"
#include "virtio/net/tap.h"
#include "vmm/base/log.h"
#include "vmm/base/metrics.h"
#include "vmm/io/event_loop.h"

#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

/// What the two directions of a network interface share: its TAP in the ring, what was negotiated, and the way to the
/// device and its transport.
namespace mayfly {

/// Queues of an interface (virtio 1.2, 5.1.2): the first pair, and no control queue.
inline constexpr unsigned kNetReceiveQueue = 0;
inline constexpr unsigned kNetTransmitQueue = 1;

/// Everything here is under the device's lock but lock() itself and what is constant.
class NetPort {
 public:
  NetPort(EventLoop& ring, NetMetrics& counters, Log& messages, std::string id, Tap host_end,
          std::unique_ptr<FrameResponder> in_its_place)
      : loop(ring),
        metrics(counters),
        log(messages),
        name(std::move(id)),
        tap(std::move(host_end)),
        responder(std::move(in_its_place)) {}
  NetPort(const NetPort&) = delete;
  NetPort& operator=(const NetPort&) = delete;

  [[nodiscard]] virtual std::unique_lock<std::mutex> lock() noexcept = 0;
  /// See DeviceHost.
  virtual void used(unsigned queue) noexcept = 0;
  /// The driver broke the protocol: stops both directions until the reset.
  virtual void broken(std::string_view what) noexcept = 0;
  /// While draining: one direction has nothing in flight any more.
  virtual void direction_drained() noexcept = 0;
  /// Whether the TAP still serves frames: the link's state.
  virtual void set_link(bool up) noexcept = 0;
  /// The responder was given frames.
  virtual void responder_heard() noexcept = 0;

  [[nodiscard]] bool has_feature(net_abi::Feature feature) const noexcept {
    return (features & net_abi::bit(feature)) != 0;
  }

  // Constant
  EventLoop& loop;
  NetMetrics& metrics;
  Log& log;
  const std::string name;  ///< "network interface eth0"
  Tap tap;
  RegisteredFile file;
  const std::unique_ptr<FrameResponder> responder;  ///< Answers some frames in the network's place; may be null.

  LogRate log_rate{};
  std::uint64_t features = 0;  ///< As the driver has accepted them.
  bool running = false;        ///< Chains may be taken: active, not draining, not broken.
  bool draining = false;
  std::optional<std::uint64_t> still_since{};  ///< While the machine is paused: the responder's time stands still.

 protected:
  ~NetPort() = default;
};

}  // namespace mayfly
