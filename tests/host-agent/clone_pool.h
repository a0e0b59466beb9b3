#pragma once

#include "api/client/deadline.h"
#include "api/client/monitor_process.h"
#include "tests/host-agent/bell.h"
#include "vmm/base/owned_fd.h"

#include <sys/types.h>

#include <atomic>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <optional>
#include <string>
#include <utility>
#include <vector>

/// Machines that stand ready, each for one request at a time, and the requests that wait for one.
///
///   if (auto lease = pool.take(deadline)) {                          // for a request
///     if (auto running = lease->go_on(deadline); !running) ...
///     hand_over(request, {.connection = lease->connection(), .machine = lease->pidfd(), ...});
///   }
///
/// Where machines come from and what becomes of them is their keepers' business (clone_keeper.h, branch_keeper.h,
/// template_keeper.h, live_source.h). A keeper has places, and puts a machine into one whenever that is empty:
///
///   auto& place = pool.add(bell);
///   pool.offer(place, std::move(clone));
///   while (!(back = pool.take_back(place))) bell.wait({pool.ready_pidfd(place)});
namespace mayfly::host_agent {

/// A machine for a request.
struct Clone {
  /// What has it go on.
  struct Call {
    std::string method;
    std::string path;
    std::string body;
  };
  /// Of a machine that is paused.
  [[nodiscard]] static Call resume() { return {.method = "PATCH", .path = "/vm", .body = R"({"state": "Resumed"})"}; }

  MonitorProcess monitor;
  OwnedFd connection;         ///< See CloneNetwork::socket().
  std::optional<Call> start;  ///< None: it runs.
  bool is_connected = false;  ///< The connection; otherwise a request makes it.
};

class ClonePool {
 public:
  /// What answers: clones of a snapshot, or the machine of which it is being taken.
  enum class Kind { Clone, Source };
  /// How many places are in which state.
  struct State {
    unsigned ready = 0;
    unsigned busy = 0;
    unsigned waiting = 0;  ///< Requests that wait for one.
  };
  /// A machine that is its keeper's again.
  struct Returned {
    Clone clone;
    bool was_used;      ///< A request had it; otherwise it has ended, or the pool ends.
    bool has_answered;  ///< And was answered.
  };
  class Place;
  class Lease;

  /// `size`: how many requests may wait.
  explicit ClonePool(unsigned size) : size_(size) {}
  ClonePool(const ClonePool&) = delete;
  ClonePool& operator=(const ClonePool&) = delete;

  // For requests:

  /// Waits until there is one, where not too many requests wait already.
  [[nodiscard]] std::optional<Lease> take(Deadline deadline);
  /// Ends all machines, also those in use, which then have died; take() gives none any more.
  void stop();
  [[nodiscard]] State state() const;
  /// Of the monitors that are in places.
  [[nodiscard]] std::vector<pid_t> processes() const;

  // For keepers, which stay until stop() and the return of all leases:

  [[nodiscard]] Place& add(const Bell& bell, Kind kind = Kind::Clone);
  /// The place is empty.
  void offer(Place& place, Clone clone);
  /// What was offered, when it is to be looked after: a request has had it, or it stands ready and has ended, or it is the
  /// source and clones stand ready, or the pool ends. The bell rings for all of these but a machine's end.
  [[nodiscard]] std::optional<Returned> take_back(Place& place);
  /// Offers it and waits until it is to be looked after. For a keeper's thread that has one place.
  [[nodiscard]] Returned lend(Place& place, Clone clone);
  /// Of a machine that stands ready; -1: none does.
  [[nodiscard]] int ready_pidfd(const Place& place) const;
  [[nodiscard]] bool is_stopping() const { return stopping_; }
  /// Readable from then on.
  [[nodiscard]] pollfd end() const { return end_.ringing(); }
  [[nodiscard]] std::string next_id();

 private:
  void give_back(Place& place);

  const unsigned size_;
  mutable std::mutex mutex_;
  std::condition_variable available_;
  std::deque<Place> places_;  // which do not move
  std::deque<Place*> ready_;
  unsigned waiting_ = 0;
  unsigned long made_ = 0;
  const Bell end_;
  // These change under the mutex:
  std::atomic<bool> stopping_ = false;
  std::atomic<bool> has_clones_ = false;  // whether one has ever stood ready
};

class ClonePool::Place {
 public:
  Place(const Bell& bell, Kind kind) : bell_(bell), kind_(kind) {}

 private:
  friend class ClonePool;
  friend class Lease;
  enum class Use { Empty, Ready, Leased, Spent };

  const Bell& bell_;
  const Kind kind_;
  std::optional<Clone> clone_;
  Use use_ = Use::Empty;
  bool has_answered_ = false;
};

/// A machine of one's own, until it goes out of scope.
class ClonePool::Lease {
 public:
  Lease(Lease&& other) noexcept : pool_(other.pool_), place_(std::exchange(other.place_, nullptr)) {}
  Lease& operator=(Lease&&) = delete;
  Lease(const Lease&) = delete;
  Lease& operator=(const Lease&) = delete;
  ~Lease();

  /// It runs when this returns.
  [[nodiscard]] Status go_on(Deadline deadline) const;
  [[nodiscard]] int connection() const { return place_->clone_->connection.get(); }
  [[nodiscard]] bool is_connected() const { return place_->clone_->is_connected; }
  [[nodiscard]] int pidfd() const { return place_->clone_->monitor.pidfd(); }
  [[nodiscard]] Kind kind() const { return place_->kind_; }
  /// It has answered the request, and is at work on nothing.
  void note_answer() { place_->has_answered_ = true; }

 private:
  friend class ClonePool;
  Lease(ClonePool& pool, Place& place) : pool_(pool), place_(&place) {}
  ClonePool& pool_;
  Place* place_;
};

}  // namespace mayfly::host_agent
