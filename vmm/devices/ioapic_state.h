#pragma once

#include <array>
#include <cstdint>

namespace mayfly {

struct IoapicState {
  static constexpr unsigned kPins = 24;
  std::uint8_t select = 0;                         ///< IOREGSEL
  std::uint32_t id = 0;                            ///< IOAPICID, the id in bits 24-27.
  std::array<std::uint64_t, kPins> redirection{};  ///< IOREDTBL
  std::uint32_t levels = 0;                        ///< Bit n: the line at pin n is asserted.
  friend bool operator==(const IoapicState&, const IoapicState&) = default;
};

}  // namespace mayfly
