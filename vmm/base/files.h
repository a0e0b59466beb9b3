#pragma once

#include "vmm/base/error.h"

#include <cstddef>
#include <string>

namespace mayfly {

/// All that a file gives, of whatever kind it is: a pipe is read until its writers have closed it, and one without any
/// is empty. Never opened as the controlling terminal. `what`: the option that named it, and its path. Errors, with
/// `what`: cannot be opened or read, over `longest` bytes.
[[nodiscard]] Result<std::string> read_file(const std::string& path, const std::string& what, std::size_t longest);

}  // namespace mayfly
