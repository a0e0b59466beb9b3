#pragma once

namespace mayfly {

/// Shown in a snapshot's description; a restored machine reports again.
struct BootTimerState {
  bool reported = false;
  friend bool operator==(const BootTimerState&, const BootTimerState&) = default;
};

}  // namespace mayfly
