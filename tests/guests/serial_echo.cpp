#include "runtime/guest.h"
#include "runtime/interrupts.h"

/// Echoes what the serial port receives, and passes at a newline or at 0x04 (both echoed too). It looks at the port
/// only after a receive interrupt, and halts in between, so a byte without an interrupt is never echoed.
/// Prints "echo ready" when input may come.
namespace {

constexpr std::uint8_t kVector = 0x44;
constexpr char kEndOfTransmission = 0x04;

}  // namespace

void guest::guest_main(const BootInfo&) {
  start_interrupts();
  io_apic::route(serial::kPin, {.vector = kVector});
  out8(serial::kModemControl, serial::kGate);
  out8(serial::kInterruptEnable, serial::kReceiveInterrupt);
  print("echo ready\n");
  std::uint64_t seen = 0;
  while (true) {
    halt_for_interrupts(kVector, seen + 1);
    seen = interrupt_count(kVector);
    // Edge-triggered: the port must be emptied, or it will not interrupt again.
    while ((in8(serial::kLineStatus) & serial::kDataReady) != 0) {
      const auto byte = static_cast<char>(in8(serial::kData));
      write_serial({&byte, 1});
      if (byte != '\n' && byte != kEndOfTransmission) continue;
      print("\n", seen, " interrupts\n");
      pass();
    }
  }
}
