#pragma once

#include "virtio/queue_state.h"

#include <cstdint>
#include <vector>

namespace mayfly {

struct MmioTransportState {
  std::uint32_t device_features_select = 0;
  std::uint32_t driver_features_select = 0;
  std::uint64_t driver_features = 0;
  std::uint32_t queue_select = 0;
  std::uint32_t status = 0;
  std::uint32_t interrupt_status = 0;
  std::uint32_t config_generation = 0;
  std::vector<QueueState> queues{};
  friend bool operator==(const MmioTransportState&, const MmioTransportState&) = default;
};

}  // namespace mayfly
