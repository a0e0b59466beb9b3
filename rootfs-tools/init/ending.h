#pragma once

#include "rootfs-tools/init/orders.h"

namespace mayfly::guest_init {

/// A file system below the root, by a descriptor of its own root, that is to be left sound as well.
void also_remount_at_the_end(int root);

/// Asks every process to leave, then makes it; leaves file systems sound; ends the machine.
[[noreturn]] void end_machine(End how);

}  // namespace mayfly::guest_init
