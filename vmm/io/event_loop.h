#pragma once

#include "vmm/base/error.h"
#include "vmm/base/owned_fd.h"

#include <liburing.h>
#include <sys/uio.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <span>
#include <utility>
#include <vector>

/// The monitor's one io_uring and the thread that serves it.
///
///   auto loop = EventLoop::create();
///   loop->post([&] { ... });                      // from any thread: runs on the loop's thread
///   loop->read(fd, buffer, kNoOffset, operation); // on the loop's thread: operation.on_complete(result) follows
///   loop->run();                                  // until stop()
namespace mayfly {

/// Something in flight in the ring. Lives in its owner (nothing is allocated per request) and must outlive its
/// completion; one submission at a time.
class Operation {
 public:
  Operation() = default;
  Operation(const Operation&) = delete;
  Operation& operator=(const Operation&) = delete;
  virtual ~Operation() = default;
  /// The completion, on the loop's thread. `result`: what the system call would return, or -errno. `more` says that
  /// a multishot operation goes on.
  virtual void on_complete(int result, bool more) noexcept = 0;
};

class EventLoop;

/// An Operation that calls a function.
class CallbackOperation final : public Operation {
 public:
  explicit CallbackOperation(std::move_only_function<void(int, bool)> callback) : callback_(std::move(callback)) {}
  void on_complete(int result, bool more) noexcept override { callback_(result, more); }

 private:
  std::move_only_function<void(int, bool)> callback_;
};

/// What is to be done once after the completions of a round, however many asked for it: see at_round_end().
class RoundTask {
 public:
  RoundTask() = default;
  RoundTask(const RoundTask&) = delete;
  RoundTask& operator=(const RoundTask&) = delete;
  virtual void on_round_end() noexcept = 0;

 protected:
  ~RoundTask() = default;

 private:
  friend class EventLoop;
  bool due_ = false;
};

/// Somebody whose next work may come so soon that looking for it is cheaper than being told: see watch_closely().
class Poller {
 public:
  enum class Found { Nothing, Little, Plenty };
  Poller() = default;
  Poller(const Poller&) = delete;
  Poller& operator=(const Poller&) = delete;
  /// Looks for work and begins it.
  virtual Found poll() noexcept = 0;
  /// Nobody looks any more: asks to be told, and begins what has come meanwhile.
  virtual void stop_polling() noexcept = 0;

 protected:
  ~Poller() = default;

 private:
  friend class EventLoop;
  bool watched_ = false;
};

/// A file in the ring's table of registered files: an operation on it does not look its descriptor up. Taken out of
/// the table when destroyed, on the loop's thread; the file itself stays its owner's.
class RegisteredFile {
 public:
  RegisteredFile() = default;
  RegisteredFile(EventLoop& loop, unsigned slot) noexcept : loop_(&loop), slot_(slot) {}
  RegisteredFile(RegisteredFile&& other) noexcept : loop_(std::exchange(other.loop_, nullptr)), slot_(other.slot_) {}
  RegisteredFile& operator=(RegisteredFile&& other) noexcept;
  RegisteredFile(const RegisteredFile&) = delete;
  RegisteredFile& operator=(const RegisteredFile&) = delete;
  ~RegisteredFile();
  [[nodiscard]] int slot() const noexcept { return static_cast<int>(slot_); }
  [[nodiscard]] explicit operator bool() const noexcept { return loop_ != nullptr; }

 private:
  EventLoop* loop_ = nullptr;
  unsigned slot_ = 0;
};

class EventLoop {
 public:
  using Task = std::move_only_function<void()>;
  /// For files without a position: pipes, terminals, event descriptors.
  static constexpr std::uint64_t kNoOffset = ~0ULL;

  /// Sets the ring up, with SINGLE_ISSUER and DEFER_TASKRUN where the kernel has them; the creating thread is the
  /// loop's. From then on the ring takes only the operations that this class has. Errors: no io_uring on this host
  /// (old, or switched off), a limit of open files below that of register_file(), each with its remedy.
  [[nodiscard]] static Result<std::unique_ptr<EventLoop>> create();
  EventLoop(const EventLoop&) = delete;
  EventLoop& operator=(const EventLoop&) = delete;
  ~EventLoop();

  /// Runs `task` on the loop's thread, after what was posted before; after close(), destroys it unrun. Any thread.
  void post(Task task);
  /// After run(): drops the tasks that wait and all later ones, so that nobody waits for a loop that has ended, and
  /// cancels what is in flight, so that the kernel is done with everybody's buffers. No more completions are told.
  /// May be called twice. Loop's thread.
  void close();
  /// Makes run() return after the tasks and completions at hand. Any thread.
  void stop();
  /// Serves completions and tasks until stop(). Error: the ring broke.
  [[nodiscard]] Status run();
  /// One round of it: waits for a completion or a task, and serves what has come. Loop's thread, and neither from
  /// within a completion nor from within a task: what they wait for may be in their own batch. Error: the ring broke.
  [[nodiscard]] Status run_once();

