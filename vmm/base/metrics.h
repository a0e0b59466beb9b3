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

/// All requests that are complete HTTP within the limits, also those that are not the API's.
struct ApiMetrics {
  Counter get_count, put_count, patch_count;
  Counter get_fails, put_fails, patch_fails;
  Gauge process_startup_time_us, process_startup_time_cpu_us;
};
/// Requests of one kind.
struct RequestCounters {
  Counter count, fails;
};
/// As the dialect sorts them; machine/request_metrics.h says which is which.
struct RequestMetrics {
  RequestCounters get_instance_info, get_machine_cfg, get_mmds;
  RequestCounters patch_drive, patch_machine_cfg, patch_mmds, patch_network;
  RequestCounters put_actions, put_boot_source, put_channel, put_cpu_cfg, put_drive, put_logger, put_machine_cfg,
      put_metrics, put_mmds, put_network, put_serial;
};
struct VcpuMetrics {
  Counter exit_io_in, exit_io_out, exit_mmio_read, exit_mmio_write, exit_kicked, failures, unclaimed_accesses;
};
struct UartMetrics {
  Counter read_count, write_count, dropped_bytes, rate_limiter_dropped_bytes, flush_errors;
};
/// Of all virtio transports together.
struct VirtioMetrics {
  Counter kicks, interrupts, driver_errors, needs_reset;
};
/// Of all drives together.
struct BlockMetrics {
  Counter read_count, write_count, flush_count, discard_count, write_zeroes_count, read_bytes, write_bytes;
  Counter execute_fails, invalid_reqs_count, rate_limiter_throttled_events, update_count, update_fails;
};
/// Of all network interfaces together.
struct NetMetrics {
  Counter rx_packets_count, rx_bytes_count, rx_fails, rx_no_buffer_count;
  Counter tx_packets_count, tx_bytes_count, tx_fails, tx_malformed_frames, tx_spoofed_mac_count, tx_no_tap_count;
  Counter rx_rate_limiter_throttled, tx_rate_limiter_throttled, tap_gone_count, update_count, update_fails;
};
/// Of the metadata service, on all interfaces together.
struct MmdsMetrics {
  Counter rx_count, rx_accepted, rx_accepted_err, rx_no_token, rx_invalid_token, tx_frames, tx_bytes;
  Counter connections_created, connections_destroyed;
};
/// Of channels, on all interfaces together. Bytes: rx from the guest, tx to it.
struct ChannelMetrics {
  Counter connections_created, connections_destroyed, refused_count, full_count, rx_bytes, tx_bytes;
};
struct LoggerMetrics {
  Counter missed_log_count, missed_metrics_count;
};
struct LatencyMetrics {
  Gauge start_us, pause_us, resume_us, full_create_snapshot_us, diff_create_snapshot_us, load_snapshot_us;
  Gauge revert_snapshot_us, live_snapshot_pause_us, branch_us, branch_pause_us;
};
struct BranchMetrics {
  Gauge children, own_pages, shared_pages;
  Counter made_count, fails;
};
struct SnapshotMetrics {
  Counter revert_count, reverted_bytes, held_back_count;
};

struct Metrics {
  ApiMetrics api;
  RequestMetrics requests;
  VcpuMetrics vcpu;
  UartMetrics uart;
  VirtioMetrics virtio;
  BlockMetrics block;
  NetMetrics net;
  MmdsMetrics mmds;
  ChannelMetrics channels;
  LoggerMetrics logger;
  SnapshotMetrics snapshot;
  BranchMetrics branch;
  LatencyMetrics latency;
};

