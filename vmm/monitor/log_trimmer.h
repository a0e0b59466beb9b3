#pragma once

#include "vmm/base/log.h"
#include "vmm/io/event_loop.h"

#include <optional>

namespace mayfly {

/// Frees the oldest bytes of a log with max_bytes, by the ring: the threads that write lines can neither wait nor free.
class LogTrimmer {
 public:
  LogTrimmer(EventLoop& loop, Log& log);
  LogTrimmer(const LogTrimmer&) = delete;
  LogTrimmer& operator=(const LogTrimmer&) = delete;
  ~LogTrimmer();

  /// Between the start of an operation and its completion.
  [[nodiscard]] bool is_freeing() const noexcept { return trim_.has_value(); }

 private:
  void begin();
  void on_freed(int result);

  EventLoop& loop_;
  Log& log_;
  std::optional<Log::Trim> trim_;  // in flight
  CallbackOperation operation_{[this](int result, bool) { on_freed(result); }};
};

}  // namespace mayfly
