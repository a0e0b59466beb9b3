#pragma once

#include "vmm/base/error.h"

#include <string>
#include <vector>

namespace mayfly {

/// What a program said on both of its streams (its first 64 KiB), and how it ended, as waitpid(2) says it.
struct ProgramEnd {
  int status = 0;
  std::string said{};

  [[nodiscard]] bool succeeded() const noexcept { return status == 0; }
};

/// Runs a program to its end, with our environment and standard input. `words`: its path, which is not looked for, and its
/// arguments. Error: it cannot be run, or nobody tells how it has ended, as where SIGCHLD is ignored.
///
///   const auto end = TRY(run_program({"/usr/sbin/mke2fs", "-q", path}));
///   if (!end.succeeded()) return fail(ErrorKind::System, "mke2fs: {}", printable(end.said, 500));
[[nodiscard]] Result<ProgramEnd> run_program(std::vector<std::string> words);

}  // namespace mayfly
