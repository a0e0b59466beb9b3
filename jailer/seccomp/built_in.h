#pragma once

#include <cstddef>
#include <span>
#include <string_view>

/// What the build makes of filters.txt (see CMakeLists.txt), in constant data: not parsed at start-up.
namespace mayfly::seccomp {

/// Aligned to 8 bytes.
[[nodiscard]] std::span<const std::byte> built_in_blob() noexcept;

/// The names of system calls, the one of number N behind N line feeds; empty where there is none. One text and no
/// table: pointers are relocated when the process starts, which would give each its own copy of 7 KiB.
[[nodiscard]] std::string_view built_in_call_names() noexcept;

}  // namespace mayfly::seccomp
