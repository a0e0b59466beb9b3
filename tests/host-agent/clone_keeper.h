#pragma once

#include "tests/host-agent/bell.h"
#include "tests/host-agent/clone_network.h"
#include "tests/host-agent/clone_pool.h"
#include "tests/host-agent/keeper.h"

#include <deque>
#include <optional>
#include <thread>

/// Clones that have loaded the snapshot before their request comes, each in a network of its own: told who it is, connected
/// to the function, and paused. A request resumes it and speaks.
///
/// A clone ends after its request. Or, with Use::Reverts, it goes back to the snapshot, and is connected anew.
///
/// A place has a thread, which stays in the place's network and starts and ends the monitors there.
namespace mayfly::host_agent {

class CloneKeeper final : public Keeper {
 public:
  enum class Use {
    Once,
    /// The monitor's own memory stays, so all requests are one tenant's.
    Reverts,
  };
  CloneKeeper(ClonePool& pool, KeeperOptions options, Use use);
  ~CloneKeeper() override;

 private:
  struct Seat {
    Bell bell{};
    std::thread thread{};
  };
  void keep_filled(const Bell& bell);
  [[nodiscard]] std::optional<CloneNetwork> enter_network(const Bell& bell);
  [[nodiscard]] Result<Clone> prepare(const CloneNetwork& network);
  /// The next clone, by one that was used.
  [[nodiscard]] Result<Clone> revert(MonitorProcess monitor, const CloneNetwork& network);

  ClonePool& pool_;
  const KeeperOptions options_;
  const Use use_;
  std::deque<Seat> seats_;  // which do not move
};

}  // namespace mayfly::host_agent
