#pragma once

#include "vmm/devices/byte_port_device.h"
#include "vmm/devices/guest_signals.h"

#include <cstdint>

namespace mayfly {

/// The pvpanic device (QEMU's docs/specs/pvpanic; ACPI id QEMU0001): how a guest's kernel says that it panicked, before
/// it halts, reboots or hands over to its crash kernel.
///
///   PanicPort panic{signals};
///   ports.attach("pvpanic", layout::kPvpanicPort, 1, panic);
///
/// A load gives the events that are understood; a store reports those whose bits are set. Any thread; has no state.
class PanicPort final : public BytePortDevice {
 public:
  explicit PanicPort(GuestSignals& signals) noexcept : signals_(signals) {}

  std::uint8_t load(std::uint64_t port) noexcept override;
  void store(std::uint64_t port, std::uint8_t value) noexcept override;

 private:
  GuestSignals& signals_;
};

}  // namespace mayfly
