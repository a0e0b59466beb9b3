#pragma once

#include <concepts>
#include <cstdint>
#include <string_view>

/// The first serial port, by polling.
///
///   print("counted ", 42, " interrupts at ", Hex{address}, "\n");
namespace guest {

/// The 16550A's registers (port numbers) and their bits.
namespace serial {
inline constexpr std::uint16_t kData = 0x3F8;             ///< RBR on reading, THR on writing.
inline constexpr std::uint16_t kInterruptEnable = 0x3F9;  ///< IER
inline constexpr std::uint16_t kInterruptId = 0x3FA;      ///< IIR on reading.
inline constexpr std::uint16_t kFifoControl = 0x3FA;      ///< FCR on writing.
inline constexpr std::uint16_t kLineControl = 0x3FB;      ///< LCR
inline constexpr std::uint16_t kModemControl = 0x3FC;     ///< MCR
inline constexpr std::uint16_t kLineStatus = 0x3FD;       ///< LSR
inline constexpr std::uint16_t kScratch = 0x3FF;

inline constexpr std::uint8_t kReceiveInterrupt = 0x01;   ///< IER
inline constexpr std::uint8_t kTransmitInterrupt = 0x02;  ///< IER
inline constexpr std::uint8_t kDataReady = 0x01;          ///< LSR
inline constexpr std::uint8_t kHoldingEmpty = 0x20;       ///< LSR: as many bytes as the FIFO holds may be written.
inline constexpr std::uint8_t kAllSent = 0x40;            ///< LSR
inline constexpr std::uint8_t kGate = 0x08;               ///< MCR OUT2: lets interrupts out on a PC.
inline constexpr unsigned kPin = 4;                       ///< of the IOAPIC
inline constexpr unsigned kFifoSize = 16;
}  // namespace serial

/// A number to be printed as 0x...
struct Hex {
  std::uint64_t value;
};

/// Sets the port up: 8N1, FIFOs on, interrupts off. The runtime calls it before guest_main.
void start_serial();

/// Sends all bytes: a FIFO's worth each time the transmitter is empty. Not for two CPUs at once.
void write_serial(std::string_view bytes);

/// Waits until the last byte has left.
void flush_serial();

void print_one(std::string_view text);
void print_one(Hex number);
void print_one(std::uint64_t number);
void print_one(std::int64_t number);
template <std::unsigned_integral T>
void print_one(T number) {
  print_one(std::uint64_t{number});
}
template <std::signed_integral T>
void print_one(T number) {
  print_one(std::int64_t{number});
}

/// Prints texts and numbers (decimal, or Hex), one after the other.
template <typename... Parts>
void print(const Parts&... parts) {
  (print_one(parts), ...);
}

}  // namespace guest
