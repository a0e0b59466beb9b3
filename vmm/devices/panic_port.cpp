#include "vmm/devices/panic_port.h"

namespace mayfly {
namespace {

constexpr std::uint8_t kPanicked = 1U << 0;     // PVPANIC_PANICKED
constexpr std::uint8_t kCrashLoaded = 1U << 1;  // PVPANIC_CRASH_LOADED

}  // namespace

std::uint8_t PanicPort::load(std::uint64_t port) noexcept {
  return port == 0 ? static_cast<std::uint8_t>(kPanicked | kCrashLoaded) : kFloatingPort;
}

void PanicPort::store(std::uint64_t port, std::uint8_t value) noexcept {
  if (port != 0) return;
  if ((value & kPanicked) != 0) signals_.guest_panicked();
  if ((value & kCrashLoaded) != 0) signals_.crash_loaded();
}

}  // namespace mayfly
