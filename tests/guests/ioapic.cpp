#include "runtime/guest.h"
#include "runtime/interrupts.h"

/// The IOAPIC, with the serial port's "transmitter empty" as the line to pull: it rises when that interrupt is enabled
/// and falls when the port's interrupt id is read or the interrupt is disabled.
namespace {

using guest::expect;
using guest::expect_equal;
using guest::out8;
using guest::print;
namespace io_apic = guest::io_apic;
namespace serial = guest::serial;

constexpr std::uint8_t kEdgeVector = 0x51;
constexpr std::uint8_t kLevelVector = 0x61;
constexpr std::uint64_t kAWhile = 100'000'000;

void raise_line() { out8(serial::kInterruptEnable, serial::kTransmitInterrupt); }
void lower_line() { out8(serial::kInterruptEnable, 0); }

void check_registers() {
  const std::uint32_t version = io_apic::read(io_apic::kVersion);
  const unsigned pins = (version >> 16U & 0xFFU) + 1;
  print("version ", guest::Hex{version & 0xFFU}, ", ", pins, " pins\n");
  expect_equal(pins, 24, "the IOAPIC has 24 pins");
  for (unsigned pin = 0; pin < pins; ++pin)
    expect((io_apic::read(io_apic::redirection(pin)) & io_apic::kMasked) != 0, "every pin is masked after reset");
  const std::uint8_t high = io_apic::redirection(5) + 1;
  io_apic::write(io_apic::redirection(5), 0x1'FFFF);
  expect_equal(io_apic::read(io_apic::redirection(5)) & 0x1'FFFFU, 0x1'AFFF, "the two status bits cannot be written");
  io_apic::write(high, 0x0300'0000);
  expect_equal(io_apic::read(high) >> 24U, 3, "the destination reads back");
  io_apic::mask(5);
}

void check_edge() {
  io_apic::route(serial::kPin, {.vector = kEdgeVector});
  raise_line();
  expect(guest::wait_for_interrupts(kEdgeVector, 1), "a rising edge interrupts");
  guest::spin_for(kAWhile);
  expect_equal(guest::interrupt_count(kEdgeVector), 1, "a line that stays up is one edge");
  lower_line();
  guest::spin_for(kAWhile);
  expect_equal(guest::interrupt_count(kEdgeVector), 1, "a falling edge does not interrupt");
  raise_line();
  expect(guest::wait_for_interrupts(kEdgeVector, 2), "the next rising edge interrupts");
  lower_line();
}

void check_masked() {
  io_apic::route(serial::kPin, {.vector = kEdgeVector, .masked = true});
  const std::uint64_t before = guest::interrupt_count(kEdgeVector);
  raise_line();
  guest::spin_for(kAWhile);
  lower_line();
  guest::spin_for(kAWhile);
  expect_equal(guest::interrupt_count(kEdgeVector), before, "a masked pin does not interrupt");
}

bool remote_irr() { return (io_apic::read(io_apic::redirection(serial::kPin)) & io_apic::kRemoteIrr) != 0; }

/// Lets the CPU take what is pending, and gives back how many interrupts came.
std::uint64_t count_after_a_while() {
  guest::spin_for(kAWhile);
  return guest::interrupt_count(kLevelVector);
}

/// `early`: the host takes an interrupt for over at its delivery. A level that is still high is then pending again at
/// once, and comes although the line has fallen by the time of the guest's acknowledgement.
void check_level(bool early) {
  guest::set_acknowledgement(kLevelVector, guest::Acknowledgement::ByGuest);
  io_apic::route(serial::kPin, {.vector = kLevelVector, .trigger = io_apic::Trigger::Level});
  raise_line();
  expect(guest::wait_for_interrupts(kLevelVector, 1), "a high level interrupts");
  expect_equal(count_after_a_while(), 1, "a level waits for its acknowledgement");
  expect(remote_irr(), "the pin shows that it waits");
  guest::acknowledge_interrupt();
  expect(guest::wait_for_interrupts(kLevelVector, 2), "a level that is still high interrupts again");

  lower_line();
  guest::acknowledge_interrupt();
  std::uint64_t count = count_after_a_while();
  if (early && count == 3) guest::acknowledge_interrupt();
  expect(count == 2 || early, "a level that fell does not interrupt again");
  expect_equal(count_after_a_while(), count, "a level that is low does not interrupt");
  expect(!remote_irr(), "the pin no longer waits");

  // Raised while masked, a level is delivered when the pin is unmasked; an edge would be lost.
  io_apic::route(serial::kPin, {.vector = kLevelVector, .trigger = io_apic::Trigger::Level, .masked = true});
  raise_line();
  expect_equal(count_after_a_while(), count, "a masked level does not interrupt");
  io_apic::write(io_apic::redirection(serial::kPin),
                 io_apic::Route{.vector = kLevelVector, .trigger = io_apic::Trigger::Level}.low());
  expect(guest::wait_for_interrupts(kLevelVector, count + 1), "a level interrupts when its pin is unmasked");
  lower_line();
  guest::acknowledge_interrupt();
}

}  // namespace

void guest::guest_main(const BootInfo&) {
  start_interrupts();
  check_registers();
  const bool early = host_acknowledges_at_delivery();
  print("interrupts are acknowledged ", early ? "by the host, at delivery" : "by the guest", "\n");
  flush_serial();  // the transmitter's state is the line: nothing is printed from here on
  out8(serial::kModemControl, serial::kGate);
  check_edge();
  check_masked();
  check_level(early);
  pass();
}
