#pragma once

#include "virtio/block/disk_image_state.h"
#include "virtio/rate_limiter_state.h"

#include <cstdint>

namespace mayfly {

/// A drive as a snapshot keeps it, beside its transport and queue.
struct BlockDeviceState {
  std::uint64_t features = 0;  ///< That the driver accepted; 0: none yet.
  RateLimiterState rate_limiter{};
  ImageIdentity image{};
  bool lost_writes = false;  ///< Writes to an image that was swapped out did not become stable; a flush will say so.
  friend bool operator==(const BlockDeviceState&, const BlockDeviceState&) = default;
};

}  // namespace mayfly