// In the order of the documentation, which is the alphabet's.
namespace detail {

template <typename MetricsType, typename Visit>
void visit_api_and_drives(MetricsType& m, Visit& visit) {
  visit("api_server", "get_count", "GET requests answered", m.api.get_count);
  visit("api_server", "get_fails", "GET requests refused", m.api.get_fails);
  visit("api_server", "put_count", "PUT requests answered", m.api.put_count);
  visit("api_server", "put_fails", "PUT requests refused", m.api.put_fails);
  visit("api_server", "patch_count", "PATCH requests answered", m.api.patch_count);
  visit("api_server", "patch_fails", "PATCH requests refused", m.api.patch_fails);
  visit("api_server", "process_startup_time_us", "Start of the process to its API, microseconds",
        m.api.process_startup_time_us);
  visit("api_server", "process_startup_time_cpu_us", "CPU time until then, microseconds",
        m.api.process_startup_time_cpu_us);
  visit("block", "read_count", "Read requests", m.block.read_count);
  visit("block", "write_count", "Write requests", m.block.write_count);
  visit("block", "flush_count", "Flush requests", m.block.flush_count);
  visit("block", "discard_count", "Discard requests", m.block.discard_count);
  visit("block", "write_zeroes_count", "Write-zeroes requests", m.block.write_zeroes_count);
  visit("block", "read_bytes", "Bytes read from drives", m.block.read_bytes);
  visit("block", "write_bytes", "Bytes written to drives", m.block.write_bytes);
  visit("block", "execute_fails", "Requests that the host failed", m.block.execute_fails);
  visit("block", "invalid_reqs_count", "Requests that no device can serve", m.block.invalid_reqs_count);
  visit("block", "rate_limiter_throttled_events", "Times that a drive's rate limiter stopped it",
        m.block.rate_limiter_throttled_events);
  visit("block", "update_count", "Drives changed while running", m.block.update_count);
  visit("block", "update_fails", "Refused changes of drives", m.block.update_fails);
}

template <typename MetricsType, typename Visit>
void visit_latencies_and_metadata(MetricsType& m, Visit& visit) {
  visit("get_api_requests", "instance_info_count", "GET / answered", m.requests.get_instance_info.count);
  visit("get_api_requests", "machine_cfg_count", "GET /machine-config answered", m.requests.get_machine_cfg.count);
  visit("get_api_requests", "mmds_count", "GET /mmds answered", m.requests.get_mmds.count);
  visit("latencies_us", "start", "Start request to vCPU threads running, microseconds", m.latency.start_us);
  visit("latencies_us", "pause_vm", "Latest pause, microseconds", m.latency.pause_us);
  visit("latencies_us", "resume_vm", "Latest resume, microseconds", m.latency.resume_us);
  visit("latencies_us", "full_create_snapshot", "Latest full snapshot, microseconds",
        m.latency.full_create_snapshot_us);
  visit("latencies_us", "diff_create_snapshot", "Latest diff snapshot, microseconds",
        m.latency.diff_create_snapshot_us);
  visit("latencies_us", "load_snapshot", "Load request to vCPU threads ready or running, microseconds",
        m.latency.load_snapshot_us);
  visit("latencies_us", "revert_snapshot", "Latest revert, microseconds", m.latency.revert_snapshot_us);
  visit("latencies_us", "live_snapshot_pause",
        "Latest live snapshot: from its request until the machine went on, microseconds",
        m.latency.live_snapshot_pause_us);
  visit("latencies_us", "branch", "Latest branch: from its request until its children were up, microseconds",
        m.latency.branch_us);
  visit("latencies_us", "branch_pause", "Latest branch: from its request until the machine went on, microseconds",
        m.latency.branch_pause_us);
  visit("logger", "missed_log_count", "Log lines that could not be written", m.logger.missed_log_count);
  visit("logger", "missed_metrics_count", "Metrics lines that could not be written", m.logger.missed_metrics_count);
  visit("mmds", "rx_count", "Frames of the guest for the metadata service", m.mmds.rx_count);
  visit("mmds", "rx_accepted", "Of those, well-formed ones", m.mmds.rx_accepted);
  visit("mmds", "rx_accepted_err", "Of those, dropped ones", m.mmds.rx_accepted_err);
  visit("mmds", "rx_no_token", "Requests for metadata that lacked a token", m.mmds.rx_no_token);
  visit("mmds", "rx_invalid_token", "Requests for metadata with a token that is not valid", m.mmds.rx_invalid_token);
  visit("mmds", "tx_frames", "Frames of the metadata service for the guest", m.mmds.tx_frames);
  visit("mmds", "tx_bytes", "Bytes of those", m.mmds.tx_bytes);
  visit("mmds", "connections_created", "Connections to the metadata service", m.mmds.connections_created);
  visit("mmds", "connections_destroyed", "Of those, ended ones", m.mmds.connections_destroyed);
}

template <typename MetricsType, typename Visit>
void visit_interfaces(MetricsType& m, Visit& visit) {
  visit("net", "rx_packets_count", "Frames given to the guest", m.net.rx_packets_count);
  visit("net", "rx_bytes_count", "Bytes given to the guest", m.net.rx_bytes_count);
  visit("net", "rx_fails", "Reads of a TAP that failed", m.net.rx_fails);
  visit("net", "no_rx_avail_buffer", "Times that the guest had no receive buffer ready", m.net.rx_no_buffer_count);
  visit("net", "rx_rate_limiter_throttled", "Times that a receive rate limiter stopped an interface",
        m.net.rx_rate_limiter_throttled);
  visit("net", "tx_packets_count", "Frames taken from the guest", m.net.tx_packets_count);
  visit("net", "tx_bytes_count", "Bytes taken from the guest", m.net.tx_bytes_count);
  visit("net", "tx_fails", "Frames that a TAP refused", m.net.tx_fails);
  visit("net", "tx_malformed_frames", "Frames of the guest whose header is wrong", m.net.tx_malformed_frames);
  visit("net", "tx_spoofed_mac_count", "Frames of the guest with another's source address", m.net.tx_spoofed_mac_count);
  visit("net", "tx_no_tap_count", "Frames of the guest that an interface without a TAP dropped", m.net.tx_no_tap_count);
  visit("net", "tx_rate_limiter_throttled", "Times that a transmit rate limiter stopped an interface",
        m.net.tx_rate_limiter_throttled);
  visit("net", "tap_gone_count", "TAPs that went away under a running machine", m.net.tap_gone_count);
  visit("net", "update_count", "Interfaces changed while running", m.net.update_count);
  visit("net", "update_fails", "Refused changes of interfaces", m.net.update_fails);
}

template <typename MetricsType, typename Visit>
void visit_requests(MetricsType& m, Visit& visit) {
  visit("patch_api_requests", "drive_count", "PATCH /drives carried out", m.requests.patch_drive.count);
  visit("patch_api_requests", "drive_fails", "PATCH /drives refused", m.requests.patch_drive.fails);
  visit("patch_api_requests", "machine_cfg_count", "PATCH /machine-config carried out",
        m.requests.patch_machine_cfg.count);
  visit("patch_api_requests", "machine_cfg_fails", "PATCH /machine-config refused", m.requests.patch_machine_cfg.fails);
  visit("patch_api_requests", "mmds_count", "PATCH /mmds carried out", m.requests.patch_mmds.count);
  visit("patch_api_requests", "mmds_fails", "PATCH /mmds refused", m.requests.patch_mmds.fails);
  visit("patch_api_requests", "network_count", "PATCH /network-interfaces carried out", m.requests.patch_network.count);
  visit("patch_api_requests", "network_fails", "PATCH /network-interfaces refused", m.requests.patch_network.fails);
  visit("put_api_requests", "actions_count", "PUT /actions carried out", m.requests.put_actions.count);
  visit("put_api_requests", "actions_fails", "PUT /actions refused", m.requests.put_actions.fails);
  visit("put_api_requests", "boot_source_count", "PUT /boot-source carried out", m.requests.put_boot_source.count);
  visit("put_api_requests", "boot_source_fails", "PUT /boot-source refused", m.requests.put_boot_source.fails);
  visit("put_api_requests", "cpu_cfg_count", "PUT /cpu-config carried out", m.requests.put_cpu_cfg.count);
  visit("put_api_requests", "cpu_cfg_fails", "PUT /cpu-config refused", m.requests.put_cpu_cfg.fails);
  visit("put_api_requests", "drive_count", "PUT /drives carried out", m.requests.put_drive.count);
  visit("put_api_requests", "drive_fails", "PUT /drives refused", m.requests.put_drive.fails);
  visit("put_api_requests", "logger_count", "PUT /logger carried out", m.requests.put_logger.count);
  visit("put_api_requests", "logger_fails", "PUT /logger refused", m.requests.put_logger.fails);
  visit("put_api_requests", "machine_cfg_count", "PUT /machine-config carried out", m.requests.put_machine_cfg.count);
  visit("put_api_requests", "machine_cfg_fails", "PUT /machine-config refused", m.requests.put_machine_cfg.fails);
  visit("put_api_requests", "metrics_count", "PUT /metrics carried out", m.requests.put_metrics.count);
  visit("put_api_requests", "metrics_fails", "PUT /metrics refused", m.requests.put_metrics.fails);
  visit("put_api_requests", "channel_count", "PUT /channels carried out", m.requests.put_channel.count);
  visit("put_api_requests", "channel_fails", "PUT /channels refused", m.requests.put_channel.fails);
  visit("put_api_requests", "mmds_count", "PUT /mmds and /mmds/config carried out", m.requests.put_mmds.count);
  visit("put_api_requests", "mmds_fails", "PUT /mmds and /mmds/config refused", m.requests.put_mmds.fails);
  visit("put_api_requests", "network_count", "PUT /network-interfaces carried out", m.requests.put_network.count);
  visit("put_api_requests", "network_fails", "PUT /network-interfaces refused", m.requests.put_network.fails);
  visit("put_api_requests", "serial_count", "PUT /serial carried out", m.requests.put_serial.count);
  visit("put_api_requests", "serial_fails", "PUT /serial refused", m.requests.put_serial.fails);
}

template <typename MetricsType, typename Visit>
void visit_machine(MetricsType& m, Visit& visit) {
  visit("branch", "children", "Children of this process that are alive", m.branch.children);
  visit("branch", "own_pages", "Pages (4 KiB) of guest memory that no parent or child has, when last asked for",
        m.branch.own_pages);
  visit("branch", "shared_pages", "Pages (4 KiB) of guest memory that a parent or child has, too, when last asked for",
        m.branch.shared_pages);
  visit("branch", "made_count", "Children that came up", m.branch.made_count);
  visit("branch", "fails", "Children that did not come up", m.branch.fails);
  visit("channels", "connections_created", "Connections of guests to channels", m.channels.connections_created);
  visit("channels", "connections_destroyed", "Of those, ended ones", m.channels.connections_destroyed);
  visit("channels", "refused_count", "Connections of guests to which no socket of the host answered",
        m.channels.refused_count);
  visit("channels", "full_count", "Connections of guests that had to wait for a place", m.channels.full_count);
  visit("channels", "rx_bytes", "Bytes of guests given to sockets of the host", m.channels.rx_bytes);
  visit("channels", "tx_bytes", "Bytes of sockets of the host given to guests", m.channels.tx_bytes);
  visit("snapshot", "held_back_count", "Times that a machine waited for a live snapshot's writing (max_copied_mib)",
        m.snapshot.held_back_count);
  visit("snapshot", "revert_count", "Reverts to the snapshot that was loaded", m.snapshot.revert_count);
  visit("snapshot", "reverted_bytes", "Bytes of memory that reverts have dropped", m.snapshot.reverted_bytes);
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
  visit("virtio", "kicks", "Queue notifications that reached the loop", m.virtio.kicks);
  visit("virtio", "interrupts", "Interrupts sent", m.virtio.interrupts);
  visit("virtio", "driver_errors", "Register accesses that no driver should make", m.virtio.driver_errors);
  visit("virtio", "needs_reset", "Devices stopped because their driver broke the protocol", m.virtio.needs_reset);
}

}  // namespace detail

/// Calls visit(group, name, help, counter or gauge) for each metric.
template <typename MetricsType, typename Visit>
void for_each_metric(MetricsType& m, Visit visit) {
  detail::visit_api_and_drives(m, visit);
  detail::visit_latencies_and_metadata(m, visit);
  detail::visit_interfaces(m, visit);
  detail::visit_requests(m, visit);
  detail::visit_machine(m, visit);
}

/// All metrics in the Prometheus text format, each as mayfly_<group>_<name>.
[[nodiscard]] std::string prometheus_text(const Metrics& metrics);

}  // namespace mayfly
