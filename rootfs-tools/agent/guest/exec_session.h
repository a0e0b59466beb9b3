#pragma once

#include "rootfs-tools/agent/frame_stream.h"
#include "rootfs-tools/agent/guest/defaults.h"

namespace mayfly::agent {

/// Runs a command to its end, or to the host's hang-up: then its process group gets SIGHUP, and SIGKILL two seconds
/// later. What children of the command write after its end is lost.
void serve_exec(FrameStream& stream, const ExecRequest& request, const Defaults& defaults);

}  // namespace mayfly::agent
