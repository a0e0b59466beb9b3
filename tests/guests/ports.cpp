#include "runtime/guest.h"

#include <array>

/// I/O ports that nobody claims: loads give all ones at every width, stores change nothing. Also probes for a PIC as
/// Linux does (probe_8259A), and says what it found: both answers are right.
namespace {

using guest::expect_equal;

/// PCI configuration, COM2's neighbour, a game port, the end of the space: nothing of ours is there.
constexpr std::array<std::uint16_t, 6> kUnclaimed = {0x0CF8, 0x02E8, 0x0200, 0x1234, 0x5658, 0xFFF0};

void check_unclaimed(std::uint16_t port) {
  guest::out8(port, 0x5A);
  guest::out16(port, 0x5AA5);
  guest::out32(port, 0x1234'5678);
  expect_equal(guest::in8(port), 0xFF, "an unclaimed port reads all ones");
  expect_equal(guest::in16(port), 0xFFFF, "two unclaimed ports read all ones");
  expect_equal(guest::in32(port), 0xFFFF'FFFF, "four unclaimed ports read all ones");
}

void check_string() {
  std::array<std::uint8_t, 48> bytes{};
  guest::out_string(kUnclaimed[3], bytes);
  guest::in_string(kUnclaimed[3], bytes);
  for (const std::uint8_t byte : bytes) expect_equal(byte, 0xFF, "a string load of an unclaimed port reads all ones");
}

bool pic_present() {
  constexpr std::uint8_t kAllButCascade = static_cast<std::uint8_t>(~(1U << 2U));
  guest::out8(0xA1, 0xFF);
  guest::out8(0x21, kAllButCascade);
  return guest::in8(0x21) == kAllButCascade;
}

}  // namespace

void guest::guest_main(const BootInfo&) {
  for (const std::uint16_t port : kUnclaimed) check_unclaimed(port);
  check_string();
  print("PIC: ", pic_present() ? "present" : "absent", "\n");
  out8(serial::kScratch, 0x5A);
  expect_equal(in8(serial::kScratch), 0x5A, "a register between them still keeps what is written");
  pass();
}
