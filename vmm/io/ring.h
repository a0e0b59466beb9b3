#pragma once

#include "vmm/base/error.h"

#include <liburing.h>
#include <sys/uio.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <utility>
#include <vector>

/// The monitor's one io_uring: what is submitted, and what has completed. EventLoop serves it.
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
  /// a multishot operation will complete again.
  virtual void on_complete(int result, bool more) noexcept = 0;
};

/// An Operation that calls a function.
class CallbackOperation final : public Operation {
 public:
  explicit CallbackOperation(std::move_only_function<void(int, bool)> callback) : callback_(std::move(callback)) {}
  void on_complete(int result, bool more) noexcept override { callback_(result, more); }

 private:
  std::move_only_function<void(int, bool)> callback_;
};

class Ring;

/// A file in the ring's table of registered files: an operation on it does not look its descriptor up. Taken out of
/// the table when destroyed, on the loop's thread; the file itself stays its owner's.
class RegisteredFile {
 public:
  RegisteredFile() = default;
  RegisteredFile(Ring& ring, unsigned slot) noexcept : ring_(&ring), slot_(slot) {}
  RegisteredFile(RegisteredFile&& other) noexcept : ring_(std::exchange(other.ring_, nullptr)), slot_(other.slot_) {}
  RegisteredFile& operator=(RegisteredFile&& other) noexcept;
  RegisteredFile(const RegisteredFile&) = delete;
  RegisteredFile& operator=(const RegisteredFile&) = delete;
  ~RegisteredFile();
  [[nodiscard]] int slot() const noexcept { return static_cast<int>(slot_); }
  [[nodiscard]] explicit operator bool() const noexcept { return ring_ != nullptr; }

 private:
  Ring* ring_ = nullptr;
  unsigned slot_ = 0;
};

/// Members are for one thread, the loop's.
class Ring {
 public:
  /// For files without a position: pipes, terminals, event descriptors.
  static constexpr std::uint64_t kNoOffset = ~0ULL;

  Ring() noexcept { ring_.ring_fd = -1; }
  Ring(const Ring&) = delete;
  Ring& operator=(const Ring&) = delete;

  void read(int fd, std::span<std::byte> buffer, std::uint64_t offset, Operation& operation);
  void write(int fd, std::span<const std::byte> buffer, std::uint64_t offset, Operation& operation);
  /// The same, by a thread of the kernel's from the first byte on: this one copies nothing.
  void write_by_worker(int fd, std::span<const std::byte> buffer, std::uint64_t offset, Operation& operation);
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
  void fallocate(int fd, int mode, std::uint64_t offset, std::uint64_t length, Operation& operation);
  /// madvise(2) of less than 4 GiB.
  void advise(std::span<std::byte> range, int advice, Operation& operation);
  /// The same, without a completion.
  void advise_unwatched(std::span<std::byte> range, int advice);
  /// Adds one to an event descriptor, without a completion.
  void write_event(int event_fd);
  /// Completes each time that `fd` is ready for `events` (POLLIN...), until cancelled.
  void poll(int fd, unsigned events, Operation& operation);
  /// Completes once, when `fd` is ready for `events`.
  void poll_once(int fd, unsigned events, Operation& operation);
  /// Completes with -ETIME once `time` has passed; it is copied when the operation is submitted, so it must live until
  /// then: a constant.
  void sleep(const __kernel_timespec& time, Operation& operation);
  /// Asks for the end of `operation`, which completes with -ECANCELED unless it was done already.
  void cancel(Operation& operation);
  /// Puts a file into the ring's table. Errors: the table is full, the kernel refuses.
  [[nodiscard]] Result<RegisteredFile> register_file(int fd);

  // --- Between two waits of the loop: for its hook (BeforeWait)
  /// Hands over what is queued, if anything is.
  void submit();
  /// Hands over what is queued, and tells what has completed by then; false: nothing had.
  bool serve_what_completes_at_once();
  /// Whether something has completed. No system call.
  [[nodiscard]] bool has_completions() const noexcept;
  /// Whether operations on registered files were queued since the loop last waited, or since the last
  /// serve_what_completes_at_once().
  [[nodiscard]] bool has_file_operations() const noexcept { return file_operations_queued_; }

 protected:
  ~Ring();
  /// As EventLoop::create().
  [[nodiscard]] Status set_up();
  /// Hands over what is queued, waits for `count` completions, and tells those that have come. Error: the ring broke.
  [[nodiscard]] Status wait(unsigned count);
  /// Cancels what is in flight, without completions, and releases the files.
  void close_ring();

 private:
  friend class RegisteredFile;
  friend class RingAttacker;  // of a binary for tests, which has the ring try what it may not (tests/attacks/)
  /// A cleared entry of the submission queue.
  [[nodiscard]] io_uring_sqe& next_sqe();
  /// For `operation`; none: its completion is dropped.
  void submit_for(io_uring_sqe& sqe, Operation* operation);
  void submit_on_file(io_uring_sqe& sqe, Operation& operation);
  void submit_unwatched(io_uring_sqe& sqe);
  /// Takes the completions at hand.
  void reap(bool tell);
  void unregister_file(unsigned slot) noexcept;

  class Unwatched final : public Operation {
    void on_complete(int /*result*/, bool /*more*/) noexcept override {}
  };

  io_uring ring_{};
  Unwatched unwatched_;          // stands for operations whose success makes no completion
  std::uint64_t in_flight_ = 0;  // submissions whose last completion is still to come
  bool file_operations_queued_ = false;
  std::vector<unsigned> free_file_slots_;  // made with the table
};

}  // namespace mayfly
