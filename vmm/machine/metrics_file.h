#pragma once

#include "vmm/base/log.h"
#include "vmm/base/metrics.h"
#include "vmm/config/configuration.h"
#include "vmm/io/event_loop.h"
#include "vmm/io/loop_timer.h"
#include "vmm/machine/metrics_sink.h"

#include <memory>
#include <optional>
#include <string>

namespace mayfly {

/// The metrics, and the file that they are written to once a minute and when asked. Loop's thread.
class MetricsFile {
 public:
  MetricsFile(EventLoop& loop, Log& log, Metrics& metrics) noexcept : loop_(loop), log_(log), metrics_(metrics) {}

  /// Errors: the path cannot be opened, the host gives no timer; nothing changes then.
  [[nodiscard]] Status open(const MetricsConfig& config, const std::string& id);
  /// Errors: there is no file, or it takes nothing now.
  [[nodiscard]] Status flush();
  /// Brings what the log has counted into the metrics.
  void note_missed_log_lines();

 private:
  EventLoop& loop_;
  Log& log_;
  Metrics& metrics_;
  std::optional<MetricsSink> sink_;
  std::unique_ptr<LoopTimer> timer_;
};

}  // namespace mayfly
