#pragma once

#include "jailer/arguments.h"
#include "vmm/base/error.h"

#include <cstdint>

namespace mayfly::jailer {

/// For the monitor's account of its start-up.
struct ProcessTime {
  std::uint64_t wall_us = 0;  ///< CLOCK_MONOTONIC
  std::uint64_t cpu_us = 0;   ///< CLOCK_PROCESS_CPUTIME_ID
};

[[nodiscard]] ProcessTime time_now();

/// Makes the jail and executes the monitor in it; `begin` is when mayfly-jailer began. Returns without an error only
/// with --daemonize or --new-pid-ns, whose monitor is another process: it runs then. Where there is an error, nothing
/// is left of the jail; folders that jails share (BASE/NAME, parent cgroups) stay. Nor is there after SIGINT, SIGTERM,
/// SIGHUP or SIGQUIT, which end this process when the steps are taken back, or where a daemon's caller is gone.
///
/// Call with one thread, and no descriptors that are not closed upon execution but the three standard ones.
[[nodiscard]] Status launch(const JailArguments& jail, ProcessTime begin);

/// Removes what an ended monitor left: its directory, and its cgroups unless a jail of the same id in another base has
/// them now. Errors: it still runs; a jailer is at work on it; there is none; something is mounted in it.
[[nodiscard]] Status clean_up(const CleanupArguments& jail);

}  // namespace mayfly::jailer
