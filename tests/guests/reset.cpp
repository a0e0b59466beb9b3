#include "runtime/guest.h"

/// Nothing but the i8042's reset line, as Linux does with reboot=k: the monitor ends with exit code 0.
void guest::guest_main(const BootInfo&) { reset(); }
