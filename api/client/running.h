#pragma once

#include "vmm/base/error.h"

#include <sys/types.h>

#include <cstddef>
#include <string>
#include <utility>
#include <vector>

/// Which machines run on this host: found by their processes, so that nothing needs to be registered or cleaned up.
namespace mayfly {

/// What a process says of itself: any user may call a program mayfly and give it any id and any socket. Only its number
/// and its user are the kernel's word.
struct RunningMachine {
  pid_t pid = 0;  ///< 0: whoever listens at the socket.
  uid_t uid = 0;
  std::string id{};          ///< As --id says, or its default.
  std::string socket{};      ///< Where it can be reached from here; empty: it has no API. May have any bytes.
  std::string own_socket{};  ///< The same, as its process was told it.
  pid_t parent = 0;          ///< Its process's: another machine's where it was branched off that one.
};

/// The processes that we may look at whose executable is called mayfly and whose command line starts a machine, by
/// their numbers. A jailed one's socket is within its root. `proc`: a procfs.
[[nodiscard]] std::vector<RunningMachine> running_machines(const std::string& proc = "/proc");

/// The same, each with how many of its ancestors are among them, and behind its parent.
[[nodiscard]] std::vector<std::pair<std::size_t, RunningMachine>> as_tree(const std::vector<RunningMachine>& running);

/// The machine that `name` means: whoever listens at a path (it has a slash, or is a socket that is there), or the
/// running machine that has this id, or this number of a process. Its socket is not empty. Errors: no such machine,
/// several, one without an API; each names what there is.
[[nodiscard]] Result<RunningMachine> find_machine(const std::string& name, const std::vector<RunningMachine>& running);

}  // namespace mayfly
