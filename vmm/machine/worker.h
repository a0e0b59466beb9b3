#pragma once

#include "vmm/base/error.h"
#include "vmm/io/event_loop.h"

#include <functional>
#include <stop_token>
#include <string_view>
#include <thread>

/// Work that waits for files or other processes, off the loop's thread: one job at a time, each on a thread of its own.
///
///   worker.begin([&](const std::stop_token& stop) { result = write(stop); },
///                [&] { answer(result); });
namespace mayfly {

/// Members are for the loop's thread.
class Worker {
 public:
  using Job = std::move_only_function<void(const std::stop_token&)>;
  using Done = std::move_only_function<void()>;
  Worker() = default;
  Worker(const Worker&) = delete;
  Worker& operator=(const Worker&) = delete;
  virtual ~Worker() = default;
  /// Does `job`; `done` follows on the loop's thread, in a task of its own. Not while another is being done. Error: the
  /// host gives no thread; nothing was begun.
  [[nodiscard]] virtual Status begin(Job job, Done done) = 0;
  /// Asks the job to end soon; its `done` still follows.
  virtual void stop() noexcept = 0;
};

/// The thread of each job has the filter of the loop's, which makes it.
class ThreadWorker final : public Worker {
 public:
  explicit ThreadWorker(EventLoop& loop) noexcept : loop_(loop) {}
  [[nodiscard]] Status begin(Job job, Done done) override;
  void stop() noexcept override { thread_.request_stop(); }

 private:
  EventLoop& loop_;
  std::jthread thread_;
};

}  // namespace mayfly
