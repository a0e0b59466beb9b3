#include "runtime/guest.h"
#include "runtime/interrupts.h"
#include "runtime/virtio.h"

#include <array>

/// A guest that knows only the PC's pair of 8259As and its 8254, as small unikernels do. The local APIC stays as it is
/// after reset (virtual wire: LINT0 is ExtINT) and the IOAPIC stays masked.
///
/// Remaps the inputs to vectors 0x20 to 0x2F, takes the PIT's ticks, the serial port's and the drives' interrupts by
/// HLT, masks and unmasks, and looks at priorities. (8259A data sheet, "Programming the 8259A".) Command line:
///   drives=N  reads from the first N drives, each by its interrupt
///   stay=1    then prints "pic ready" and waits for commands by the serial port's interrupt: r waits for five ticks
///             and prints "round N ok", q passes
namespace {

using namespace guest;

constexpr std::uint16_t kMasterCommand = 0x20;
constexpr std::uint16_t kMasterData = 0x21;
constexpr std::uint16_t kSlaveCommand = 0xA0;
constexpr std::uint16_t kSlaveData = 0xA1;
constexpr std::uint8_t kEndOfInterrupt = 0x20;  ///< OCW2, not specific
constexpr std::uint8_t kReadRequests = 0x0A;    ///< OCW3
constexpr std::uint8_t kReadInService = 0x0B;   ///< OCW3
constexpr unsigned kInputs = 16;
constexpr unsigned kTimer = 0;
constexpr unsigned kCascade = 2;
constexpr unsigned kSerial = 4;
constexpr std::uint8_t kBase = 0x20;
constexpr std::uint64_t kAWhile = 100'000'000;
constexpr std::uint64_t kDriveMemory = 0x40'0000;
/// The lines of the windows, as ACPI and the command line tell them.
constexpr std::array<unsigned, 8> kDriveLines{5, 6, 7, 8, 10, 11, 12, 13};

std::array<std::uint64_t, kInputs> taken{};
std::uint16_t masks = 0xFFFF;

constexpr std::uint8_t vector_of(unsigned input) { return static_cast<std::uint8_t>(kBase + input); }

void write_masks() {
  out8(kMasterData, static_cast<std::uint8_t>(masks & 0xFFU));
  out8(kSlaveData, static_cast<std::uint8_t>(masks >> 8U));
}
void mask(unsigned input) {
  masks = static_cast<std::uint16_t>(masks | 1U << input);
  write_masks();
}
void unmask(unsigned input) {
  masks = static_cast<std::uint16_t>(masks & ~(1U << input));
  write_masks();
}

void start_pic() {
  for (unsigned input = 0; input < kInputs; ++input) set_acknowledgement(vector_of(input), Acknowledgement::ByGuest);
  out8(kMasterCommand, 0x11);
  out8(kMasterData, kBase);
  out8(kMasterData, 1U << kCascade);
  out8(kMasterData, 0x01);
  out8(kSlaveCommand, 0x11);
  out8(kSlaveData, kBase + 8);
  out8(kSlaveData, kCascade);
  out8(kSlaveData, 0x01);
  write_masks();
  unmask(kCascade);
  let_interrupts_in();
}

/// Ends the interrupt that holds the others out, if there is one.
void serve() {
  for (unsigned input = 0; input < kInputs; ++input) {
    if (interrupt_count(vector_of(input)) == taken[input]) continue;
    ++taken[input];
    expect_equal(interrupt_count(vector_of(input)), taken[input], "an interrupt in service keeps itself out");
    if (input >= 8) out8(kSlaveCommand, kEndOfInterrupt);
    out8(kMasterCommand, kEndOfInterrupt);
    let_interrupts_in();
  }
}

/// Halts until an interrupt comes, and ends it. The look and the halt are one step: one in service that is not ended
/// would keep the awaited one out for ever.
void halt_once(unsigned input) {
  keep_interrupts_out();
  for (unsigned other = 0; other < kInputs; ++other)
    if (interrupt_count(vector_of(other)) != taken[other]) return serve();
  halt_for_interrupts(vector_of(input), taken[input] + 1);
  serve();
}

/// Waits for `more` interrupts of an input, and ends them and all others meanwhile: the first by polling, so that the
/// guest fails where none comes, the others by HLT.
void wait_for(unsigned input, std::uint64_t more, std::string_view message) {
  const std::uint64_t goal = taken[input] + more;
  expect(wait_until([input, seen = taken[input]] {
           serve();
           return taken[input] > seen;
         }),
         message);
  while (taken[input] < goal) halt_once(input);
}

std::uint64_t count_after_a_while(unsigned input) {
  spin_for(kAWhile);
  serve();
  return taken[input];
}

void load_timer(std::uint8_t control, unsigned count) {
  out8(0x43, control);
  out8(0x40, static_cast<std::uint8_t>(count & 0xFFU));
  out8(0x40, static_cast<std::uint8_t>(count >> 8U));
}
void tick_at_100_hz() { load_timer(0x34, 11932); }
void one_tick_soon() { load_timer(0x30, 1000); }

void check_hand_over() {
  constexpr std::uint32_t kExtInt = 0x700;
  const std::uint32_t lint0 = local_apic::registers.read32(local_apic::kLint0);
  print("LINT0 ", Hex{lint0}, "\n");
  expect_equal(lint0 & (local_apic::kMasked | kExtInt), kExtInt, "the PIC is wired to the first CPU");
}

void check_ticks() {
  unmask(kTimer);
  tick_at_100_hz();
  wait_for(kTimer, 10, "the PIT interrupts by the PIC");
  mask(kTimer);
  serve();
  const std::uint64_t before = taken[kTimer];
  expect_equal(count_after_a_while(kTimer), before, "a masked input does not interrupt");
  one_tick_soon();  // the control word stops the ticks
  unmask(kTimer);
  (void)count_after_a_while(kTimer);
}

void check_an_edge_while_masked() {
  mask(kTimer);
  serve();
  one_tick_soon();
  const std::uint64_t before = count_after_a_while(kTimer);
  out8(kMasterCommand, kReadRequests);
  expect_equal(in8(kMasterCommand) & 1, 1, "IRR shows an edge at a masked input");
  unmask(kTimer);
  wait_for(kTimer, 1, "an edge at a masked input interrupts when it is unmasked");
  expect_equal(count_after_a_while(kTimer), before + 1, "once");
}

void check_serial() {
  flush_serial();
  unmask(kSerial);
  out8(serial::kModemControl, serial::kGate);
  for (unsigned i = 0; i < 3; ++i) {
    out8(serial::kInterruptEnable, serial::kTransmitInterrupt);
    wait_for(kSerial, 1, "the transmitter interrupts by the PIC");
    out8(serial::kInterruptEnable, 0);
  }
}

/// The serial port and the timer at once: the timer is first, and what it interrupts waits for its end.
void check_priority() {
  keep_interrupts_out();
  one_tick_soon();
  out8(serial::kInterruptEnable, serial::kTransmitInterrupt);
  out8(kMasterCommand, kReadRequests);
  expect(wait_until([] { return (in8(kMasterCommand) & 0x11) == 0x11; }), "both inputs ask");
  const std::uint64_t serial_before = interrupt_count(vector_of(kSerial));
  let_interrupts_in();
  expect(wait_until([] { return interrupt_count(vector_of(kTimer)) != taken[kTimer]; }), "the timer comes");
  out8(kMasterCommand, kReadInService);
  expect_equal(in8(kMasterCommand), 1, "the timer is in service");
  let_interrupts_in();
  spin_for(kAWhile);
  expect_equal(interrupt_count(vector_of(kSerial)), serial_before, "a lower input waits for the end of a higher one");
  ++taken[kTimer];
  out8(kMasterCommand, kEndOfInterrupt);
  wait_for(kSerial, 1, "and comes then");
  out8(serial::kInterruptEnable, 0);
}

/// One sector of drive `number`, read with its input masked until the read is done, and open from the start.
void check_drive(unsigned number) {
  const unsigned line = kDriveLines[number];
  const std::uint64_t memory = kDriveMemory + number * 0x1'0000;
  virtio::Device drive{number};
  expect_equal(drive.type(), virtio::kTypeBlock, "a drive is there");
  drive.begin(virtio::kVersion1);
  virtio::Queue queue{drive, 0, {.memory = memory, .interrupts = true}};
  drive.start();
  const std::uint64_t header = memory + virtio::Queue::kBytes;  // zeroes: read, sector 0
  for (unsigned round = 0; round < 6; ++round) {
    const bool masked = round % 2 == 0;
    if (!masked) unmask(line);
    queue.offer({{header, 16, false}, {header + 512, 512, true}, {header + 1024, 1, true}});
    queue.kick();
    if (masked) {
      (void)queue.wait();
      expect(wait_until([&] { return drive.window().read32(virtio::kInterruptStatus) != 0; }), "the drive interrupts");
      unmask(line);
    }
    wait_for(line, 1, "the drive interrupts by the PIC");
    drive.window().write32(virtio::kInterruptAcknowledge, 1);
    if (!masked) (void)queue.wait();
    mask(line);
  }
  drive.reset();
}

[[noreturn]] void stay() {
  unmask(kTimer);
  tick_at_100_hz();
  out8(serial::kInterruptEnable, serial::kReceiveInterrupt);
  print("pic ready\n");
  for (unsigned round = 0;;) {
    while ((in8(serial::kLineStatus) & serial::kDataReady) == 0) halt_once(kSerial);
    switch (static_cast<char>(in8(serial::kData))) {
      case 'r':
        wait_for(kTimer, 5, "the PIT goes on");
        print("round ", ++round, " ok\n");
        break;
      case 'q':
        pass();
      default:
        break;
    }
  }
}

}  // namespace

void guest::guest_main(const BootInfo& boot) {
  check_hand_over();
  start_pic();
  check_ticks();
  check_an_edge_while_masked();
  check_serial();
  check_priority();
  for (unsigned drive = 0; drive < boot.number("drives", 0); ++drive) check_drive(drive);
  if (boot.number("stay", 0) != 0) stay();
  pass();
}
