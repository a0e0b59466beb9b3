#pragma once

#include "perf/linux_guest.h"

/// What a guest's monitor has done so far, to be told before and after what is measured.
///
///   const Counts before = counts_of(guest);
///   guest.ask("line");
///   const Counts of_one = counts_of(guest) - before;
namespace mayfly::perf {

struct Counts {
  double exits = 0;         ///< To user space.
  double mmio_exits = 0;    ///< Of those, by MMIO.
  double interrupts = 0;    ///< Of virtio devices.
  double switches = 0;      ///< Context switches of the monitor's threads.
  double host_faults = 0;   ///< Page faults of the monitor's threads, those that KVM takes for the guest included.
  double guest_faults = 0;  ///< Pages that KVM mapped for the guest; 0 without debugfs.
};

/// The monitor's threads must be those that it had at the earlier call, or more.
[[nodiscard]] Counts counts_of(MayflyGuest& guest);
[[nodiscard]] Counts operator-(const Counts& after, const Counts& before);
[[nodiscard]] Counts operator/(const Counts& all, double requests);

}  // namespace mayfly::perf
