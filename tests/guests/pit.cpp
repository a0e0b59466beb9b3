#include "runtime/guest.h"
#include "runtime/interrupts.h"

#include <algorithm>

/// The 8254 as Linux uses it: channel 0 interrupts through pin 2 of the IOAPIC, channel 2 is a stopwatch behind port
/// 0x61, and counters can be latched and read back. Rates are held against the time stamp counter, with room for a
/// busy host. Command line: strict=1 wants channel 2's gate to stop it. (8254 data sheet, "Operational Description".)
namespace {

using guest::expect;
using guest::expect_equal;
using guest::in8;
using guest::out8;
using guest::print;

constexpr std::uint16_t kChannel0 = 0x40;
constexpr std::uint16_t kChannel2 = 0x42;
constexpr std::uint16_t kControl = 0x43;
constexpr std::uint16_t kGatePort = 0x61;
constexpr std::uint8_t kGate2 = 0x01;    ///< of kGatePort
constexpr std::uint8_t kSpeaker = 0x02;  ///< of kGatePort
constexpr std::uint8_t kOutput2 = 0x20;  ///< of kGatePort
constexpr unsigned kHertz = 1'193'182;
constexpr unsigned kTicks10Ms = kHertz / 100;
constexpr unsigned kPin = 2;
constexpr std::uint8_t kVector = 0x42;

void load(std::uint16_t channel, std::uint8_t control, unsigned count) {
  out8(kControl, control);
  out8(channel, static_cast<std::uint8_t>(count & 0xFFU));
  out8(channel, static_cast<std::uint8_t>(count >> 8U));
}

unsigned read_latched(std::uint16_t channel) {
  const unsigned low = in8(channel);
  return low | static_cast<unsigned>(in8(channel)) << 8U;
}

/// Cycles of the time stamp counter while channel 2 counts 10 ms down in mode 0; its output rises at the end.
std::uint64_t cycles_of_10_ms() {
  out8(kGatePort, static_cast<std::uint8_t>((in8(kGatePort) & ~kSpeaker) | kGate2));
  load(kChannel2, 0xB0, kTicks10Ms);
  const std::uint64_t start = guest::rdtsc();
  expect((in8(kGatePort) & kOutput2) == 0, "channel 2's output is low while it counts");
  expect(guest::wait_until([] { return (in8(kGatePort) & kOutput2) != 0; }), "channel 2's output rises at the end");
  return guest::rdtsc() - start;
}

/// `strict`: counting stops while the gate is low, as the data sheet says; KVM's and QEMU's PIT go on.
void check_gate(bool strict) {
  out8(kGatePort, static_cast<std::uint8_t>(in8(kGatePort) & ~(kGate2 | kSpeaker)));
  expect_equal(in8(kGatePort) & kGate2, 0, "port 0x61 shows the gate");
  load(kChannel2, 0xB0, 0xFFFF);
  out8(kControl, 0x80);
  const unsigned first = read_latched(kChannel2);
  guest::spin_for(10'000'000);
  out8(kControl, 0x80);
  const unsigned second = read_latched(kChannel2);
  print("channel 2 behind a low gate: ", first, ", then ", second, "\n");
  if (strict) expect_equal(second, first, "channel 2 stands still while its gate is low");
  out8(kGatePort, static_cast<std::uint8_t>(in8(kGatePort) | kGate2));
  guest::spin_for(10'000'000);
  out8(kControl, 0x80);
  expect(read_latched(kChannel2) != second, "channel 2 counts when its gate is high");
}

void check_latch() {
  load(kChannel0, 0x34, 0xFFFF);
  out8(kControl, 0x00);
  const unsigned latched = read_latched(kChannel0);
  guest::spin_for(3'000'000);
  out8(kControl, 0x00);
  const unsigned later = read_latched(kChannel0);
  print("channel 0 latched ", latched, ", then ", later, "\n");
  expect(latched != later, "channel 0 counts");
  // Read-back of the status alone: bits 0 to 5 as programmed (low and high byte, mode 2, binary).
  out8(kControl, 0xE2);
  expect_equal(in8(kChannel0) & 0x3F, 0x34, "read-back gives the mode that was programmed");
}

}  // namespace

void guest::guest_main(const BootInfo& boot) {
  // The least of three: a host that was busy elsewhere only ever makes it longer.
  const std::uint64_t ten_ms = std::min({cycles_of_10_ms(), cycles_of_10_ms(), cycles_of_10_ms()});
  print("10 ms by channel 2 are ", ten_ms, " cycles\n");
  check_gate(boot.number("strict", 0) != 0);
  check_latch();

  constexpr std::uint64_t kPeriods = 10;
  start_interrupts();
  io_apic::route(kPin, {.vector = kVector});
  load(kChannel0, 0x34, kTicks10Ms);
  expect(wait_for_interrupts(kVector, 1), "channel 0 interrupts");
  const std::uint64_t start = rdtsc();
  const std::uint64_t first = interrupt_count(kVector);
  expect(wait_for_interrupts(kVector, first + kPeriods), "channel 0 goes on interrupting");
  const std::uint64_t elapsed = rdtsc() - start;
  print(kPeriods, " periods of 10 ms by channel 0 are ", elapsed, " cycles\n");
  expect(elapsed > (kPeriods - 4) * ten_ms / 2, "channel 0 is not too fast");
  halt_for_interrupts(kVector, first + kPeriods + 3);

  io_apic::mask(kPin);
  const std::uint64_t masked_at = interrupt_count(kVector);
  spin_for(3 * ten_ms);
  expect(interrupt_count(kVector) <= masked_at + 1, "a masked pin does not interrupt");
  pass();
}
