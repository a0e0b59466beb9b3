#pragma once

#include "vmm/config/configuration.h"

#include <cstddef>
#include <cstdint>

namespace mayfly {

/// Of one interface.
inline constexpr std::size_t kMostStreamEnds = 16;

/// A connection of a channel, as a snapshot keeps it: enough to tell the guest that it is gone.
struct StreamEnd {
  MacAddress mac{};
  Ipv4Address address{};
  std::uint16_t guest_port = 0;
  std::uint16_t channel_port = 0;
  std::uint32_t sequence = 0;        ///< The next of ours,
  std::uint32_t acknowledgment = 0;  ///< and of the guest's.
  friend bool operator==(const StreamEnd&, const StreamEnd&) = default;
};

}  // namespace mayfly
