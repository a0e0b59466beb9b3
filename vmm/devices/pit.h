#pragma once

#include "vmm/base/mutex.h"
#include "vmm/devices/byte_port_device.h"
#include "vmm/devices/interrupt.h"
#include "vmm/devices/monotonic_clock.h"
#include "vmm/devices/pit_channel.h"
#include "vmm/devices/pit_state.h"

#include <array>
#include <cstdint>
#include <optional>

namespace mayfly {

inline constexpr std::uint64_t kPitPort = 0x40;
inline constexpr std::uint64_t kPitPortCount = 4;
inline constexpr std::uint64_t kSpeakerPort = 0x61;
/// The shortest time between two interrupts, whatever the guest programs: 5000 a second cost the host little. KVM's own
/// PIT has the same bound (its parameter min_timer_period_us). Linux asks for 1000 at most.
inline constexpr std::uint64_t kPitShortestIntervalNs = 200'000;

/// A host timer that calls Pit::on_timer() on the loop thread.
class PitTimer {
 public:
  PitTimer() = default;
  PitTimer(const PitTimer&) = delete;
  PitTimer& operator=(const PitTimer&) = delete;
  virtual ~PitTimer() = default;
  /// Calls once, at or after `deadline_ns` of the device's clock; replaces an earlier call. The deadline may be past.
  /// Called on any thread under the device's lock: must not call on_timer() before it returns.
  virtual void arm(std::uint64_t deadline_ns) noexcept = 0;
  /// No call. One that is on its way already does no harm.
  virtual void cancel() noexcept = 0;
};

/// The 8254 programmable interval timer, and port 0x61 with its speaker gate.
///
///   Pit pit{InterruptLine{wiring, layout::kTimerGsi}, clock, timer};
///   ports.attach("pit", kPitPort, kPitPortCount, pit);
///   ports.attach("speaker", kSpeakerPort, 1, pit.speaker_port());
///
/// Guests measure the frequency of their TSC against channel 2 and take channel 0 for a clock until they have a better
/// one. Here counting costs nothing: counts are computed when read. A host timer runs only while channel 0 will raise
/// its output by counting, that is while it interrupts.
///
/// Deadlines follow from the start of counting, so a periodic interrupt does not drift. A host that comes late by many
/// periods gives one interrupt and goes on with the next due one. Interrupts keep kPitShortestIntervalNs; faster
/// programs lose interrupts, not counts. A guest that reprograms channel 0 before a due interrupt was given loses it.
///
/// Any thread. Calls outwards: the timer under the device's lock, the line without it.
class Pit final : public BytePortDevice {
 public:
  Pit(InterruptLine line, const MonotonicClock& clock, PitTimer& timer) noexcept;

  /// The timer's deadline has come. Loop thread; a call too many does nothing.
  void on_timer() noexcept;

  /// Ports count from 0x40 on, over both ranges.
  std::uint8_t load(std::uint64_t port) noexcept override;
  void store(std::uint64_t port, std::uint8_t value) noexcept override;
  [[nodiscard]] BusDevice& speaker_port() noexcept { return speaker_port_; }

  [[nodiscard]] PitState state() const;
  /// Goes on where the state was taken, as if no time had passed since, and arms the timer as needed.
  void restore(const PitState& state);

 private:
  [[nodiscard]] std::uint8_t read_speaker(std::uint64_t now_ns) noexcept REQUIRES(mutex_);
  void write_speaker(std::uint8_t value, std::uint64_t now_ns) noexcept REQUIRES(mutex_);
  void write_control(std::uint8_t value, std::uint64_t now_ns) noexcept REQUIRES(mutex_);
  void await_edge(std::uint64_t now_ns) noexcept REQUIRES(mutex_);
  void arm(std::uint64_t deadline_ns) noexcept REQUIRES(mutex_);
  void disarm() noexcept REQUIRES(mutex_);

  InterruptLine line_;
  const MonotonicClock& clock_;
  PitTimer& timer_;
  mutable Mutex mutex_;
  std::array<PitChannel, 3> channels_ GUARDED_BY(mutex_);
  std::uint8_t speaker_control_ GUARDED_BY(mutex_) = 0;
  std::optional<std::uint64_t> deadline_ns_ GUARDED_BY(mutex_);  // of the interrupt to come, if one is
  std::uint64_t earliest_ns_ GUARDED_BY(mutex_) = 0;             // no interrupt before
  PortWindow speaker_port_;
};

}  // namespace mayfly
