#pragma once

#include <cstddef>
#include <span>
#include <string_view>

/// What the build makes of filters.txt (see CMakeLists.txt), in constant data: not parsed at start-up.
namespace mayfly::seccomp {

/// Aligned to 8 bytes.
[[nodiscard]] std::span<const std::byte> built_in_blob() noexcept;

/// The names of system calls by their numbers; empty where there is none.
[[nodiscard]] std::span<const std::string_view> built_in_call_names() noexcept;

}  // namespace mayfly::seccomp
