#include "rootfs-tools/clones/function.h"

#include <algorithm>
#include <chrono>
#include <utility>

#include <fmt/format.h>

namespace mayfly::clones {
namespace {

/// For the guest's answer that nobody listens, after it has waited.
constexpr std::chrono::milliseconds kAnswerTime{1000};

}  // namespace

Result<std::optional<agent::RawConnection>> await_function(const std::string& agent_socket, std::uint16_t port,
                                                           Deadline deadline, int cancel) {
  const agent::AgentClient pinged{agent_socket, {.patience = time_left(deadline), .cancel = cancel}};
  if (auto there = pinged.ping(); !there) return propagate(there, "the agent in the guest");
  if (port == 0) return std::nullopt;
  // The client adds both times up.
  const auto left = time_left(deadline);
  const auto answer = std::min(kAnswerTime, left / 4);
  const agent::AgentClient agent{agent_socket, {.patience = answer, .cancel = cancel}};
  auto connected = agent.connect(port, left - answer);
  if (!connected) return propagate(connected, fmt::format("port {} of the guest", port));
  return std::move(*connected);
}

}  // namespace mayfly::clones
