#pragma once

#include <cstdint>

namespace mayfly {

struct AcpiSleepPortsState {
  std::uint8_t sleep_type = 0;
  friend bool operator==(const AcpiSleepPortsState&, const AcpiSleepPortsState&) = default;
};

}  // namespace mayfly
