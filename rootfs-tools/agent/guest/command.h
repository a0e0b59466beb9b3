#pragma once

#include "rootfs-tools/agent/guest/defaults.h"
#include "rootfs-tools/agent/protocol.h"
#include "vmm/base/owned_fd.h"

#include <sys/types.h>

#include <expected>

namespace mayfly::agent {

/// A command that runs: the leader of a session and a process group of its own.
struct Command {
  pid_t pid = -1;
  OwnedFd process;  ///< Can be read once it has ended. It stays a zombie until it is waited for.
  OwnedFd input;    ///< None of these blocks. With a terminal, the terminal.
  OwnedFd output;
  OwnedFd errors;  ///< None with a terminal.
  bool tty = false;
};

/// Starts it, or says why not: no such user, no such program, it may not be executed.
[[nodiscard]] std::expected<Command, Refusal> start_command(const ExecRequest& request, const Defaults& defaults);

}  // namespace mayfly::agent
