#pragma once

#include "runtime/boot_info.h"
#include "runtime/level_0.h"
#include "runtime/processor.h"
#include "runtime/serial.h"
#include "runtime/verdict.h"

/// A bare-metal test guest: its main function, and all it needs but interrupts (interrupts.h) and more CPUs (cpus.h).
///
///   #include "runtime/guest.h"
///   void guest::guest_main(const BootInfo& boot) {
///     print("booted with ", boot.command_line, "\n");
///     pass();
///   }
namespace guest {

/// What a guest is: runs at level 3 on the first CPU, all ports and the first 4 GiB open to it, interrupts off.
/// Returning from it is a failure: a guest says pass(), fail() or reset(), or goes on for ever.
void guest_main(const BootInfo& boot);

}  // namespace guest