  // What follows is for the loop's thread only.
  void read(int fd, std::span<std::byte> buffer, std::uint64_t offset, Operation& operation);
  void write(int fd, std::span<const std::byte> buffer, std::uint64_t offset, Operation& operation);
  /// As readv(2) and writev(2) at `offset`. The vectors must live until the completion.
  void readv(const RegisteredFile& file, std::span<const iovec> buffers, std::uint64_t offset, Operation& operation);
  void writev(const RegisteredFile& file, std::span<const iovec> buffers, std::uint64_t offset, Operation& operation);
  /// As readv(), for what is there already: -EAGAIN instead of waiting. -EOPNOTSUPP where the file cannot tell.
  void readv_now(const RegisteredFile& file, std::span<const iovec> buffers, std::uint64_t offset,
                 Operation& operation);
  /// fdatasync(2).
  void sync_data(const RegisteredFile& file, Operation& operation);
  /// fallocate(2) with `mode`.
  void fallocate(const RegisteredFile& file, int mode, std::uint64_t offset, std::uint64_t length,
                 Operation& operation);
  /// Adds one to an event descriptor before the loop next waits; nobody is told. What completes at once is served
  /// first, within limits: whoever is woken finds all that has come, and need not be woken for it again. False: it was
  /// due already.
  bool signal(int event_fd);
  /// madvise(2) of less than 4 GiB.
  void advise(std::span<std::byte> range, int advice, Operation& operation);
  /// The same, whose end nobody is told.
  void advise_unwatched(std::span<std::byte> range, int advice);
  /// Puts a file into the ring's table. Errors: the table is full, the kernel refuses.
  [[nodiscard]] Result<RegisteredFile> register_file(int fd);
  /// Calls `task` once after the completions at hand, and before what they have caused is submitted.
  void at_round_end(RoundTask& task);
  /// Before the loop next waits, `poller` may be asked for a short while whether it has work: worth it for one that is
  /// served one request at a time. While that does not pay, it is done ever more rarely; Found::Plenty ends it, since
  /// waiting makes batches, which are cheaper still. stop_polling() always follows.
  void watch_closely(Poller& poller);
  /// Makes the loop go round once. Any thread.
  void wake();
  /// Completes each time that `fd` is ready for `events` (POLLIN...), until cancelled.
  void poll(int fd, unsigned events, Operation& operation);
  /// Completes once, when `fd` is ready for `events`.
  void poll_once(int fd, unsigned events, Operation& operation);
  /// Completes with -ETIME once `time` has passed; it is copied when the operation is submitted, so it must live until
  /// then: a constant.
  void sleep(const __kernel_timespec& time, Operation& operation);
  /// Asks for the end of `operation`, which completes with -ECANCELED unless it was done already.
  void cancel(Operation& operation);

 private:
  explicit EventLoop(OwnedFd wake_fd) noexcept : wake_fd_(std::move(wake_fd)) {}
  /// A cleared entry of the submission queue, for `operation` (none: its completion is told to nobody).
  [[nodiscard]] io_uring_sqe& next_sqe();
  void submit_for(io_uring_sqe& sqe, Operation* operation);
  /// Takes the completions at hand.
  void reap(bool tell);
  void end_round();
  /// While signals are due, serves operations on registered files that complete at once; then sends the signals.
  void serve_prompt_completions();
  void send_signals();
  /// Asks the pollers, for as long as that is promising.
  void poll_closely();
  [[nodiscard]] bool has_news() const noexcept;
  friend class RegisteredFile;
  friend class RingAttacker;  // of a binary for tests, which has the ring try what it may not (tests/attacks/)
  void unregister_file(unsigned slot) noexcept;
  void submit_on(io_uring_sqe& sqe, Operation& operation);
  void watch_wake_fd();
  void run_tasks();
  [[nodiscard]] bool has_tasks();

  class WakeOperation final : public Operation {
   public:
    explicit WakeOperation(EventLoop& loop) noexcept : loop_(loop) {}
    void on_complete(int result, bool more) noexcept override;

   private:
    EventLoop& loop_;
  };

  class Unwatched final : public Operation {
    void on_complete(int /*result*/, bool /*more*/) noexcept override {}
  };

  io_uring ring_{};
  Unwatched unwatched_;  // stands for operations whose success makes no completion
  OwnedFd wake_fd_;
  std::uint64_t wake_count_ = 0;
  WakeOperation wake_{*this};
  bool stopping_ = false;        // loop's thread
  bool serving_ = false;         // loop's thread: in a round, so that nobody begins another within
  std::uint64_t in_flight_ = 0;  // loop's thread: submissions whose last completion is still to come
  std::mutex mutex_;
  std::vector<Task> tasks_;                // guarded by mutex_
  bool closed_ = false;                    // guarded by mutex_
  std::vector<Task> running_;              // loop's thread
  std::vector<RoundTask*> round_tasks_;    // loop's thread
  std::vector<RoundTask*> ending_tasks_;   // loop's thread
  std::vector<int> signals_;               // loop's thread: event descriptors, each once
  bool file_operations_queued_ = false;    // loop's thread: on registered files, since it last waited or settled
  std::vector<Poller*> pollers_;           // loop's thread
  unsigned polls_to_skip_ = 0;             // loop's thread: idle spells in which polling is not tried
  unsigned next_skip_ = 1;                 // loop's thread: how many, after the next one that is in vain
  std::vector<unsigned> free_file_slots_;  // loop's thread; made with the table
};

/// A one-shot timer on CLOCK_MONOTONIC. arm() and cancel() are safe on any thread (one system call); the callback runs
/// on the loop's thread, once listen() was called. Then it must live as long as the loop runs.
class LoopTimer {
 public:
  /// Error: the host gives no descriptor. Nothing is in the ring yet.
  [[nodiscard]] static Result<std::unique_ptr<LoopTimer>> create(EventLoop& loop, std::move_only_function<void()> fire);
  /// Begins to serve expiries. May be called again. Loop's thread.
  void listen();
  void arm(std::uint64_t deadline_ns) noexcept;
  void cancel() noexcept;

 private:
  LoopTimer(EventLoop& loop, OwnedFd fd, std::move_only_function<void()> fire) noexcept;
  void on_ready(int result, bool more) noexcept;

  EventLoop& loop_;
  OwnedFd fd_;
  std::move_only_function<void()> fire_;
  CallbackOperation operation_;
  bool listening_ = false;  // loop's thread
};

}  // namespace mayfly
