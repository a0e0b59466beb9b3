#pragma once

#include "rootfs-tools/image/run_config.h"

#include <string>

namespace mayfly::image {

/// The file that tells a guest's init and agent how to run the image: what rootfs-tools/init/run_file.h parses. Errors:
/// what it cannot hold, such as a word with a zero, or more than it allows.
[[nodiscard]] Result<std::string> to_run_file(const RunConfig& config);

}  // namespace mayfly::image
