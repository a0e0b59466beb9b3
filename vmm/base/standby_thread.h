#pragma once

#include "vmm/base/error.h"

#include <functional>
#include <memory>
#include <semaphore>
#include <thread>

namespace mayfly {

/// A thread that waits for its work: made while there is time, since clone(2) and its stack cost about 50 us.
///
///   auto standby = StandbyThread::start([] { name_it(); });        // the thread does that at once
///   ...
///   std::thread thread = std::move(*standby).begin([&] { ... });   // one wake-up
///
/// Without work it ends with its owner. It inherits the signal mask of the thread that starts it.
class StandbyThread {
 public:
  /// A thread that does what `ready` says, and waits. Error: the host gives no more threads.
  [[nodiscard]] static Result<StandbyThread> start(std::function<void()> ready);
  StandbyThread(StandbyThread&&) = default;
  StandbyThread& operator=(StandbyThread&&) = delete;
  ~StandbyThread();

  /// Once. The thread is the caller's to join.
  [[nodiscard]] std::thread begin(std::function<void()> work) &&;

 private:
  struct Turn {
    std::function<void()> work;  // empty: none will come
    std::binary_semaphore given{0};
  };
  StandbyThread(std::shared_ptr<Turn> turn, std::thread thread) noexcept
      : turn_(std::move(turn)), thread_(std::move(thread)) {}

  std::shared_ptr<Turn> turn_;  // the thread's as well
  std::thread thread_;
};

}  // namespace mayfly
