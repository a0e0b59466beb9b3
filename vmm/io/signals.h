#pragma once

#include "vmm/base/error.h"
#include "vmm/base/owned_fd.h"
#include "vmm/io/event_loop.h"

#include <functional>
#include <memory>

/// SIGTERM and SIGINT as events of the loop, so that a machine that is told to stop ends cleanly.
namespace mayfly {

class StopSignals {
 public:
  /// Blocks the signals in this thread and all that it starts afterwards, and ignores SIGPIPE. Call before any thread
  /// is made.
  [[nodiscard]] static Status block();

  /// Tells `on_signal` the number of each signal that comes, on the loop's thread, in a task: it may wait for what the
  /// ring brings. After block().
  [[nodiscard]] static Result<std::unique_ptr<StopSignals>> watch(EventLoop& loop, std::function<void(int)> on_signal);

  /// Tells of signals that have come, now: the loop may hear of them after something that was sent later. On its
  /// thread.
  void look();

  /// Readable while a signal waits that was not reported.
  [[nodiscard]] int fd() const noexcept { return fd_.get(); }

 private:
  StopSignals(EventLoop& loop, OwnedFd fd, std::function<void(int)> on_signal);
  void on_ready(int result, bool more);

  EventLoop& loop_;
  OwnedFd fd_;
  std::function<void(int)> on_signal_;
  CallbackOperation operation_;
};

}  // namespace mayfly
