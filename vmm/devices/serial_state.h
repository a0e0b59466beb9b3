#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

namespace mayfly {

inline constexpr std::size_t kSerialFifoSize = 16;

struct SerialState {
  std::uint8_t interrupt_enable = 0;  ///< IER
  std::uint8_t fifo_control = 0;      ///< FCR: the enable bit and the trigger level.
  std::uint8_t line_control = 0;      ///< LCR
  std::uint8_t modem_control = 0;     ///< MCR
  std::uint8_t line_errors = 0;       ///< LSR: the error bits.
  std::uint8_t modem_status = 0;      ///< MSR
  std::uint8_t scratch = 0;           ///< SCR
  std::uint8_t divisor_low = 12;      ///< DLL: 9600 baud, as firmware leaves it.
  std::uint8_t divisor_high = 0;      ///< DLM
  bool transmitter_event = false;     ///< The transmitter ran empty, and the guest has not been told so.
  std::uint8_t received_count = 0;
  std::array<std::uint8_t, kSerialFifoSize> received{};  ///< The oldest first; zero beyond `received_count`.
  friend bool operator==(const SerialState&, const SerialState&) = default;
};

}  // namespace mayfly
