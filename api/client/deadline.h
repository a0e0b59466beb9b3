#pragma once

#include <chrono>

/// Until when something may take, whatever comes in between.
namespace mayfly {

using Deadline = std::chrono::steady_clock::time_point;

/// Rounded up; zero where it is over.
[[nodiscard]] std::chrono::milliseconds time_left(Deadline deadline);

/// Waits until `fd` is ready for `events` of poll(), or has failed; false: `deadline` came first. Signals, and a stop
/// of this process (Ctrl-Z), do not end the wait; `cancel` does, once it can be read: false. -1: there is none.
[[nodiscard]] bool is_ready_by(Deadline deadline, int fd, short events, int cancel = -1);

}  // namespace mayfly
