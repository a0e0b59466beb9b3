#pragma once

#include "vmm/base/metrics.h"
#include "vmm/config/configuration.h"
#include "vmm/devices/serial.h"
#include "vmm/devices/serial_output_buffer.h"
#include "vmm/io/event_loop.h"

#include <array>
#include <functional>
#include <optional>
#include <span>

/// The guest's serial port and the two descriptors of the host that it is wired to.
///
///   Console console{loop, clock, metrics, {.input_fd = 0, .output_fd = 1}, InterruptLine{ioapic, kSerialPin}};
///   ports.attach("serial", layout::kSerialPort, layout::kSerialPorts, console.serial());
///   console.start();
///
/// Output never blocks a vCPU: it waits in a bounded buffer, and what does not fit is dropped and counted. What follows
/// a write within a millisecond is written together: guests print byte by byte. Input is read only as fast as the guest
/// takes it: nothing that was typed or piped is dropped.
namespace mayfly {

struct ConsoleOptions {
  int input_fd = -1;   ///< None: the guest receives nothing. Borrowed.
  int output_fd = -1;  ///< None: output is dropped, uncounted. Borrowed.
  std::optional<TokenBucketConfig> rate_limiter{};
  /// Called on the loop's thread when Ctrl-A x is typed; empty: all keys are the guest's.
  std::function<void()> on_quit{};
};

/// All members are for the loop's thread, except the serial device itself.
class Console final : private SerialInputPort, private FlushRequest {
 public:
  Console(EventLoop& loop, const MonotonicClock& clock, UartMetrics& metrics, ConsoleOptions options,
          InterruptLine line);

  [[nodiscard]] Serial& serial() noexcept { return serial_; }
  /// Begins to read the input.
  void start();
  /// Calls `done` once all output has been written (at once, if it has).
  void when_drained(std::function<void()> done);

 private:
  void room_available() noexcept override;
  void flush_wanted() noexcept override;
  void write_next();
  void on_written(int result);
  void on_gathered();
  void read_next();
  void on_read(int result);
  void offer_pending();
  /// Takes Ctrl-A sequences out of what was typed; false when it was the quit sequence.
  [[nodiscard]] bool filter_escapes();

  EventLoop& loop_;
  UartMetrics& metrics_;
  ConsoleOptions options_;
  SerialOutputBuffer output_;
  Serial serial_;

  bool writing_ = false;  // a write, or a wait for writability, is in flight
  bool waiting_ = false;  // ... the latter
  std::function<void()> drained_;
  CallbackOperation write_operation_;
  bool gathering_ = false;  // what was written lately is followed by a pause
  CallbackOperation gather_operation_;

  bool input_waiting_ = false;  // a wait for readability, not a read, is in flight
  bool escape_ = false;         // Ctrl-A was the last key
  std::array<std::byte, 256> input_{};
  std::span<std::byte> pending_;  // of input_: read, not yet taken by the guest
  CallbackOperation read_operation_;
};

}  // namespace mayfly
