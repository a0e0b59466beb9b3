#pragma once

#include "vmm/base/metrics.h"
#include "vmm/base/newest_bytes.h"
#include "vmm/config/configuration.h"
#include "vmm/devices/serial.h"
#include "vmm/devices/serial_output_buffer.h"
#include "vmm/io/event_loop.h"

#include <array>
#include <atomic>
#include <functional>
#include <optional>
#include <span>

/// The guest's serial port and the two descriptors of the host that it is wired to.
///
///   Console console{loop, clock, metrics, {.input_fd = 0, .output_fd = 1}, InterruptLine{ioapic, kSerialPin}};
///   ports.attach("serial", layout::kSerialPort, layout::kSerialPorts, console.serial());
///   console.start();
///
/// Output never blocks a vCPU: it waits in a bounded buffer, and what does not fit is dropped and counted. Guests print
/// byte by byte, and a write for each would be dear. So the first byte is written at once; what follows is written
/// together, as soon as the guest's burst ends (SerialOutput::flush()), or after a millisecond (gather_at_most). Input
/// is read only as fast as the guest takes it: nothing that was typed or piped is dropped.
namespace mayfly {

struct ConsoleOptions {
  int input_fd = -1;   ///< None: the guest receives nothing. Borrowed.
  int output_fd = -1;  ///< None: output is dropped, uncounted. Borrowed.
  std::optional<TokenBucketConfig> rate_limiter{};
  /// That the output takes, a regular file which is appended to; its newest bytes stay. kLeastBound or more.
  std::optional<std::uint64_t> max_bytes{};
  /// Called on the loop's thread when Ctrl-A x is typed; empty: all keys are the guest's.
  std::function<void()> on_quit{};
  /// The longest that a byte waits for company, of a guest whose bursts have no end that its port can see.
  __kernel_timespec gather_at_most{.tv_sec = 0, .tv_nsec = 1'000'000};
};

/// All members are for the loop's thread, except the serial device itself.
class Console final : private SerialInputPort, private FlushRequest {
 public:
  Console(EventLoop& loop, const MonotonicClock& clock, UartMetrics& metrics, ConsoleOptions options,
          InterruptLine line);

  [[nodiscard]] Serial& serial() noexcept { return serial_; }
  /// Begins to read the input.
  void start();
  /// The serial port was restored: what was read for the receiver before, and not taken, is for the one that it has now.
  void offer_again();
  /// Calls `done` once all output has been written (at once, if it has).
  void when_drained(std::function<void()> done);

 private:
  void room_available() noexcept override;
  void flush_wanted() noexcept override;
  void burst_ended() noexcept override;
  void write_next();
  /// Begins to free the oldest of the output, where `more` bytes have no room.
  [[nodiscard]] bool makes_room(std::size_t more);
  void on_freed(int result);
  void gather();
  void stop_gathering();
  void on_written(int result);
  void on_gathered();
  void read_next();
  void read_now();
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
  std::optional<NewestBytes> kept_;
  std::optional<NewestBytes::Range> freeing_;  // in flight, instead of a write
  std::function<void()> drained_;
  CallbackOperation write_operation_;
  // Of the two, each side writes its own and then reads the other's, so that no end of a burst is missed.
  std::atomic<bool> gathering_{false};    // written by the loop: what comes waits for company
  std::atomic<bool> burst_ended_{false};  // set by a vCPU, and taken by the loop
  bool gather_timer_runs_ = false;        // perhaps for an earlier gathering: this one is short then
  CallbackOperation gather_operation_;

  bool input_waiting_ = false;    // a wait for readability, not a read, is in flight
  bool waits_for_input_ = false;  // the descriptor does not block
  bool escape_ = false;           // Ctrl-A was the last key
  std::array<std::byte, 256> input_{};
  std::span<std::byte> pending_;  // of input_: read, not yet taken by the guest
  CallbackOperation read_operation_;
};

}  // namespace mayfly
