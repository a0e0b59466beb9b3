#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

namespace mayfly {

/// Bytes on their way to the guest, the oldest first.
struct I8042Queue {
  static constexpr std::size_t kCapacity = 16;
  std::uint8_t count = 0;
  std::array<std::uint8_t, kCapacity> bytes{};  ///< Zero beyond `count`.
  friend bool operator==(const I8042Queue&, const I8042Queue&) = default;
};

struct I8042State {
  std::uint8_t command_byte = 0;         ///< CTR, byte 0 of the controller's memory.
  std::uint8_t output_port = 0;          ///< Port P2: reset line, A20 and so on.
  std::uint8_t awaited_command = 0;      ///< The controller command that the next data byte belongs to; 0: none.
  std::uint8_t awaited_key_command = 0;  ///< The keyboard command that the next data byte belongs to; 0: none.
  bool scanning = true;                  ///< The keyboard reports keys.
  bool last_was_command = false;         ///< The last write was to the command port.
  std::uint8_t last_read = 0;            ///< What the data port shows while there is nothing new.
  I8042Queue answers;                    ///< Of the controller; they go first.
  I8042Queue keys;                       ///< Of the keyboard; they wait while its clock is held.
  friend bool operator==(const I8042State&, const I8042State&) = default;
};

}  // namespace mayfly
