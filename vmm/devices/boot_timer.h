#pragma once

#include "vmm/devices/boot_timer_state.h"
#include "vmm/devices/byte_port_device.h"
#include "vmm/devices/guest_signals.h"

#include <atomic>
#include <cstdint>

namespace mayfly {

/// Port of the boot timer. The same as in Firecracker, so that its guests' init programs serve here too.
inline constexpr std::uint64_t kBootTimerPort = 0x3F0;
/// The address at which newer Firecrackers have it, where their hole below 4 GiB begins. Ours begins later: a machine with
/// memory there has the port alone.
inline constexpr std::uint64_t kBootTimerAddress = 0xC000'0000;
/// The byte that a guest writes there when it has come up.
inline constexpr std::uint8_t kBootTimerValue = 123;

/// One write-only byte by which a guest's init says "I am up": the first write of 123 is reported, all else is ignored.
///
///   BootTimer timer{signals};
///   ports.attach("boot timer", kBootTimerPort, 1, timer);
///
/// Any thread. The first write after a restore is reported once more: a clone is up.
class BootTimer final : public BytePortDevice {
 public:
  explicit BootTimer(GuestSignals& signals) noexcept : signals_(signals) {}

  std::uint8_t load(std::uint64_t /*port*/) noexcept override { return kFloatingPort; }
  void store(std::uint64_t port, std::uint8_t value) noexcept override;

  /// A guest that has gone back reports once more, as one that was restored does.
  void forget() noexcept { reported_ = false; }

  [[nodiscard]] BootTimerState state() const noexcept { return {.reported = reported_.load()}; }

 private:
  GuestSignals& signals_;
  std::atomic<bool> reported_ = false;
};

}  // namespace mayfly
