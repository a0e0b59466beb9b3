#pragma once

#include "vmm/devices/pit_channel_state.h"

#include <cstdint>
#include <optional>

namespace mayfly {

/// Clock of the PC's 8254, in hertz.
inline constexpr std::uint64_t kPitFrequency = 1'193'182;

/// Whole clock periods of the PIT in `ns` nanoseconds, and the first nanosecond at which `ticks` have passed. Exact.
[[nodiscard]] std::uint64_t pit_ticks(std::uint64_t ns) noexcept;
[[nodiscard]] std::uint64_t pit_ns(std::uint64_t ticks) noexcept;

/// A counter of the 8254: what its registers and its output show at a given time, computed and not stepped.
///
///   PitChannel channel;
///   channel.write_control(0x34);               // mode 2, low byte then high byte
///   channel.write_count(0x9C, now);
///   channel.write_count(0x2E, now);            // 11932 ticks: 100 Hz
///   channel.rising_edge_after(channel.ticks(now));   // 11932
///
/// Times are nanoseconds of one monotonic clock, never falling from call to call. Ticks count from the start of the
/// first cycle. Simplified against the data sheet, by at most a tick: counts are loaded at the write and not a clock
/// later. A new count of a square wave takes effect at the end of the whole cycle, not of its half. A count of 1, which
/// the periodic modes do not allow, counts as 2. Not locked: Pit does that.
class PitChannel {
 public:
  /// The control word's mode, access and BCD bits, as written to port 0x43.
  void write_control(std::uint8_t control_word) noexcept;
  /// A byte to the counter's port.
  void write_count(std::uint8_t value, std::uint64_t now_ns) noexcept;
  /// A byte from the counter's port: latched status, latched count or the live count.
  [[nodiscard]] std::uint8_t read(std::uint64_t now_ns) noexcept;
  void latch_count(std::uint64_t now_ns) noexcept;
  void latch_status(std::uint64_t now_ns) noexcept;
  /// Drives the gate input.
  void set_gate(bool gate, std::uint64_t now_ns) noexcept;

  /// The level of the output.
  [[nodiscard]] bool output(std::uint64_t now_ns) noexcept;

  [[nodiscard]] bool periodic() const noexcept {
    return state_.mode == PitMode::RateGenerator || state_.mode == PitMode::SquareWave;
  }
  [[nodiscard]] std::uint64_t elapsed_ns(std::uint64_t now_ns) const noexcept;
  [[nodiscard]] std::uint64_t ticks(std::uint64_t now_ns) const noexcept { return pit_ticks(elapsed_ns(now_ns)); }
  /// When the output rises by counting for the first time after `tick`; nullopt: never, as things stand. (A control
  /// word may raise it too; that is no event.)
  [[nodiscard]] std::optional<std::uint64_t> rising_edge_after(std::uint64_t tick) const noexcept;
  /// Takes a new count of a periodic mode over if its time has come; tick 0 is then the start of its first cycle.
  void catch_up(std::uint64_t now_ns) noexcept;

  [[nodiscard]] PitChannelState state(std::uint64_t now_ns) const noexcept;
  void restore(const PitChannelState& state, std::uint64_t now_ns) noexcept;

 private:
  void begin_cycle(std::uint64_t now_ns) noexcept;
  void stop(std::uint64_t now_ns) noexcept;
  [[nodiscard]] std::uint32_t programmed_cycle() const noexcept;
  [[nodiscard]] std::uint16_t live_count(std::uint64_t now_ns) noexcept;

  PitChannelState state_;
  std::uint64_t started_ns_ = 0;  // while counting: when tick 0 was; may wrap below zero after a restore
};

}  // namespace mayfly
