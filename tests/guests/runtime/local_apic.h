#pragma once

#include "runtime/processor.h"

#include <cstdint>

/// This CPU's local APIC in xAPIC mode: MMIO, which level 3 and KVM's emulator can both do (x2APIC needs WRMSR).
/// Register numbers: Intel SDM volume 3, "Local APIC Register Address Map".
namespace guest::local_apic {

inline constexpr std::uint64_t kId = 0x020;
inline constexpr std::uint64_t kVersion = 0x030;
inline constexpr std::uint64_t kEndOfInterrupt = 0x0B0;
inline constexpr std::uint64_t kSpuriousVector = 0x0F0;
inline constexpr std::uint64_t kInService = 0x100;
inline constexpr std::uint64_t kRequested = 0x200;
inline constexpr std::uint64_t kCommandLow = 0x300;
inline constexpr std::uint64_t kCommandHigh = 0x310;
inline constexpr std::uint64_t kTimer = 0x320;
inline constexpr std::uint64_t kLint0 = 0x350;
inline constexpr std::uint64_t kLint1 = 0x360;
inline constexpr std::uint64_t kTimerInitialCount = 0x380;
inline constexpr std::uint64_t kTimerDivide = 0x3E0;

inline constexpr std::uint32_t kSoftwareEnable = 0x100;  ///< of kSpuriousVector
inline constexpr std::uint32_t kMasked = 0x10000;        ///< of the local vectors
inline constexpr std::uint32_t kPeriodic = 0x20000;      ///< of kTimer
inline constexpr std::uint32_t kPending = 0x1000;        ///< of kCommandLow: not yet delivered

inline constexpr std::uint32_t kAsserted = 1U << 14;  ///< of kCommandLow
inline constexpr std::uint32_t kToSelf = 1U << 18 | kAsserted;
inline constexpr std::uint32_t kToAllButSelf = 3U << 18 | kAsserted;

inline constexpr Mmio registers{0xFEE0'0000};

/// The APIC id of the CPU that asks.
inline std::uint8_t id() { return static_cast<std::uint8_t>(registers.read32(kId) >> 24); }

/// Whether the bit of `vector` is set in kInService or kRequested.
inline bool vector_bit(std::uint64_t bank, std::uint8_t vector) {
  return (registers.read32(bank + std::uint64_t{vector / 32U} * 0x10U) >> (vector % 32U) & 1U) != 0;
}

/// Sends a command (an interrupt, INIT, start-up) and waits until it is accepted. `destination` does not matter for
/// kToSelf and kToAllButSelf.
inline void send(std::uint8_t destination, std::uint32_t command) {
  registers.write32(kCommandHigh, std::uint32_t{destination} << 24);
  registers.write32(kCommandLow, command);
  (void)wait_until([] { return (registers.read32(kCommandLow) & kPending) == 0; });
}

/// Raises `vector` every `count` ticks of the APIC's timer (divided by 1; under KVM a tick is 1 ns).
inline void start_timer(std::uint8_t vector, std::uint32_t count) {
  registers.write32(kTimerDivide, 0xB);
  registers.write32(kTimer, kPeriodic | vector);
  registers.write32(kTimerInitialCount, count);
}
inline void stop_timer() {
  registers.write32(kTimerInitialCount, 0);
  registers.write32(kTimer, kMasked);
}

}  // namespace guest::local_apic
