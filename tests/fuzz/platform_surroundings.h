#pragma once

#include "vmm/devices/guest_signals.h"
#include "vmm/devices/monotonic_clock.h"
#include "vmm/devices/pit.h"
#include "vmm/devices/serial.h"
#include "vmm/devices/serial_output_buffer.h"
#include "vmm/kvm/message_port.h"

#include <cstdint>
#include <optional>

namespace mayfly {

/// What the devices of a platform are wired to.
struct PlatformSurroundings final : MessagePort, MonotonicClock, PitTimer, SerialInputPort, FlushRequest, GuestSignals {
  void send(const MsiMessage&) noexcept override {}
  void route(unsigned, const std::optional<MsiMessage>&) noexcept override {}
  [[nodiscard]] std::uint64_t now_ns() const noexcept override { return now; }
  void arm(std::uint64_t deadline_ns) noexcept override { alarm = deadline_ns; }
  void cancel() noexcept override { alarm.reset(); }
  void room_available() noexcept override {}
  void flush_wanted() noexcept override {}
  void burst_ended() noexcept override {}
  void reset_requested() noexcept override {}
  void power_off_requested() noexcept override {}
  void guest_panicked() noexcept override {}
  void crash_loaded() noexcept override {}
  void guest_booted() noexcept override {}
  std::uint64_t now = 1;
  std::optional<std::uint64_t> alarm;
};

}  // namespace mayfly
