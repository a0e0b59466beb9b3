#pragma once

#include "vmm/base/mutex.h"
#include "vmm/base/owned_fd.h"
#include "vmm/io/ring.h"

#include <cstdint>
#include <functional>
#include <memory>
#include <utility>
#include <vector>

/// The thread that serves the monitor's ring.
///
///   auto loop = EventLoop::create();
///   loop->post([&] { ... });                      // from any thread: runs on the loop's thread
///   loop->read(fd, buffer, kNoOffset, operation); // on the loop's thread: operation.on_complete(result) follows
///   loop->run();                                  // until stop()
namespace mayfly {

/// A hook that is called before the loop waits: see EventLoop::set_before_wait().
class BeforeWait {
 public:
  BeforeWait() = default;
  BeforeWait(const BeforeWait&) = delete;
  BeforeWait& operator=(const BeforeWait&) = delete;
  virtual void before_wait() noexcept = 0;

 protected:
  ~BeforeWait() = default;
};

class EventLoop final : public Ring {
 public:
  using Task = std::move_only_function<void()>;

  /// Sets the ring up, with SINGLE_ISSUER and DEFER_TASKRUN where the kernel has them; the creating thread is the
  /// loop's. From then on the ring takes only the operations that Ring has. Errors: no io_uring on this host (old, or
  /// switched off), a limit of open files below that of register_file(), each with its remedy.
  [[nodiscard]] static Result<std::unique_ptr<EventLoop>> create();

  /// Runs `task` on the loop's thread, after what was posted before; after close(), destroys it unrun. Any thread.
  void post(Task task);
  /// Makes the loop go round once. Any thread.
  void wake();
  /// Makes run() return after the tasks and completions at hand. Any thread.
  void stop();

  // --- What follows is for the loop's thread only.
  /// Serves completions and tasks until stop(). Error: the ring broke.
  [[nodiscard]] Status run();
  /// One round of it: waits for a completion or a task, and serves what has come. Not from within a completion or a
  /// task: what they wait for may be in their own batch. Error: the ring broke.
  [[nodiscard]] Status run_once();
  /// `hook` is called at the end of each round, when all that has come is served, and at the beginning of the next, for
  /// what was asked in between. It may serve completions of the ring. Null: none. One at a time.
  void set_before_wait(BeforeWait* hook) noexcept;
  /// After run(): drops waiting and later tasks, so that no thread waits for an ended loop, and cancels what is in
  /// flight, so that the kernel no longer uses buffers. No completions follow. May be called twice.
  void close();

 private:
  explicit EventLoop(OwnedFd wake_fd) noexcept : wake_fd_(std::move(wake_fd)) {}
  void watch_wake_fd();
  void call_hook() noexcept {
    if (before_wait_ != nullptr) before_wait_->before_wait();
  }
  void run_tasks() EXCLUDES(mutex_);
  [[nodiscard]] bool has_tasks() EXCLUDES(mutex_);

  class WakeOperation final : public Operation {
   public:
    explicit WakeOperation(EventLoop& loop) noexcept : loop_(loop) {}
    void on_complete(int result, bool more) noexcept override;

   private:
    EventLoop& loop_;
  };

  OwnedFd wake_fd_;
  std::uint64_t wake_count_ = 0;
  WakeOperation wake_{*this};
  BeforeWait* before_wait_ = nullptr;  // loop's thread
  bool stopping_ = false;              // loop's thread
  bool serving_ = false;               // loop's thread: in a round, so that nobody begins another within
  std::vector<Task> running_;          // loop's thread
  Mutex mutex_;
  std::vector<Task> tasks_ GUARDED_BY(mutex_);
  bool closed_ GUARDED_BY(mutex_) = false;
};

}  // namespace mayfly
