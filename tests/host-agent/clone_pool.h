#pragma once

#include "api/client/deadline.h"
#include "tests/host-agent/function_snapshot.h"
#include "tests/host-agent/monitor_process.h"
#include "vmm/base/owned_fd.h"

#include <atomic>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <utility>

/// Clones of a snapshot, each for one request. What takes longest is done before there is one: a started monitor stands
/// ready in a network of its own, told who it will be, and has nothing to do but to load.
///
///   ClonePool pool{{.monitor = ..., .directory = ..., .snapshot = ..., .size = 4}};
///   if (auto clone = pool.take(deadline)) {
///     if (auto running = clone->load(deadline); !running) ...
///     hand_over(request, {.connection = clone->connection(), .machine = clone->pidfd(), ...});
///   }                                                             // ends it; another takes its place
///
/// With Options::reverts it is loaded for its first request alone; then it goes back to the snapshot, and waits paused.
///
/// A place has a thread, which stays in the place's network and starts and ends the monitors there.
namespace mayfly::host_agent {

class ClonePool {
  struct Place;

 public:
  struct Options {
    std::string monitor;    ///< The `mayfly` binary.
    std::string directory;  ///< For sockets.
    FunctionSnapshot snapshot;
    unsigned size = 4;
    /// A machine that was used goes back to the snapshot and is used again, instead of ending. Its monitor's own memory
    /// stays, so all requests are one tenant's.
    bool reverts = false;
  };
  /// How many places are in which state.
  struct State {
    unsigned ready = 0;
    unsigned busy = 0;
    unsigned waiting = 0;  ///< Requests that wait for one.
  };

  /// A clone of one's own, until it goes out of scope.
  class Lease {
   public:
    Lease(Lease&& other) noexcept : pool_(other.pool_), place_(std::exchange(other.place_, nullptr)) {}
    Lease& operator=(Lease&&) = delete;
    Lease(const Lease&) = delete;
    Lease& operator=(const Lease&) = delete;
    ~Lease();

    /// Has it go on from the snapshot; it runs when this returns.
    [[nodiscard]] Status load(Deadline deadline) const;
    [[nodiscard]] int connection() const;
    [[nodiscard]] int pidfd() const;

   private:
    friend class ClonePool;
    Lease(ClonePool& pool, Place& place) : pool_(pool), place_(&place) {}
    ClonePool& pool_;
    Place* place_;
  };

  explicit ClonePool(Options options);
  ClonePool(const ClonePool&) = delete;
  ClonePool& operator=(const ClonePool&) = delete;
  /// Waits for the leases.
  ~ClonePool();

  /// Waits until there is one, where not more requests wait already than there are places.
  [[nodiscard]] std::optional<Lease> take(Deadline deadline);
  /// Ends all clones, also those in use, whose machines then have died; take() gives none any more.
  void stop();
  [[nodiscard]] State state() const;

 private:
  struct Clone {
    MonitorProcess monitor;
    OwnedFd connection;
    bool is_loaded = false;  ///< And paused, while it stands ready.
  };
  struct Place {
    std::optional<Clone> clone;
    bool leased = false;
    bool spent = false;
    std::condition_variable changed;
    std::thread keeper;
  };

  void keep_filled(Place& place);
  [[nodiscard]] Result<Clone> prepare();
  /// Makes another one of one that was used; false where it is to end.
  [[nodiscard]] bool revert(Clone& spent);
  [[nodiscard]] std::string next_id();
  /// Has the place's clone taken by a request, and gives it back when it is spent.
  [[nodiscard]] Clone offer(Place& place);
  void give_back(Place& place);

  const Options options_;
  const std::string load_request_ = options_.snapshot.load_request(options_.reverts);
  mutable std::mutex mutex_;
  std::condition_variable available_;
  std::deque<Place> places_;  // which do not move
  std::deque<Place*> ready_;
  unsigned waiting_ = 0;
  unsigned long made_ = 0;
  std::atomic<bool> stopping_ = false;  // changes under the mutex
};

}  // namespace mayfly::host_agent
