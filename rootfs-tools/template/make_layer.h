#pragma once

#include "vmm/base/error.h"

#include <cstdint>
#include <string>

namespace mayfly::image {

/// An empty ext4 of this size, mostly a hole, in a file that is not there yet. By mke2fs (Debian's e2fsprogs). Errors: it is
/// missing, or what it says.
[[nodiscard]] Status make_layer(const std::string& path, std::uint64_t bytes);

}  // namespace mayfly::image
