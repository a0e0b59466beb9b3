#pragma once

#include "api/client/running.h"
#include "vmm/base/error.h"

#include <sys/types.h>

#include <optional>
#include <string>
#include <string_view>

/// Where the agent of a machine's guest is reached.
namespace mayfly::agent {

/// The file of its socket, beside that of the API.
inline constexpr const char* kAgentSocket = "agent.sock";

/// The agent's socket of a machine, and who listens there.
struct AgentPlace {
  std::string socket;
  pid_t process = 0;  ///< 0: it does not matter.
};
/// `agent_socket`: given by the user; empty: that of the machine that `machine` names, by its id or process
/// (find_machine()). Its configuration says at which socket it listens for the agent's port; where it does not, that is
/// agent.sock beside the socket of its API.
[[nodiscard]] Result<AgentPlace> find_agent(const std::string& machine, const std::string& agent_socket);

/// The socket of the channel that listens at the agent's port, in the answer to GET /vm/config.
[[nodiscard]] std::optional<std::string> agent_socket_in(const std::string& config);

/// A path as the machine's process was told it, as it is reached from here: its API's socket is known by both.
[[nodiscard]] std::string reached_from_here(const RunningMachine& machine, const std::string& path);

}  // namespace mayfly::agent
