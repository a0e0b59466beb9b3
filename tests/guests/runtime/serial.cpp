#include "runtime/serial.h"

#include "runtime/processor.h"

#include <algorithm>
#include <array>
#include <span>

namespace guest {
namespace {

unsigned bytes_at_once = 1;

void print_digits(std::uint64_t number, unsigned base) {
  std::array<char, 20> digits;  // 2^64 has as many in decimal
  std::size_t start = digits.size();
  do {
    digits[--start] = "0123456789abcdef"[number % base];
    number /= base;
  } while (number != 0);
  write_serial({digits.data() + start, digits.size() - start});
}

}  // namespace

void start_serial() {
  out8(serial::kInterruptEnable, 0);
  out8(serial::kLineControl, 0x03);
  out8(serial::kFifoControl, 0x01);
  bytes_at_once = (in8(serial::kInterruptId) & 0xC0) == 0xC0 ? serial::kFifoSize : 1;
}

void write_serial(std::string_view bytes) {
  while (!bytes.empty()) {
    // Where no port answers, the status reads all ones; where it is stuck, we go on after a while.
    (void)wait_until([] { return (in8(serial::kLineStatus) & serial::kHoldingEmpty) != 0; });
    const std::size_t count = std::min<std::size_t>(bytes.size(), bytes_at_once);
    for (const char byte : bytes.substr(0, count)) out8(serial::kData, static_cast<std::uint8_t>(byte));
    bytes.remove_prefix(count);
  }
}

void flush_serial() {
  (void)wait_until([] { return (in8(serial::kLineStatus) & serial::kAllSent) != 0; });
}

void print_one(std::string_view text) { write_serial(text); }
void print_one(Hex number) {
  write_serial("0x");
  print_digits(number.value, 16);
}
void print_one(std::uint64_t number) { print_digits(number, 10); }
void print_one(std::int64_t number) {
  if (number < 0) write_serial("-");
  print_digits(number < 0 ? 0 - static_cast<std::uint64_t>(number) : static_cast<std::uint64_t>(number), 10);
}

}  // namespace guest
