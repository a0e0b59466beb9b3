#pragma once

#include "vmm/base/metrics.h"
#include "vmm/base/owned_fd.h"
#include "vmm/config/configuration.h"

#include <cstdint>
#include <map>
#include <string>

/// The metrics file or FIFO: one line of JSON a flush, counters as growth since the flush before (as the dialect's
/// clients expect), gauges as they are.
namespace mayfly {

class MetricsSink {
 public:
  /// Opens the path. Errors: it cannot be opened; the properties are longer than a line has room for.
  [[nodiscard]] static Result<MetricsSink> open(const MetricsConfig& config, const std::string& id);

  /// Writes one line; error where the path takes nothing now (a FIFO whose reader is gone or slow): nothing is lost
  /// then, the next line carries the growth. After a partial write the rest of the line goes first the next time, so
  /// readers get whole lines only.
  [[nodiscard]] Status flush(const Metrics& metrics);

 private:
  MetricsSink(OwnedFd file, MetricsConfig config, std::string id)
      : file_(std::move(file)), config_(std::move(config)), id_(std::move(id)) {}

  OwnedFd file_;
  MetricsConfig config_;
  std::string id_;
  std::map<std::string, std::uint64_t> flushed_;  // "group.name" to the value that was written last
  std::string unsent_;                            // of the line that was written last
};

}  // namespace mayfly
