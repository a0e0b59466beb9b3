#pragma once

#include "vmm/base/mutex.h"
#include "vmm/devices/byte_port_device.h"
#include "vmm/devices/guest_signals.h"
#include "vmm/devices/i8042_state.h"
#include "vmm/devices/interrupt.h"

#include <cstdint>
#include <span>

namespace mayfly {

/// The PC's keyboard controller with a keyboard and no mouse: how a guest resets the machine (`reboot=k`), and how the
/// host asks a guest to shut down (Ctrl+Alt+Del).
///
///   I8042 i8042{InterruptLine{wiring, layout::kKeyboardGsi}, signals};
///   ports.attach("i8042 data", layout::kKeyboardDataPort, 1, i8042);           // 0x61 between them is the PIT's
///   ports.attach("i8042 command", layout::kKeyboardCommandPort, 1, i8042.command_port());
///   if (!i8042.press_ctrl_alt_del()) ...                            // the guest does not listen to a keyboard
///
/// Commands after the IBM PS/2 technical reference, "Keyboard and Auxiliary Device Controller". It starts as firmware
/// leaves it: tested, translating to scan code set 1, keyboard clock running, interrupt off. Commands for a mouse are
/// answered so that Linux knows at once that there is none, and need not wait half a second for an answer. The keyboard
/// speaks scan code set 2, acknowledges commands and identifies itself; it has no keys but the three.
///
/// Interrupts: an edge for each byte that the guest is to read, as its drivers read one byte an interrupt.
///
/// Any thread. Calls outwards: the line under the device's lock (levels must arrive in order), signals without it.
class I8042 final : public BytePortDevice {
 public:
  I8042(InterruptLine line, GuestSignals& signals) noexcept;

  /// Presses Ctrl, Alt and Del and releases them. False, and nothing is pressed, where the guest would not see it: it
  /// has not enabled the keyboard's interrupt, has disabled the keyboard, or has not read what was sent before.
  [[nodiscard]] bool press_ctrl_alt_del();

  /// Ports count from 0x60 on, over both ranges.
  std::uint8_t load(std::uint64_t port) noexcept override;
  void store(std::uint64_t port, std::uint8_t value) noexcept override;
  [[nodiscard]] BusDevice& command_port() noexcept { return command_port_; }

  [[nodiscard]] I8042State state() const;
  /// Takes over the state. The line is left as it is: its level is part of the IOAPIC's state.
  void restore(const I8042State& state);

 private:
  [[nodiscard]] std::uint8_t read_data() noexcept REQUIRES(mutex_);
  [[nodiscard]] std::uint8_t status() const noexcept REQUIRES(mutex_);
  [[nodiscard]] bool write_command(std::uint8_t command) noexcept REQUIRES(mutex_);
  [[nodiscard]] bool write_data(std::uint8_t value) noexcept REQUIRES(mutex_);
  void write_keyboard(std::uint8_t value) noexcept REQUIRES(mutex_);
  void write_keyboard_argument(std::uint8_t command, std::uint8_t value) noexcept REQUIRES(mutex_);
  void answer(std::uint8_t value) noexcept REQUIRES(mutex_);
  void send_keys(std::span<const std::uint8_t> bytes) noexcept REQUIRES(mutex_);
  [[nodiscard]] bool output_full() const noexcept REQUIRES(mutex_);
  void update_line(bool byte_was_taken) noexcept REQUIRES(mutex_);

  InterruptLine line_;
  GuestSignals& signals_;
  mutable Mutex mutex_;
  I8042State state_ GUARDED_BY(mutex_);
  bool line_asserted_ GUARDED_BY(mutex_) = false;
  PortWindow command_port_;
};

}  // namespace mayfly
