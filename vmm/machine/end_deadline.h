#pragma once

#include "vmm/base/error.h"
#include "vmm/base/log.h"
#include "vmm/base/owned_fd.h"

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <thread>
#include <utility>

/// A machine that is to end is gone five seconds later, whatever its guest, storage, page server or clients do: what
/// has not ended by then is left to the kernel, by _exit().
///
/// The loop's thread may be the one that hangs (a file of a server that is gone, memory that nobody gives). So another
/// one looks after this: the API's, or, where there is none, EndWatch's.
namespace mayfly {

class EndDeadline {
 public:
  /// `leave` is called with the exit code, once, by who watches, and does not return.
  using Leave = std::function<void(int)>;
  /// `signal_fd`: readable while a signal to stop waits to be taken (StopSignals). Error: the host gives no descriptor.
  [[nodiscard]] static Result<std::unique_ptr<EndDeadline>> create(Log& log, int signal_fd, Leave leave);
  EndDeadline(const EndDeadline&) = delete;
  EndDeadline& operator=(const EndDeadline&) = delete;

  /// The machine is ending, with that exit code; the first time counts. Any thread.
  void begin(int exit_code) noexcept;
  /// What the loop's thread is about to wait for, or may have to: static text, for the log's line. Any thread.
  void waiting_for(const char* what) noexcept { waiting_for_.store(what, std::memory_order_relaxed); }

  // For who watches, on a thread of its own
  /// Both are readable when there may be news.
  [[nodiscard]] int begun_fd() const noexcept { return begun_.get(); }
  [[nodiscard]] int signal_fd() const noexcept { return signal_fd_; }
  /// To be called when one of these was readable, and when the time is over that the call before said: in milliseconds;
  /// -1: there is no deadline.
  [[nodiscard]] int watch();

 private:
  EndDeadline(Log& log, int signal_fd, OwnedFd begun, Leave leave) noexcept
      : log_(log), signal_fd_(signal_fd), begun_(std::move(begun)), leave_(std::move(leave)) {}

  Log& log_;
  int signal_fd_;
  OwnedFd begun_;
  Leave leave_;
  std::atomic<std::uint64_t> deadline_ns_{0};  // 0: none
  std::atomic<int> exit_code_{0};
  std::atomic<const char*> waiting_for_{"the request that is being carried out"};
};

/// Watches a deadline on a thread of its own, which is joined at the end.
class EndWatch {
 public:
  /// The thread calls `enter` first. Error: the host gives no descriptors or threads.
  [[nodiscard]] static Result<std::unique_ptr<EndWatch>> start(EndDeadline& deadline, std::function<void()> enter);
  EndWatch(const EndWatch&) = delete;
  EndWatch& operator=(const EndWatch&) = delete;
  ~EndWatch();

 private:
  EndWatch(EndDeadline& deadline, OwnedFd stop_event) noexcept
      : deadline_(deadline), stop_event_(std::move(stop_event)) {}
  void serve();

  EndDeadline& deadline_;
  OwnedFd stop_event_;
  std::thread thread_;
};

}  // namespace mayfly
