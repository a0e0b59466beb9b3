#pragma once

#include "vmm/base/mutex.h"
#include "vmm/devices/byte_port_device.h"
#include "vmm/devices/interrupt.h"
#include "vmm/devices/serial_state.h"

#include <cstddef>
#include <cstdint>
#include <span>

namespace mayfly {

/// Takes what the guest sends. Called on vCPU threads, without the device's lock.
class SerialOutput {
 public:
  SerialOutput() = default;
  SerialOutput(const SerialOutput&) = delete;
  SerialOutput& operator=(const SerialOutput&) = delete;
  virtual ~SerialOutput() = default;
  virtual void put(std::byte byte) noexcept = 0;
  /// The guest has sent all that it had for now: what was put need not wait for more.
  virtual void flush() noexcept = 0;
};

/// Feeds the guest's receiver; is called when there is room again.
class SerialInputPort {
 public:
  SerialInputPort() = default;
  SerialInputPort(const SerialInputPort&) = delete;
  SerialInputPort& operator=(const SerialInputPort&) = delete;
  virtual ~SerialInputPort() = default;
  /// The receiver has run empty after an offer that it could not take whole. Once for each such offer; on a vCPU
  /// thread, without the device's lock: wake the loop, which offers again.
  virtual void room_available() noexcept = 0;
};

/// A 16550A UART (National Semiconductor PC16550D): the guest's console.
///
///   Serial serial{InterruptLine{wiring, layout::kSerialGsi}, output_buffer, input_port};
///   ports.attach("serial", layout::kSerialPort, layout::kSerialPorts, serial);
///   const std::size_t taken = serial.offer(typed);   // loop thread; the rest is offered after room_available()
///
/// The transmitter sends in no time: it is always empty, whatever the baud rate, and the guest never waits for the
/// host. The port tells its output when a burst ends (SerialOutput::flush()): a driver writes IER when it has nothing
/// more to send, and one that polls ends its text with a line feed. The receiver takes what has room (16 bytes, or 1
/// with the FIFO off) and nothing more, so no input is ever lost; only in loopback can the guest overrun itself. As no
/// time passes between bytes, data below the FIFO's trigger level is reported at once, as a character timeout.
///
/// The interrupt line is asserted while an enabled cause is pending. ISA interrupts are edge-triggered, so each cause
/// that arises gives a new edge even if another one still holds the line: a guest that answers one cause an interrupt
/// misses none. OUT2 does not gate the line, as it does on the PC's board: guests exist that do not set it.
///
/// Any thread. Calls outwards: the line under the device's lock (levels must arrive in order), all else without it.
class Serial final : public BytePortDevice {
 public:
  Serial(InterruptLine line, SerialOutput& output, SerialInputPort& input_port) noexcept;

  /// Gives input to the guest: as many bytes, from the first on, as the receiver has room for. Returns how many.
  [[nodiscard]] std::size_t offer(std::span<const std::byte> input);
  /// How many bytes an offer would take now. None in loopback, which cuts the receiver off.
  [[nodiscard]] std::size_t room() const;

  std::uint8_t load(std::uint64_t port) noexcept override;
  void store(std::uint64_t port, std::uint8_t value) noexcept override;

  [[nodiscard]] SerialState state() const;
  /// Takes over the state. The line is left as it is: its level is part of the IOAPIC's state. What an earlier offer left
  /// is to be offered again.
  void restore(const SerialState& state);

 private:
  [[nodiscard]] std::uint8_t read_register(std::uint64_t port) noexcept REQUIRES(mutex_);
  void write_register(std::uint64_t port, std::uint8_t value) noexcept REQUIRES(mutex_);
  [[nodiscard]] std::uint8_t take_received() noexcept REQUIRES(mutex_);
  [[nodiscard]] std::uint8_t identify_interrupt() noexcept REQUIRES(mutex_);
  void receive_looped_back(std::uint8_t value) noexcept REQUIRES(mutex_);
  void write_fifo_control(std::uint8_t value) noexcept REQUIRES(mutex_);
  void write_modem_control(std::uint8_t value) noexcept REQUIRES(mutex_);
  void clear_receiver() noexcept REQUIRES(mutex_);

  [[nodiscard]] std::size_t room_locked() const noexcept REQUIRES(mutex_);
  [[nodiscard]] std::uint8_t line_status() const noexcept REQUIRES(mutex_);
  [[nodiscard]] std::uint8_t pending_causes() const noexcept REQUIRES(mutex_);
  void update_line() noexcept REQUIRES(mutex_);
  [[nodiscard]] bool take_room_notice() noexcept REQUIRES(mutex_);
  [[nodiscard]] bool fifo_enabled() const noexcept REQUIRES(mutex_);
  [[nodiscard]] bool looped_back() const noexcept REQUIRES(mutex_);
  [[nodiscard]] bool divisor_access() const noexcept REQUIRES(mutex_);

  InterruptLine line_;
  SerialOutput& output_;
  SerialInputPort& input_port_;
  mutable Mutex mutex_;
  SerialState state_ GUARDED_BY(mutex_);
  std::uint8_t signalled_causes_ GUARDED_BY(mutex_) = 0;  // those whose edge has been given
  bool offer_came_short_ GUARDED_BY(mutex_) = false;
};

}  // namespace mayfly
