#include "vmm/devices/acpi_sleep_ports.h"

#include "vmm/boot/layout.h"

namespace mayfly {
namespace {

// ACPI 6.5, tables 4.19 and 4.20.
constexpr unsigned kSleepTypeShift = 2;
constexpr std::uint8_t kSleepTypeMask = 0x7;
constexpr std::uint8_t kSleepEnable = 1U << 5;

}  // namespace

std::uint8_t AcpiSleepPorts::load(std::uint64_t port) noexcept {
  if (port >= layout::kSleepPorts) return kFloatingPort;
  return port == 0 ? static_cast<std::uint8_t>(sleep_type_.load() << kSleepTypeShift) : std::uint8_t{0};
}

void AcpiSleepPorts::store(std::uint64_t port, std::uint8_t value) noexcept {
  if (port != 0) return;
  const auto sleep_type = static_cast<std::uint8_t>((value >> kSleepTypeShift) & kSleepTypeMask);
  sleep_type_.store(sleep_type);
  if ((value & kSleepEnable) != 0 && sleep_type == layout::kSleepTypeOff) signals_.power_off_requested();
}

void AcpiSleepPorts::restore(const AcpiSleepPortsState& state) noexcept {
  sleep_type_.store(state.sleep_type & kSleepTypeMask);
}

}  // namespace mayfly
