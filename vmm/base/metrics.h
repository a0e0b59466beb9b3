#pragma once

#include <atomic>
#include <cstdint>
#include <string>
#include <string_view>

/// Counters of one machine, grouped and named as the dialect's metrics are where they fit.
///
///   metrics.vcpu.exit_io_out.add();
///   for_each_metric(metrics, [](std::string_view group, std::string_view name, std::string_view help, auto& c) {...});
namespace mayfly {

/// A number that only grows. Any thread; costs one uncontended atomic addition.
class Counter {
 public:
  void add(std::uint64_t amount = 1) noexcept { value_.fetch_add(amount, std::memory_order_relaxed); }
  [[nodiscard]] std::uint64_t value() const noexcept { return value_.load(std::memory_order_relaxed); }

 private:
  std::atomic<std::uint64_t> value_{0};
};

/// A number that is set to its latest value.
class Gauge {
 public:
  void set(std::uint64_t value) noexcept { value_.store(value, std::memory_order_relaxed); }
  [[nodiscard]] std::uint64_t value() const noexcept { return value_.load(std::memory_order_relaxed); }

 private:
  std::atomic<std::uint64_t> value_{0};
};

struct ApiMetrics {
  Counter get_count, put_count, patch_count;
  Counter get_fails, put_fails, patch_fails;
};
struct VcpuMetrics {
  Counter exit_io_in, exit_io_out, exit_mmio_read, exit_mmio_write, exit_kicked, failures, unclaimed_accesses;
};
struct UartMetrics {
  Counter read_count, write_count, dropped_bytes, rate_limiter_dropped_bytes, flush_errors;
};
struct LoggerMetrics {
  Counter missed_metrics_count;
};
struct LatencyMetrics {
  Gauge start_us, pause_us, resume_us;
};

struct Metrics {
  ApiMetrics api;
  VcpuMetrics vcpu;
  UartMetrics uart;
  LoggerMetrics logger;
  LatencyMetrics latency;
};

/// Calls visit(group, name, help, counter or gauge) for each metric, in the order of the documentation.
template <typename MetricsType, typename Visit>
void for_each_metric(MetricsType& m, Visit visit) {
  visit("api_server", "get_count", "GET requests answered", m.api.get_count);
  visit("api_server", "get_fails", "GET requests refused", m.api.get_fails);
  visit("api_server", "put_count", "PUT requests answered", m.api.put_count);
  visit("api_server", "put_fails", "PUT requests refused", m.api.put_fails);
  visit("api_server", "patch_count", "PATCH requests answered", m.api.patch_count);
  visit("api_server", "patch_fails", "PATCH requests refused", m.api.patch_fails);
  visit("latencies_us", "start", "Start request to vCPU threads running, microseconds", m.latency.start_us);
  visit("latencies_us", "pause", "Latest pause, microseconds", m.latency.pause_us);
  visit("latencies_us", "resume", "Latest resume, microseconds", m.latency.resume_us);
  visit("logger", "missed_metrics_count", "Metrics lines that could not be written", m.logger.missed_metrics_count);
  visit("uart", "read_count", "Bytes given to the guest's serial port", m.uart.read_count);
  visit("uart", "write_count", "Bytes taken from the guest's serial port", m.uart.write_count);
  visit("uart", "dropped_bytes", "Serial output dropped for want of a reader", m.uart.dropped_bytes);
  visit("uart", "rate_limiter_dropped_bytes", "Serial output dropped by the rate limiter",
        m.uart.rate_limiter_dropped_bytes);
  visit("uart", "flush_errors", "Failed writes of serial output", m.uart.flush_errors);
  visit("vcpu", "exit_io_in", "Port reads that reached the monitor", m.vcpu.exit_io_in);
  visit("vcpu", "exit_io_out", "Port writes that reached the monitor", m.vcpu.exit_io_out);
  visit("vcpu", "exit_mmio_read", "MMIO loads that reached the monitor", m.vcpu.exit_mmio_read);
  visit("vcpu", "exit_mmio_write", "MMIO stores that reached the monitor", m.vcpu.exit_mmio_write);
  visit("vcpu", "exit_kicked", "Returns of KVM_RUN for a pause, a resume or a stop", m.vcpu.exit_kicked);
  visit("vcpu", "failures", "vCPUs stopped by an error", m.vcpu.failures);
  visit("vcpu", "unclaimed_accesses", "Port and MMIO accesses that no device answers", m.vcpu.unclaimed_accesses);
}

/// All metrics in the Prometheus text format, each as mayfly_<group>_<name>.
[[nodiscard]] std::string prometheus_text(const Metrics& metrics);

}  // namespace mayfly
