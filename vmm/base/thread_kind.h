#pragma once

#include <array>
#include <cstddef>
#include <functional>
#include <string_view>

namespace mayfly {

/// What the monitor's threads are for: each kind has a system call filter of its own.
enum class ThreadKind { Loop, Api, Vcpu, Recorder };

/// By their values; the names that filters have in jailer/seccomp/filters.txt.
inline constexpr std::array<std::string_view, 4> kThreadNames = {"loop", "api", "vcpu", "recorder"};

[[nodiscard]] constexpr std::string_view name_of(ThreadKind kind) noexcept {
  return kThreadNames[static_cast<std::size_t>(kind)];
}

/// Called by a thread once it is set up, before it serves anybody. Does not return where it must not go on.
using ThreadEntry = std::function<void(ThreadKind)>;

}  // namespace mayfly
