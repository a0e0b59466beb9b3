#pragma once

#include "vmm/base/owned_fd.h"
#include "vmm/io/event_loop.h"

#include <cstdint>
#include <functional>
#include <memory>

namespace mayfly {

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
