#pragma once

#include <cstdint>

namespace mayfly {

/// A clock that never goes back: CLOCK_MONOTONIC in a machine, a hand-set one in tests. Safe on any thread, cheap
/// enough for every access of a guest.
class MonotonicClock {
 public:
  MonotonicClock() = default;
  MonotonicClock(const MonotonicClock&) = delete;
  MonotonicClock& operator=(const MonotonicClock&) = delete;
  virtual ~MonotonicClock() = default;
  [[nodiscard]] virtual std::uint64_t now_ns() const noexcept = 0;
};

}  // namespace mayfly
