#pragma once

#include "virtio/mmds/stream_end_state.h"
#include "virtio/rate_limiter_state.h"

#include <cstdint>
#include <optional>
#include <vector>

namespace mayfly {

struct NetDeviceState {
  static constexpr std::uint16_t kQueueSize = 256;  ///< Entries of each queue.
  std::uint64_t features = 0;                       ///< As the driver has accepted them.
  std::vector<std::uint16_t> receive_heads{};       ///< Chains of the receive queue that were taken and are not used.
  RateLimiterState receive_limiter{};
  RateLimiterState transmit_limiter{};
  std::optional<bool> link_up{};     ///< As the driver was told it last; nullopt: of a file that does not say.
  std::vector<StreamEnd> streams{};  ///< Connections of channels, which end here.
  friend bool operator==(const NetDeviceState&, const NetDeviceState&) = default;
};

}  // namespace mayfly
