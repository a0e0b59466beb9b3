#pragma once

#include "tests/host-agent/clone_pool.h"
#include "tests/host-agent/function_snapshot.h"
#include "vmm/base/error.h"
#include "vmm/base/owned_fd.h"

#include <chrono>
#include <string>

/// Who fills a pool with clones of a snapshot, on threads of its own, until the pool ends.
///
///   const std::unique_ptr<Keeper> keeper = std::make_unique<BranchKeeper>(pool, options);
///   ...
///   pool.stop();   // and wait for the requests; then the keeper goes
namespace mayfly::host_agent {

class Keeper {
 public:
  Keeper() = default;
  Keeper(const Keeper&) = delete;
  Keeper& operator=(const Keeper&) = delete;
  virtual ~Keeper() = default;
};

struct KeeperOptions {
  std::string monitor;    ///< The `mayfly` binary.
  std::string directory;  ///< For sockets.
  FunctionSnapshot snapshot;
  unsigned size = 4;  ///< How many clones stand ready.
};

/// After a failure: what it lacks may come back, but not in an instant.
inline constexpr std::chrono::milliseconds kKeeperPause{200};

/// A failure, to standard error.
void report_no_clone(const Error& error);

/// A clone that stands ready, of a machine that runs: its function has accepted the connection (`socket`), so what guest and
/// monitor touch for that is touched, and it waits paused. Errors: the function does not accept; the pool ends.
[[nodiscard]] Result<Clone> make_ready(MonitorProcess monitor, OwnedFd socket, const ClonePool& pool);

}  // namespace mayfly::host_agent
