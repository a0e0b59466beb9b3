#pragma once

#include "vmm/cli/options.h"

/// A machine from the command line to its end, in this process.
namespace mayfly {

/// Returns the process's exit code; what fails is said on standard error.
[[nodiscard]] int run_machine(const ServeOptions& options);
/// The same with the console on a raw terminal, where standard input is one.
[[nodiscard]] int run_machine(RunOptions options);

}  // namespace mayfly
