#pragma once

#include "rootfs-tools/agent/host/agent_client.h"

#include <expected>

namespace mayfly::agent {

/// As env, timeout and docker have them, where the command has no exit status of its own.
inline constexpr int kExitNoAgent = 125;
inline constexpr int kExitNotExecutable = 126;
inline constexpr int kExitNotFound = 127;

struct ExecFailure {
  Error error;
  int code = kExitNoAgent;
};

/// Runs a command in the guest, on this process's standard streams, up to its end. Returns its exit status, 128 + N
/// where signal N ended it. SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGUSR1 and SIGUSR2 go to the command; the third of the
/// first four in a row ends this instead, and each one where only the reader of our output is waited for. With a terminal,
/// ours is raw meanwhile, and its size the command's; Enter ~ . leaves it (EscapeKeys). `with_input`: whether standard
/// input is the command's; else its input is empty.
[[nodiscard]] std::expected<int, ExecFailure> run_in_guest(const AgentClient& agent, ExecRequest request,
                                                           bool with_input);

}  // namespace mayfly::agent
