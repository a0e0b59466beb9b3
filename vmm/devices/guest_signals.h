#pragma once

namespace mayfly {

/// What a guest tells its monitor through ports that have no other purpose. The machine implements it once.
///
/// Called on vCPU threads, by several at once, and as often as a guest likes: an implementation latches it, wakes the
/// loop, and returns. It must not call back into the device.
class GuestSignals {
 public:
  GuestSignals() = default;
  GuestSignals(const GuestSignals&) = delete;
  GuestSignals& operator=(const GuestSignals&) = delete;
  virtual ~GuestSignals() = default;
  /// The reset line was pulled: I8042.
  virtual void reset_requested() noexcept = 0;
  /// The guest entered the sleep state S5: AcpiSleepPorts.
  virtual void power_off_requested() noexcept = 0;
  /// The guest's kernel panicked, and nothing of it will handle that: PanicPort.
  virtual void guest_panicked() noexcept = 0;
  /// The guest's kernel panicked, and its crash kernel takes over: PanicPort.
  virtual void crash_loaded() noexcept = 0;
  /// The guest says that it has come up; at most once a BootTimer.
  virtual void guest_booted() noexcept = 0;
};

}  // namespace mayfly
