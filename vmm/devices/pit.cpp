#include "vmm/devices/pit.h"

#include <algorithm>

namespace mayfly {
namespace {

constexpr std::uint64_t kControl = 3;
constexpr std::uint64_t kSpeaker = kSpeakerPort - kPitPort;

// Control word (8254, "Control Word Format", "Read-Back Command").
constexpr unsigned kSelectShift = 6;
constexpr unsigned kReadBack = 3;
constexpr unsigned kAccessFieldShift = 4;
constexpr unsigned kNoCountLatch = 1U << 5;
constexpr unsigned kNoStatusLatch = 1U << 4;

// Port 0x61.
constexpr std::uint8_t kGate = 1U << 0;
constexpr std::uint8_t kSpeakerWritable = 0x0F;
constexpr std::uint8_t kRefresh = 1U << 4;
constexpr std::uint8_t kOutput = 1U << 5;
/// Channel 1 once refreshed the memory at this rate; bit 4 shows it, and old guests time short waits by it.
constexpr std::uint64_t kRefreshNs = 15'085;

/// No count lasts longer than 55 ms: a bound for states that come from elsewhere.
constexpr std::uint64_t kLongestRemainingNs = 1'000'000'000;

}  // namespace

Pit::Pit(InterruptLine line, const MonotonicClock& clock, PitTimer& timer) noexcept
    : line_(line), clock_(clock), timer_(timer), speaker_port_(*this, kSpeaker, 1) {
  channels_[2].set_gate(false, clock_.now_ns());
}

// --- Control path ----------------------------------------------------------------------------------------------------

std::uint8_t Pit::load(std::uint64_t port) noexcept {
  const MutexLock lock{mutex_};
  const std::uint64_t now = clock_.now_ns();
  if (port < channels_.size()) return channels_[port].read(now);
  return port == kSpeaker ? read_speaker(now) : kFloatingPort;
}

void Pit::store(std::uint64_t port, std::uint8_t value) noexcept {
  const MutexLock lock{mutex_};
  const std::uint64_t now = clock_.now_ns();
  if (port == kControl) {
    write_control(value, now);
  } else if (port == kSpeaker) {
    write_speaker(value, now);
  } else if (port < channels_.size()) {
    channels_[port].write_count(value, now);
    const bool keeps_cycle = deadline_ns_ && channels_[0].periodic();  // a new count waits for the end of the cycle
    if (port == 0 && !keeps_cycle) await_edge(now);
  }
}

void Pit::write_control(std::uint8_t value, std::uint64_t now_ns) noexcept {
  const unsigned select = value >> kSelectShift;
  if (select == kReadBack) {
    for (unsigned i = 0; i < channels_.size(); ++i) {
      if ((value >> (i + 1) & 1U) == 0) continue;
      if ((value & kNoCountLatch) == 0) channels_[i].latch_count(now_ns);
      if ((value & kNoStatusLatch) == 0) channels_[i].latch_status(now_ns);
    }
  } else if ((value >> kAccessFieldShift & 3U) == 0) {
    channels_[select].latch_count(now_ns);
  } else {
    channels_[select].write_control(value);
    if (select == 0) disarm();
  }
}

std::uint8_t Pit::read_speaker(std::uint64_t now_ns) noexcept {
  unsigned value = speaker_control_;
  if (now_ns / kRefreshNs % 2 != 0) value |= kRefresh;
  if (channels_[2].output(now_ns)) value |= kOutput;
  return static_cast<std::uint8_t>(value);
}

void Pit::write_speaker(std::uint8_t value, std::uint64_t now_ns) noexcept {
  speaker_control_ = value & kSpeakerWritable;
  channels_[2].set_gate((value & kGate) != 0, now_ns);
}

// --- Interrupts ------------------------------------------------------------------------------------------------------

void Pit::on_timer() noexcept {
  {
    const MutexLock lock{mutex_};
    if (!deadline_ns_) return;
    const std::uint64_t now = clock_.now_ns();
    if (now < *deadline_ns_) {  // a call for an earlier programme
      timer_.arm(*deadline_ns_);
      return;
    }
    earliest_ns_ = now + kPitShortestIntervalNs;
    await_edge(now);
  }
  line_.pulse();
}

/// Sets the deadline to the next edge of channel 0 that may interrupt.
void Pit::await_edge(std::uint64_t now_ns) noexcept {
  PitChannel& channel = channels_[0];
  channel.catch_up(now_ns);
  const std::uint64_t elapsed = channel.elapsed_ns(now_ns);
  const std::uint64_t earliest = elapsed + (earliest_ns_ > now_ns ? earliest_ns_ - now_ns : 0);
  // A periodic edge that would come too early is skipped, a single one is put off.
  const std::uint64_t from = channel.periodic() ? earliest : elapsed;
  const auto edge = channel.rising_edge_after(pit_ticks(from));
  if (!edge) return disarm();
  arm(now_ns + (std::max(pit_ns(*edge), earliest) - elapsed));
}

void Pit::arm(std::uint64_t deadline_ns) noexcept {
  deadline_ns_ = deadline_ns;
  timer_.arm(deadline_ns);
}

void Pit::disarm() noexcept {
  if (!deadline_ns_) return;
  deadline_ns_.reset();
  timer_.cancel();
}

// --- Snapshot --------------------------------------------------------------------------------------------------------

PitState Pit::state() const {
  const MutexLock lock{mutex_};
  const std::uint64_t now = clock_.now_ns();
  PitState state;
  for (unsigned i = 0; i < channels_.size(); ++i) state.channels[i] = channels_[i].state(now);
  state.speaker_control = speaker_control_;
  state.interrupt_awaited = deadline_ns_.has_value();
  if (deadline_ns_ && *deadline_ns_ > now) state.remaining_ns = *deadline_ns_ - now;
  return state;
}

void Pit::restore(const PitState& state) {
  const MutexLock lock{mutex_};
  const std::uint64_t now = clock_.now_ns();
  disarm();
  for (unsigned i = 0; i < channels_.size(); ++i) channels_[i].restore(state.channels[i], now);
  speaker_control_ = state.speaker_control & kSpeakerWritable;
  earliest_ns_ = now;
  if (state.interrupt_awaited) arm(now + std::min(state.remaining_ns, kLongestRemainingNs));
}

}  // namespace mayfly
