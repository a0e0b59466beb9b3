#pragma once

#include <cstdint>

namespace mayfly {

/// Modes of a counter (8254, "Mode Definitions").
enum class PitMode : std::uint8_t {
  TerminalCount = 0,
  OneShot = 1,
  RateGenerator = 2,
  SquareWave = 3,
  SoftwareStrobe = 4,
  HardwareStrobe = 5,
};

/// Which bytes of a count an access moves (bits RW of the control word).
enum class PitAccess : std::uint8_t { Low = 1, High = 2, LowThenHigh = 3 };

/// One counter, without any host time: `elapsed_ns` is how long it had counted.
struct PitChannelState {
  PitMode mode = PitMode::TerminalCount;
  PitAccess access = PitAccess::LowThenHigh;
  bool bcd = false;
  bool gate = true;
  std::uint16_t count_register = 0;  ///< As the guest wrote it; the counting element gets it when the mode says.
  bool count_written = false;        ///< Since the control word.
  bool null_count = true;            ///< The counting element has not got the count register's value yet.
  std::uint32_t cycle = 0;           ///< Ticks that the counting element started from, 1 to 65536; 0: none yet.
  bool counting = false;             ///< Not stopped by the gate, nor waiting for a count or a trigger.
  std::uint64_t elapsed_ns = 0;      ///< Counted since the start of the (first) cycle.
  std::uint64_t reload_tick = 0;     ///< Periodic modes: when the counting element takes a new count.
  std::uint8_t written_low = 0;      ///< The low byte of a count whose high byte is awaited.
  bool write_high_next = false;
  bool read_high_next = false;
  std::uint8_t latched_bytes = 0;  ///< Bytes of `latched_count` still to be read.
  std::uint16_t latched_count = 0;
  bool status_latched = false;
  std::uint8_t latched_status = 0;
  friend bool operator==(const PitChannelState&, const PitChannelState&) = default;
};

}  // namespace mayfly
