#include "runtime/guest.h"

/// Reports a guest panic as the pvpanic device has it: 1 to port 0x505.
void guest::guest_main(const BootInfo&) {
  print("about to panic\n");
  flush_serial();
  out8(0x505, 1);
  spin_for(kMoment);
  fail("the machine ended");
}
