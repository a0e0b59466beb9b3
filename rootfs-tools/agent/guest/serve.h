#pragma once

#include "rootfs-tools/agent/guest/defaults.h"
#include "vmm/base/owned_fd.h"

namespace mayfly::agent {

/// Reads the request of a connection, and serves it to its end. In a process of its own.
void serve(OwnedFd socket, const Defaults& defaults);

}  // namespace mayfly::agent
