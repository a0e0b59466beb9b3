#include "vmm/devices/pit_channel.h"

#include <algorithm>

namespace mayfly {
namespace {

constexpr std::uint64_t kNsPerSecond = 1'000'000'000;
constexpr std::uint32_t kBinaryRange = 0x1'0000;
constexpr std::uint32_t kBcdRange = 10'000;
constexpr std::uint32_t kShortestPeriod = 2;

// Bits of the control word and of the status byte, which repeats them (8254, "Control Word Format").
constexpr std::uint8_t kBcdBit = 1U << 0;
constexpr unsigned kModeShift = 1;
constexpr unsigned kAccessShift = 4;
constexpr std::uint8_t kNullCountBit = 1U << 6;
constexpr std::uint8_t kOutputBit = 1U << 7;

std::uint32_t from_bcd(std::uint16_t digits) noexcept {
  return (digits >> 12U) * 1000U + (digits >> 8U & 0xFU) * 100U + (digits >> 4U & 0xFU) * 10U + (digits & 0xFU);
}

std::uint16_t to_bcd(std::uint32_t value) noexcept {
  const std::uint32_t digits =
      (value / 1000 % 10) << 12U | (value / 100 % 10) << 8U | (value / 10 % 10) << 4U | value % 10;
  return static_cast<std::uint16_t>(digits);
}

}  // namespace

std::uint64_t pit_ticks(std::uint64_t ns) noexcept {
  return ns / kNsPerSecond * kPitFrequency + ns % kNsPerSecond * kPitFrequency / kNsPerSecond;
}

std::uint64_t pit_ns(std::uint64_t ticks) noexcept {
  return ticks / kPitFrequency * kNsPerSecond +
         (ticks % kPitFrequency * kNsPerSecond + kPitFrequency - 1) / kPitFrequency;
}

// --- Control path ----------------------------------------------------------------------------------------------------

void PitChannel::write_control(std::uint8_t control_word) noexcept {
  const unsigned mode = control_word >> kModeShift & 0x7U;
  state_ = {.mode = static_cast<PitMode>(mode > 5 ? mode - 4 : mode),  // modes 2 and 3 have two codes each
            .access = static_cast<PitAccess>(control_word >> kAccessShift & 0x3U),
            .bcd = (control_word & kBcdBit) != 0,
            .gate = state_.gate};
}

void PitChannel::write_count(std::uint8_t value, std::uint64_t now_ns) noexcept {
  catch_up(now_ns);
  if (state_.access == PitAccess::LowThenHigh && !state_.write_high_next) {
    state_.written_low = value;
    state_.write_high_next = true;
    if (state_.mode == PitMode::TerminalCount) stop(now_ns);  // half a count disables counting
    return;
  }
  state_.write_high_next = false;
  switch (state_.access) {
    case PitAccess::Low:
      state_.count_register = value;
      break;
    case PitAccess::High:
      state_.count_register = static_cast<std::uint16_t>(value << 8U);
      break;
    case PitAccess::LowThenHigh:
      state_.count_register = static_cast<std::uint16_t>(value << 8U | state_.written_low);
      break;
  }
  state_.count_written = true;
  state_.null_count = true;

  const bool waits_for_trigger = state_.mode == PitMode::OneShot || state_.mode == PitMode::HardwareStrobe;
  if (periodic() && state_.counting) {
    state_.reload_tick = (ticks(now_ns) / state_.cycle + 1) * state_.cycle;
  } else if (!waits_for_trigger) {
    begin_cycle(now_ns);
    if (!state_.gate) stop(now_ns);
  }
}

void PitChannel::set_gate(bool gate, std::uint64_t now_ns) noexcept {
  catch_up(now_ns);
  if (gate == state_.gate) return;
  state_.gate = gate;
  const bool resumes = state_.mode == PitMode::TerminalCount || state_.mode == PitMode::SoftwareStrobe;
  const bool triggered = state_.mode == PitMode::OneShot || state_.mode == PitMode::HardwareStrobe;
  if (!gate) {
    if (!triggered) stop(now_ns);
  } else if (!resumes) {
    if (state_.count_written) begin_cycle(now_ns);
  } else if (state_.cycle != 0 && !state_.write_high_next) {
    started_ns_ = now_ns - state_.elapsed_ns;
    state_.counting = true;
  }
}

void PitChannel::begin_cycle(std::uint64_t now_ns) noexcept {
  state_.cycle = programmed_cycle();
  state_.null_count = false;
  state_.counting = true;
  state_.elapsed_ns = 0;
  started_ns_ = now_ns;
}

void PitChannel::stop(std::uint64_t now_ns) noexcept {
  state_.elapsed_ns = elapsed_ns(now_ns);
  state_.counting = false;
}

void PitChannel::catch_up(std::uint64_t now_ns) noexcept {
  if (!periodic() || !state_.counting || !state_.null_count || ticks(now_ns) < state_.reload_tick) return;
  started_ns_ += pit_ns(state_.reload_tick);
  state_.cycle = programmed_cycle();
  state_.null_count = false;
  state_.reload_tick = 0;
}

/// The count register as a number of ticks: never 0, which stands for the whole range.
std::uint32_t PitChannel::programmed_cycle() const noexcept {
  const std::uint32_t count = state_.bcd ? from_bcd(state_.count_register) : state_.count_register;
  if (count == 0) return state_.bcd ? kBcdRange : kBinaryRange;
  return periodic() ? std::max(count, kShortestPeriod) : count;
}

// --- Data path -------------------------------------------------------------------------------------------------------

std::uint64_t PitChannel::elapsed_ns(std::uint64_t now_ns) const noexcept {
  return state_.counting ? now_ns - started_ns_ : state_.elapsed_ns;
}

bool PitChannel::output(std::uint64_t now_ns) noexcept {
  catch_up(now_ns);
  const std::uint64_t tick = ticks(now_ns);
  if (state_.cycle == 0) return state_.mode != PitMode::TerminalCount;
  switch (state_.mode) {
    case PitMode::TerminalCount:
      return tick >= state_.cycle && !state_.write_high_next;
    case PitMode::OneShot:
      return tick >= state_.cycle;
    case PitMode::RateGenerator:
      return !state_.counting || tick % state_.cycle != state_.cycle - 1;
    case PitMode::SquareWave:
      return !state_.counting || tick % state_.cycle < (state_.cycle + 1) / 2;
    case PitMode::SoftwareStrobe:
    case PitMode::HardwareStrobe:
      return tick != state_.cycle;
  }
  return true;
}

std::optional<std::uint64_t> PitChannel::rising_edge_after(std::uint64_t tick) const noexcept {
  if (!state_.counting) return std::nullopt;
  if (periodic()) return (tick / state_.cycle + 1) * state_.cycle;
  const bool strobe = state_.mode == PitMode::SoftwareStrobe || state_.mode == PitMode::HardwareStrobe;
  const std::uint64_t edge = strobe ? state_.cycle + 1 : state_.cycle;  // a strobe is low for one tick
  if (tick >= edge) return std::nullopt;
  return edge;
}

std::uint16_t PitChannel::live_count(std::uint64_t now_ns) noexcept {
  catch_up(now_ns);
  if (state_.cycle == 0) return 0;
  const std::uint64_t tick = ticks(now_ns);
  const std::uint32_t range = state_.bcd ? kBcdRange : kBinaryRange;
  std::uint64_t count = 0;
  if (state_.mode == PitMode::RateGenerator) {
    count = state_.cycle - tick % state_.cycle;
  } else if (state_.mode == PitMode::SquareWave) {
    // Counts down by twos, from an even value, once for each half; the first half of an odd count is a tick longer.
    const std::uint64_t first_half = (state_.cycle + 1) / 2;
    const std::uint64_t phase = tick % state_.cycle;
    count = (state_.cycle & ~1U) - 2 * (phase < first_half ? phase : phase - first_half);
  } else {
    count = state_.cycle + range - tick % range;  // goes on below zero from the top of the range
  }
  const auto shown = static_cast<std::uint32_t>(count % range);
  return state_.bcd ? to_bcd(shown) : static_cast<std::uint16_t>(shown);
}

std::uint8_t PitChannel::read(std::uint64_t now_ns) noexcept {
  if (state_.status_latched) {
    state_.status_latched = false;
    return state_.latched_status;
  }
  const bool latched = state_.latched_bytes > 0;
  const std::uint16_t count = latched ? state_.latched_count : live_count(now_ns);
  if (latched) --state_.latched_bytes;
  bool high = state_.access == PitAccess::High;
  if (state_.access == PitAccess::LowThenHigh) {
    high = state_.read_high_next;
    state_.read_high_next = !state_.read_high_next;
  }
  return static_cast<std::uint8_t>(high ? count >> 8U : count);
}

void PitChannel::latch_count(std::uint64_t now_ns) noexcept {
  if (state_.latched_bytes > 0) return;  // the first latch stays until it has been read
  state_.latched_count = live_count(now_ns);
  state_.latched_bytes = 1;
  if (state_.access == PitAccess::LowThenHigh && !state_.read_high_next) state_.latched_bytes = 2;
}

void PitChannel::latch_status(std::uint64_t now_ns) noexcept {
  if (state_.status_latched) return;
  unsigned status = static_cast<unsigned>(state_.access) << kAccessShift;
  status |= static_cast<unsigned>(state_.mode) << kModeShift;
  if (output(now_ns)) status |= kOutputBit;
  if (state_.null_count) status |= kNullCountBit;
  if (state_.bcd) status |= kBcdBit;
  state_.latched_status = static_cast<std::uint8_t>(status);
  state_.status_latched = true;
}

// --- Snapshot --------------------------------------------------------------------------------------------------------

PitChannelState PitChannel::state(std::uint64_t now_ns) const noexcept {
  PitChannelState state = state_;
  state.elapsed_ns = elapsed_ns(now_ns);
  return state;
}

void PitChannel::restore(const PitChannelState& state, std::uint64_t now_ns) noexcept {
  state_ = state;
  if (state_.mode > PitMode::HardwareStrobe) state_.mode = PitMode::TerminalCount;
  if (state_.access < PitAccess::Low || state_.access > PitAccess::LowThenHigh) state_.access = PitAccess::LowThenHigh;
  state_.cycle = std::min(state_.cycle, kBinaryRange);
  state_.counting = state_.counting && state_.cycle != 0;
  state_.latched_bytes = std::min<std::uint8_t>(state_.latched_bytes, 2);
  started_ns_ = now_ns - state_.elapsed_ns;
}

}  // namespace mayfly
