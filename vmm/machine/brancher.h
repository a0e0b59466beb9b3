#pragma once

#include "snapshot/pages.h"
#include "snapshot/snapshot.h"
#include "vmm/base/error.h"
#include "vmm/base/metrics.h"
#include "vmm/base/mutex.h"
#include "vmm/base/owned_fd.h"
#include "vmm/base/thread_kind.h"
#include "vmm/io/event_loop.h"
#include "vmm/machine/command.h"
#include "vmm/memory/guest_memory.h"

#include <sys/types.h>

#include <array>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <semaphore>
#include <span>
#include <string_view>
#include <thread>
#include <vector>

/// Children of a machine, each a process that goes on from where the machine is (PUT /vm/branch).
///
///   brancher.begin({.memory = memory, .snapshot = state, ...},      // paused, drained: they are made before this returns
///                  [&](std::vector<BranchedChild> children) { answer(children); });   // all are up, or say why not
///   leave_frozen_drives();
///   brancher.let_go();                                              // they open their drives
///
/// A child is made by fork, so that the kernel copies a page when either side writes to it. It becomes a monitor of its own
/// (live()), and tells by a pipe that it is up, or why not.
namespace mayfly {

/// What a child needs of its parent. In the parent it stays as it is; in the child it is the child's alone.
struct BranchOrder {
  GuestMemory& memory;  ///< The machine's. Outlives begin().
  std::shared_ptr<Snapshot> snapshot;
  std::vector<BranchChild> children;
  LoggerConfig logger{};
  std::optional<std::uint64_t> max_console_bytes{};
  bool resumes = true;         ///< The parent goes on.
  std::uint64_t begun_ns = 0;  ///< Of the request.
};

class Brancher {
 public:
  using Done = std::move_only_function<void(std::vector<BranchedChild>)>;
  using Counted = std::move_only_function<void(PageSharing)>;
  Brancher() = default;
  Brancher(const Brancher&) = delete;
  Brancher& operator=(const Brancher&) = delete;
  virtual ~Brancher() = default;
  /// Makes the children while its caller waits; `done` follows on the loop's thread, when each has said what became of it
  /// or the time for that is over. Those that the host refuses are told of there, too. Loop's thread; one at a time.
  /// Error: not one was made.
  [[nodiscard]] virtual Status begin(BranchOrder order, Done done) = 0;
  /// Counts the pages of guest memory, and who has them; `done` follows on the loop's thread, with none of either where the
  /// host does not tell, or on none where the loop has ended. Loop's thread; one at a time.
  virtual void count_pages(const GuestMemory& memory, Counted done) = 0;
  /// After begin(): the children may open what their machine has let go of; until then they get ready. Loop's thread.
  virtual void let_go() noexcept = 0;
};

/// A child's two pipes to its parent: one that tells it to go on, and one that tells how it went, once.
class BranchReport {
 public:
  BranchReport(OwnedFd go, OwnedFd to) noexcept : go_(std::move(go)), to_(std::move(to)) {}
  /// Returns when the parent has let go; false: it has ended before, and nobody knows of this child.
  [[nodiscard]] bool await_go() noexcept;
  void up() noexcept { tell({}); }
  void failed(std::string_view why) noexcept { tell(why); }
  [[nodiscard]] std::array<int, 2> fds() const noexcept { return {go_.get(), to_.get()}; }

 private:
  void tell(std::string_view why) noexcept;
  OwnedFd go_;  // all children's: a byte for each
  OwnedFd to_;
};

/// By a thread of its own, whose filter ([brancher]) is the children's as well until they have theirs.
class ForkBrancher final : public Brancher {
 public:
  /// Is called in a child, by its only thread, and must not return. All that other threads of the parent may have been
  /// at is not to be touched, and nothing of the parent's to be destroyed.
  using Live = std::function<void(BranchOrder& order, std::size_t index, BranchReport report)>;
  struct Options {
    EventLoop& loop;
    Gauge& children;  ///< That are alive.
    Live live;
    ThreadEntry enter_thread{};
    std::chrono::milliseconds patience{10'000};  ///< For a child to come up; then it is killed.
  };
  /// Errors: no more descriptors or threads.
  [[nodiscard]] static Result<std::unique_ptr<ForkBrancher>> start(Options options);
  ~ForkBrancher() override;
  [[nodiscard]] Status begin(BranchOrder order, Done done) override;
  void let_go() noexcept override;
  void count_pages(const GuestMemory& memory, Counted done) override;

 private:
  struct Child {
    std::size_t index;  ///< In the order.
    pid_t pid;
    OwnedFd process;  ///< A pidfd; none until there is a descriptor for it.
    OwnedFd report;   ///< None: it has told, or it was given up.
    std::string told{};
    bool is_up = false;
  };
  ForkBrancher(Options options, OwnedFd wake) noexcept : options_(std::move(options)), wake_(std::move(wake)) {}

  void serve();
  void wait_for_news();
  void make_children();
  [[nodiscard]] Status make_child(std::size_t index, int go);
  void read_report(Child& child);
  void look_at_ends();
  void give_up_late_ones();
  void answer_if_complete();
  void count_some_pages();
  void note(std::size_t index, std::string error);

  Options options_;
  OwnedFd wake_;
  // Between the loop's thread, which waits, and this one
  std::optional<BranchOrder> order_;
  Done asked_done_;
  Status begun_{};
  std::binary_semaphore made_{0};
  OwnedFd go_;
  std::atomic<bool> asked_{false};
  // Its memory may be gone when the thread looks, hence no reference to it.
  struct Count {
    std::vector<std::span<std::byte>> memory;  // that has not been counted
    Counted done;
    PageSharing sharing{};
  };
  Mutex mutex_;
  std::optional<Count> count_ GUARDED_BY(mutex_);
  std::atomic<bool> stopping_{false};
  // This thread's
  std::optional<Count> counting_;
  Done done_;  // of the request whose children are silent
  std::vector<BranchedChild> outcome_;
  std::vector<Child> children_;
  std::size_t silent_ = 0;  // of the request's children, who have not told yet
  std::chrono::steady_clock::time_point deadline_{};
  std::thread thread_;
};

/// Whether a child can have memory of this kind. Errors: pages of the host's pool; a page server or a recorder gives pages.
[[nodiscard]] Status check_can_branch(const GuestMemory& memory);

}  // namespace mayfly
