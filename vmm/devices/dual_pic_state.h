#pragma once

#include "vmm/devices/pic_chip_state.h"

#include <array>

namespace mayfly {

struct DualPicState {
  std::array<PicState, 2> chips;  ///< Master, slave.
  friend bool operator==(const DualPicState&, const DualPicState&) = default;
};

}  // namespace mayfly
