#pragma once

#include <cstdint>
#include <ctime>

namespace mayfly {

inline constexpr std::uint64_t kNsPerMs = 1'000'000;

/// What a clock of clock_gettime(2) shows, in nanoseconds; 0 where the kernel does not have it. From any thread.
[[nodiscard]] inline std::uint64_t clock_ns(clockid_t clock) noexcept {
  timespec now{};
  ::clock_gettime(clock, &now);
  return static_cast<std::uint64_t>(now.tv_sec) * 1'000'000'000 + static_cast<std::uint64_t>(now.tv_nsec);
}

/// CLOCK_MONOTONIC, in nanoseconds: what timers are armed by. From any thread.
[[nodiscard]] inline std::uint64_t monotonic_ns() noexcept { return clock_ns(CLOCK_MONOTONIC); }

/// Microseconds since a time of monotonic_ns(). From any thread.
[[nodiscard]] inline std::uint64_t us_since(std::uint64_t begun_ns) noexcept {
  return (monotonic_ns() - begun_ns) / 1000;
}

}  // namespace mayfly
