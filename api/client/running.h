#pragma once

#include "vmm/base/error.h"

#include <sys/types.h>

#include <string>
#include <vector>

/// Which machines run on this host: found by their processes, so that nothing needs to be registered or cleaned up.
namespace mayfly {

struct RunningMachine {
  pid_t pid = 0;
  std::string id;      ///< As --id says, or its default.
  std::string socket;  ///< Where it can be reached from here; empty: it has no API.
};

/// The processes that we may look at whose executable is called mayfly, by their numbers. A jailed one's socket is
/// within its root. `proc`: a procfs.
[[nodiscard]] std::vector<RunningMachine> running_machines(const std::string& proc = "/proc");

/// The socket that `name` means: a path (it has a slash, or is there), or a running machine's id. Errors: no such
/// machine, several, one without an API; each names what there is.
[[nodiscard]] Result<std::string> socket_of(const std::string& name, const std::vector<RunningMachine>& running);

}  // namespace mayfly
