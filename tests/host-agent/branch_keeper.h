#pragma once

#include "api/client/monitor_process.h"
#include "tests/host-agent/bell.h"
#include "tests/host-agent/clone_network.h"
#include "tests/host-agent/clone_pool.h"
#include "tests/host-agent/keeper.h"
#include "tests/host-agent/pid_namespace.h"

#include <deque>
#include <optional>
#include <string>
#include <thread>
#include <vector>

/// Clones that are branched off one machine, the parent, which has loaded the snapshot and stays paused. They stand ready
/// paused, so a request waits for a resume; and each is new, so nothing of one request is left for the next.
///
/// One thread looks after all of them: it has the parent make as many children at once as places are empty. The children
/// are in the parent's network namespace, each at a TAP of its own, and in its PID namespace, so that they end with us.
///
/// A child outlives its parent. So when the parent has ended, what stands ready stays, and another parent is loaded.
namespace mayfly::host_agent {

class BranchKeeper final : public Keeper {
 public:
  BranchKeeper(ClonePool& pool, KeeperOptions options);
  ~BranchKeeper() override;

 private:
  using Milliseconds = std::chrono::milliseconds;
  /// A place, and what it takes to fill it.
  struct Seat {
    ClonePool::Place& place;
    unsigned tap;
    bool is_filled = false;
    std::optional<MonitorProcess> ending{};  ///< What was there, and has been asked to end.
    Deadline ends_by{};
  };
  /// A child that is asked for.
  struct Wanted {
    Seat* seat;
    std::string id;
  };
  void keep_filled();
  [[nodiscard]] Status enter_network();
  /// Until the time that is returned, or until something happens; none: it takes the latter.
  [[nodiscard]] std::optional<Milliseconds> look_after_all();
  void clear(Seat& seat);
  [[nodiscard]] Status have_parent();
  void end_all();
  [[nodiscard]] Status fill(const std::vector<Seat*>& seats);
  /// To its function; it waits paused then.
  [[nodiscard]] Result<Clone> connect(MonitorProcess child, unsigned tap) const;
  [[nodiscard]] std::string branch_request(const std::vector<Wanted>& wanted) const;
  void wait(std::optional<Milliseconds> longest);

  ClonePool& pool_;
  const KeeperOptions options_;
  Bell bell_;
  std::deque<Seat> seats_;
  // In the order of their making: what is in a namespace goes before it.
  std::optional<CloneNetwork> network_;
  std::optional<PidNamespace> processes_;
  std::optional<MonitorProcess> parent_;
  unsigned parents_ = 0;
  std::thread thread_;
};

}  // namespace mayfly::host_agent
