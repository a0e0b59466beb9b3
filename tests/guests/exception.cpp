#include "runtime/guest.h"

/// Touches an address that is not mapped: the runtime must report the page fault by itself (GUEST FAIL exception 14).
void guest::guest_main(const BootInfo&) {
  print("about to fault\n");
  memory_at<volatile std::uint8_t>(0x8000'0000'0000 - 4096) = 1;
  fail("the store faults");
}
