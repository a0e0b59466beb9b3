#include "runtime/guest.h"
#include "runtime/interrupts.h"
#include "runtime/virtio.h"

/// A drive that completes a request while its pin of the IOAPIC is masked interrupts when the pin is unmasked. Linux
/// relies on it when it takes a CPU offline: it masks, moves and unmasks the pin while requests are in flight, and a
/// driver with EVENT_IDX waits for that one interrupt.
namespace {
constexpr unsigned kPin = 5;
constexpr std::uint8_t kVector = 0x55;
constexpr std::uint64_t kMemory = 0x40'0000;
constexpr std::uint64_t kHeader = kMemory + guest::virtio::Queue::kBytes;  // zeroes: read, sector 0
constexpr std::uint64_t kAWhile = 100'000'000;
}  // namespace

void guest::guest_main(const BootInfo&) {
  start_interrupts();
  virtio::Device drive{0};
  drive.begin(virtio::kVersion1 | virtio::kEventIndex);
  virtio::Queue queue{drive, 0, {.memory = kMemory, .interrupts = true}};
  drive.start();
  for (std::uint64_t round = 0; round < 4; ++round) {
    io_apic::route(kPin, {.vector = kVector, .masked = true});
    queue.interrupt_after(1);
    queue.offer({{kHeader, 16, false}, {kHeader + 512, 512, true}, {kHeader + 1024, 1, true}});
    queue.kick();
    (void)queue.wait();
    expect(wait_until([&] { return drive.window().read32(virtio::kInterruptStatus) != 0; }), "the drive interrupts");
    spin_for(kAWhile);
    expect_equal(interrupt_count(kVector), round, "a masked pin does not interrupt");
    io_apic::write(io_apic::redirection(kPin), io_apic::Route{.vector = kVector}.low());
    expect(wait_for_interrupts(kVector, round + 1), "the interrupt comes when its pin is unmasked");
    drive.window().write32(virtio::kInterruptAcknowledge, 1);
  }
  // What was acknowledged does not come again.
  io_apic::route(kPin, {.vector = kVector, .masked = true});
  io_apic::route(kPin, {.vector = kVector});
  spin_for(kAWhile);
  expect_equal(interrupt_count(kVector), 4, "nothing is left to interrupt for");
  pass();
}
