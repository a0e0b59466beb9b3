#pragma once

#include "api/client/deadline.h"
#include "rootfs-tools/agent/host/agent_client.h"
#include "vmm/base/error.h"

#include <string>

namespace mayfly::image {

/// GET `path` by HTTP, up to the end of the answer. Errors: there is none by then; it is no HTTP; a status of 500 and over;
/// `cancel` can be read.
[[nodiscard]] Status warm_up(agent::RawConnection connection, const std::string& path, Deadline deadline, int cancel);

}  // namespace mayfly::image
