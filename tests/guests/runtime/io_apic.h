#pragma once

#include "runtime/processor.h"

#include <cstdint>

/// The IOAPIC: which vector an input pin raises (82093AA data sheet).
///
///   io_apic::route(serial::kPin, {.vector = 0x41});
namespace guest::io_apic {

inline constexpr Mmio registers{0xFEC0'0000};

inline constexpr std::uint8_t kId = 0x00;
inline constexpr std::uint8_t kVersion = 0x01;
inline constexpr std::uint8_t kRedirection = 0x10;  ///< Two registers a pin.

inline constexpr std::uint32_t kRemoteIrr = 1U << 14;  ///< Low word: a level interrupt waits for its acknowledgement.
inline constexpr std::uint32_t kMasked = 1U << 16;

inline std::uint32_t read(std::uint8_t index) {
  registers.write32(0x00, index);
  return registers.read32(0x10);
}
inline void write(std::uint8_t index, std::uint32_t value) {
  registers.write32(0x00, index);
  registers.write32(0x10, value);
}

/// Number of the pin's first redirection register.
constexpr std::uint8_t redirection(unsigned pin) { return static_cast<std::uint8_t>(kRedirection + 2 * pin); }

enum class Trigger : std::uint8_t { Edge = 0, Level = 1 };

struct Route {
  std::uint8_t vector = 0;
  Trigger trigger = Trigger::Edge;
  bool masked = false;
  std::uint8_t destination = 0;  ///< APIC id; physical destination, fixed delivery, active high.
  [[nodiscard]] constexpr std::uint32_t low() const {
    return vector | (trigger == Trigger::Level ? 1U << 15 : 0U) | (masked ? kMasked : 0U);
  }
};

/// Programs a pin's redirection entry; the low word, which unmasks, last.
inline void route(unsigned pin, const Route& to) {
  write(redirection(pin), kMasked);
  write(static_cast<std::uint8_t>(redirection(pin) + 1), std::uint32_t{to.destination} << 24);
  write(redirection(pin), to.low());
}
inline void mask(unsigned pin) { write(redirection(pin), kMasked); }

}  // namespace guest::io_apic
