#pragma once

namespace mayfly {

/// For who looks at a snapshot: a restored machine reports anew.
struct BootTimerState {
  bool reported = false;
  friend bool operator==(const BootTimerState&, const BootTimerState&) = default;
};

}  // namespace mayfly
