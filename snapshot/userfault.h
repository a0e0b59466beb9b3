#pragma once

#include "vmm/base/error.h"
#include "vmm/base/owned_fd.h"
#include "vmm/memory/guest_memory.h"

#include <string_view>

/// Guest memory that asks for its pages (userfaultfd(2)).
namespace mayfly {

/// A descriptor that tells the first touch of every page of `memory`, which must be anonymous and untouched: the
/// guest's, the ring's and this process's own. Whoever touches waits until the page is given. Errors, which begin with
/// `field`: no userfaultfd on this host, or no right to it.
[[nodiscard]] Result<OwnedFd> watch_for_faults(const GuestMemory& memory, std::string_view field);

/// From then on untouched pages are zeros, and nobody waits for one. Call it when no vCPU runs any more, before the VM
/// is closed. Kernel workers of KVM may wait for pages; closing the VM waits for them and cannot be killed if no server
/// answers.
void stop_faults(const OwnedFd& userfault, const GuestMemory& memory) noexcept;

}  // namespace mayfly
