#pragma once

#include "vmm/devices/acpi_sleep_ports_state.h"
#include "vmm/devices/byte_port_device.h"
#include "vmm/devices/guest_signals.h"

#include <atomic>
#include <cstdint>

namespace mayfly {

/// The sleep registers of hardware-reduced ACPI (ACPI 6.5, 4.8.3.7): how `poweroff` ends a machine that uses ACPI.
///
///   AcpiSleepPorts sleep{signals};
///   ports.attach("ACPI sleep", layout::kSleepControlPort, layout::kSleepPorts, sleep);
///
/// A write of SLP_EN with SLP_TYP 5 is a request for power off. No other sleep state exists, so none is entered and
/// WAK_STS never reads as one. Any thread.
class AcpiSleepPorts final : public BytePortDevice {
 public:
  explicit AcpiSleepPorts(GuestSignals& signals) noexcept : signals_(signals) {}

  std::uint8_t load(std::uint64_t port) noexcept override;
  void store(std::uint64_t port, std::uint8_t value) noexcept override;

  [[nodiscard]] AcpiSleepPortsState state() const noexcept { return {.sleep_type = sleep_type_.load()}; }
  void restore(const AcpiSleepPortsState& state) noexcept;

 private:
  GuestSignals& signals_;
  std::atomic<std::uint8_t> sleep_type_ = 0;  // SLP_TYP as last written; SLP_EN always reads as zero
};

}  // namespace mayfly
