#include "vmm/machine/metrics_file.h"

#include "vmm/base/clock.h"
#include "vmm/base/try.h"

#include <utility>

namespace mayfly {
namespace {

/// The dialect's clients count on a metrics line at least this often.
constexpr std::uint64_t kPeriodNs = 60'000'000'000;

}  // namespace

Status MetricsFile::open(const MetricsConfig& config, const std::string& id) {
  auto sink = TRY(MetricsSink::open(config, id));
  if (!timer_) {
    timer_ = TRY(LoopTimer::create(loop_, [this] {
      (void)flush();
      timer_->arm(monotonic_ns() + kPeriodNs);
    }));
    timer_->listen();
    timer_->arm(monotonic_ns() + kPeriodNs);
  }
  sink_.emplace(std::move(sink));
  return {};
}

Status MetricsFile::flush() {
  if (!sink_) return fail(ErrorKind::State, "there is no metrics file: send PUT /metrics with metrics_path first");
  note_missed_log_lines();
  auto flushed = sink_->flush(metrics_);
  if (!flushed) metrics_.logger.missed_metrics_count.add();
  return flushed;
}

void MetricsFile::note_missed_log_lines() {
  Counter& counted = metrics_.logger.missed_log_count;
  counted.add(log_.missed() - counted.value());
}

}  // namespace mayfly
