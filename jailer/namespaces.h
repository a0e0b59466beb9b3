#pragma once

#include "vmm/base/error.h"
#include "vmm/base/owned_fd.h"

#include <string>

/// The monitor's own view of mounts, and of the network.
namespace mayfly::jailer {

/// Gives this process mounts of its own, of which the host sees no change; the namespace that it was in. Errors: not
/// root.
[[nodiscard]] Result<OwnedFd> enter_own_mounts();

/// Back to a namespace of mounts, for this thread alone: where a directory is mounted on, it cannot be removed.
void return_to_mounts(const OwnedFd& mounts) noexcept;

/// Makes a directory the root, with what is mounted below it and, in proc/self, this process's part of /proc; nothing
/// else of the host stays reachable by a path. Call in mounts of its own.
[[nodiscard]] Status enter_root(int directory);

/// Opens `--netns`. Errors: not there, or not a network namespace.
[[nodiscard]] Result<OwnedFd> open_netns(const std::string& path);
[[nodiscard]] Status join_netns(const OwnedFd& netns);

}  // namespace mayfly::jailer
