#include "runtime/guest.h"

/// The least a guest does: proves that the monitor boots it by either protocol, and that its serial port prints.
void guest::guest_main(const BootInfo& boot) {
  print("hello from level 3, booted by ", boot.protocol == BootProtocol::Pvh ? "PVH" : "the Linux 64-bit protocol",
        "\n");
  pass();
}
