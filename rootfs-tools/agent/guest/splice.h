#pragma once

#include "rootfs-tools/agent/frame_stream.h"

namespace mayfly::agent {

/// Connects the host to a port of the guest's 127.0.0.1, and copies both ways until both have ended.
void serve_connect(FrameStream& stream, const ConnectRequest& request);

}  // namespace mayfly::agent
