#pragma once

#include "api/client/deadline.h"
#include "vmm/base/error.h"

#include <poll.h>

#include <string>

/// A snapshot of a machine whose function is ready: booted once, continued by every clone.
///
///   auto snapshot = make_snapshot(function, {...});
///   monitor.request("PUT", "/snapshot/load", snapshot->load_request(false));
namespace mayfly::host_agent {

/// What a function is: a guest that answers HTTP at guest_address().
struct Function {
  std::string kernel;
  std::string initrd;  ///< Empty: none.
  std::string boot_args = "console=ttyS0";
  unsigned memory_mib = 128;
  std::string ready_path = "/";  ///< Asked for until there is an answer, so clones have been through it once.
};

struct FunctionSnapshot {
  std::string state;
  std::string memory;
  /// The body that has a machine go on with it at once; and go back to it, where it is `revertible`.
  [[nodiscard]] std::string load_request(bool revertible) const;
};

struct SnapshotOptions {
  std::string monitor;    ///< The `mayfly` binary.
  std::string directory;  ///< Where the snapshot's files go.
  Deadline deadline;      ///< By when the function must have answered.
  pollfd stop;            ///< What happens where it shall be given up.
};

/// Boots the function, waits until it answers, takes the snapshot and ends the machine, whose console goes to standard
/// error. On a thread of its own. Errors: what the monitor says; the machine ended; it does not answer.
[[nodiscard]] Result<FunctionSnapshot> make_snapshot(const Function& function, const SnapshotOptions& options);

}  // namespace mayfly::host_agent
