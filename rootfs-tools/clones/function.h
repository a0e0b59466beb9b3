#pragma once

#include "api/client/deadline.h"
#include "rootfs-tools/agent/host/agent_client.h"
#include "vmm/base/error.h"

#include <cstdint>
#include <optional>
#include <string>

namespace mayfly::clones {

/// Waits until the agent answers, and until somebody listens at the function's port: a connection to that; none where the port
/// is 0, at which nobody serves. Errors say which of the two it was. `cancel`: ends the wait when it can be read.
[[nodiscard]] Result<std::optional<agent::RawConnection>> await_function(const std::string& agent_socket,
                                                                         std::uint16_t port, Deadline deadline,
                                                                         int cancel);

}  // namespace mayfly::clones
