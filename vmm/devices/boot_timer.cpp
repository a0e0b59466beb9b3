#include "vmm/devices/boot_timer.h"

namespace mayfly {

void BootTimer::store(std::uint64_t port, std::uint8_t value) noexcept {
  if (port != 0 || value != kBootTimerValue) return;
  if (!reported_.exchange(true)) signals_.guest_booted();
}

}  // namespace mayfly
