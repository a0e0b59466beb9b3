#pragma once

#include "vmm/base/error.h"

#include <chrono>

/// `mayfly top`: the machines of this host as a table that follows them, or as one that is printed once.
namespace mayfly {

struct TopParameters {
  bool once = false;  ///< So it is as well where standard input or output is no terminal.
  std::chrono::milliseconds interval{1000};
};

/// Returns the process's exit code: 0, or 128 and the number of the signal that ended it. The terminal is put back on
/// every way out. Errors: no descriptor is left, the table cannot be written.
[[nodiscard]] Result<int> run_top(const TopParameters& parameters);

}  // namespace mayfly
