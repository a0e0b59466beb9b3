#pragma once

#include "vmm/base/error.h"

#include <cstddef>
#include <span>
#include <string_view>

namespace mayfly {

/// Fills at most 256 bytes with random numbers of the kernel's. Error: "cannot WHAT: the host gives no random numbers".
[[nodiscard]] Status fill_with_random(std::span<std::byte> bytes, std::string_view what);

}  // namespace mayfly
