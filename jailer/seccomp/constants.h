#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

namespace mayfly::seccomp {

/// The value that a constant of the system's headers has in filters, such as KVM_RUN. Part of the compiler of filters,
/// not of the monitor.
[[nodiscard]] std::optional<std::uint64_t> constant_named(std::string_view name);

}  // namespace mayfly::seccomp
