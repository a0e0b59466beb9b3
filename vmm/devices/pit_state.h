#pragma once

#include "vmm/devices/pit_channel_state.h"

#include <array>
#include <cstdint>

namespace mayfly {

struct PitState {
  std::array<PitChannelState, 3> channels;
  std::uint8_t speaker_control = 0;  ///< Port 0x61, the four bits that can be written.
  bool interrupt_awaited = false;    ///< Channel 0 will interrupt, in:
  std::uint64_t remaining_ns = 0;    ///< 0 also if the host is late with it.
  friend bool operator==(const PitState&, const PitState&) = default;
};

}  // namespace mayfly
