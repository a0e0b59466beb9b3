#pragma once

#include <array>
#include <cstddef>
#include <functional>
#include <string_view>

namespace mayfly {

/// What the monitor's threads are for: each kind has a system call filter of its own. Running is the loop's thread
/// again, once its machine runs (or waits paused after a load): its filter comes on top of Loop's. Revertible is
/// Running of a machine that was loaded so that it can go back to its snapshot; Live and LiveRevertible are those two in
/// a process that may take live snapshots (--live-snapshots). Brancher makes the children of a process that may have
/// some (--branches), and is their first thread: what they do until they have their own filters, it may.
enum class ThreadKind { Loop, Api, Vcpu, Recorder, Brancher, Running, Revertible, Live, LiveRevertible };

/// By their values; the names that filters have in jailer/seccomp/filters.txt.
inline constexpr std::array<std::string_view, 9> kThreadNames = {
    "loop", "api", "vcpu", "recorder", "brancher", "running", "revertible", "live", "live_revertible"};

/// Whether it is the loop's thread once its machine runs.
[[nodiscard]] constexpr bool is_of_running_machine(ThreadKind kind) noexcept { return kind >= ThreadKind::Running; }

[[nodiscard]] constexpr std::string_view name_of(ThreadKind kind) noexcept {
  return kThreadNames[static_cast<std::size_t>(kind)];
}

/// Called by a thread once it is set up, before it serves anybody; by the loop's with Running or one of its kin, too. Does
/// not return where it must not go on.
using ThreadEntry = std::function<void(ThreadKind)>;

}  // namespace mayfly
