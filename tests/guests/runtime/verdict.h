#pragma once

#include "runtime/serial.h"

/// How a guest says what it found: one line on the serial port, GUEST PASS or GUEST FAIL file:line: message, and then
/// it ends the machine by the reset line.
///
///   expect(count > 0, "an interrupt arrives");
///   expect_equal(in8(0x250), 0xFF, "an unclaimed port reads all ones");
///   pass();
namespace guest {

/// Resets the machine by the i8042's line; by a triple fault where nobody listens to that.
[[noreturn]] void reset();

/// Prints GUEST PASS and resets.
[[noreturn]] void pass();

/// Prints GUEST FAIL with the place, and resets. `message` says what should have been.
[[noreturn]] void fail(std::string_view message, const char* file = __builtin_FILE(), int line = __builtin_LINE());

/// Goes on only where `holds`.
inline void expect(bool holds, std::string_view message, const char* file = __builtin_FILE(),
                   int line = __builtin_LINE()) {
  if (!holds) fail(message, file, line);
}

/// Goes on only where `found` equals `wanted`; prints both otherwise.
template <std::integral Found, std::integral Wanted>
void expect_equal(Found found, Wanted wanted, std::string_view message, const char* file = __builtin_FILE(),
                  int line = __builtin_LINE()) {
  const auto found_value = static_cast<std::uint64_t>(found);
  const auto wanted_value = static_cast<std::uint64_t>(wanted);
  if (found_value == wanted_value) return;
  print("found ", Hex{found_value}, ", wanted ", Hex{wanted_value}, "\n");
  fail(message, file, line);
}

}  // namespace guest
