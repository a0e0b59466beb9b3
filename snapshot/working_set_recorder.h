#pragma once

#include "snapshot/pages.h"
#include "vmm/base/error.h"
#include "vmm/base/log.h"
#include "vmm/base/mutex.h"
#include "vmm/base/owned_fd.h"
#include "vmm/base/thread_kind.h"
#include "vmm/memory/guest_memory.h"

#include <cstdint>
#include <memory>
#include <thread>
#include <vector>

/// Which pages of its memory a restored guest touches, to the page, and in which order.
///
///   auto recorder = WorkingSetRecorder::start(memory, std::move(layers), log);
///   ...                                         // the machine runs; its first touches are slower than usual
///   auto touched = (*recorder)->touched();
///
/// A thread of its own gives each page from its memory file when anybody first touches it (userfaultfd(2)): a vCPU, the
/// ring or this process. It does so after stop(), too, until it is destroyed.
namespace mayfly {

class WorkingSetRecorder {
 public:
  /// `memory` is anonymous and untouched, and is not touched any more when the recorder is destroyed. A page that
  /// cannot be read from its file is logged, and its waiter gets an error. `enter_thread` is called by the thread, first.
  /// Errors: as watch_for_faults().
  [[nodiscard]] static Result<std::unique_ptr<WorkingSetRecorder>> start(const GuestMemory& memory, MemoryLayers layers,
                                                                         Log& log,
                                                                         const ThreadEntry& enter_thread = {});
  WorkingSetRecorder(const WorkingSetRecorder&) = delete;
  WorkingSetRecorder& operator=(const WorkingSetRecorder&) = delete;
  ~WorkingSetRecorder();

  /// What was touched so far, as offsets in the memory file in the order of the first touch. Any thread, as the next.
  [[nodiscard]] std::vector<std::uint64_t> touched() const;
  /// While `all` is true, touches do not count.
  void ignore(bool all);
  /// Nothing is remembered any more.
  void stop();

 private:
  struct Stretch {
    std::byte* begin;
    std::uint64_t length;
    std::uint64_t offset;  ///< In the file.
  };
  WorkingSetRecorder(const GuestMemory& memory, OwnedFd userfault, OwnedFd stop_event, MemoryLayers layers, Log& log);
  void serve(const ThreadEntry& enter_thread);
  /// Answers the faults at hand.
  void answer();
  void give_page(std::uint64_t address);
  /// Whoever waits for the page gets an error instead of a wrong page, as from a mapped file.
  void deny_page(std::byte* page, std::uint64_t offset);
  void wake(std::byte* page);

  OwnedFd userfault_;
  OwnedFd stop_event_;
  MemoryLayers layers_;
  Log& log_;
  std::vector<Stretch> stretches_;
  mutable Mutex mutex_;
  bool ignoring_ GUARDED_BY(mutex_) = false;
  bool stopped_ GUARDED_BY(mutex_) = false;
  std::vector<std::uint64_t> touched_ GUARDED_BY(mutex_);
  std::thread thread_;
};

}  // namespace mayfly
