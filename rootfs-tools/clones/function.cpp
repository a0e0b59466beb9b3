#include "rootfs-tools/clones/function.h"

#include <utility>

#include <fmt/format.h>

namespace mayfly::clones {

Result<std::optional<agent::RawConnection>> await_function(const agent::AgentClient& agent, std::uint16_t port,
                                                           Deadline deadline) {
  if (auto there = agent.ping(); !there) return propagate(there, "the agent in the guest");
  if (port == 0) return std::nullopt;
  auto connected = agent.connect(port, time_left(deadline));
  if (!connected) return propagate(connected, fmt::format("port {} of the guest", port));
  return std::move(*connected);
}

}  // namespace mayfly::clones
