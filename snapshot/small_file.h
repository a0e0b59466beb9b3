#pragma once

#include "vmm/base/error.h"

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

namespace mayfly {

/// What a file is to be: the request's field that names it, what it is called, and the most bytes it can have.
struct SmallFileKind {
  std::string_view field;
  std::string_view noun;
  std::size_t limit = 0;
};

/// All bytes of a regular file. Errors, with field and path: not there, not to be read, a directory, a device, a FIFO,
/// larger than the limit.
[[nodiscard]] Result<std::vector<std::byte>> read_small_file(const std::string& path, const SmallFileKind& kind);

}  // namespace mayfly
