#pragma once

#include "rootfs-tools/init/image_root.h"
#include "rootfs-tools/init/orders.h"

#include <csignal>

namespace mayfly::guest_init {

/// Those that processes are told by, blocked from the start.
sigset_t handled_signals();

/// What is run.
struct Program {
  const char* command = "";      ///< By a shell; empty: a shell, or what the image says.
  const Image* image = nullptr;  ///< None: as root, on init's own root.
};

/// Runs it to its end, or until a signal asks for another, and reaps. Returns how the machine shall end.
End run(const Program& program, End after, const sigset_t& signals);

}  // namespace mayfly::guest_init
