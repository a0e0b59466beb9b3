#include "vmm/machine/metrics_sink.h"

#include "vmm/base/clock.h"
#include "vmm/base/json_writer.h"

#include <ctime>
#include <type_traits>

#include <fmt/format.h>

namespace mayfly {
namespace {

/// With as much a line is within what a pipe takes whole (PIPE_BUF): processes may share one.
constexpr std::size_t kLargestProperties = 256;

}  // namespace

Result<MetricsSink> MetricsSink::open(const MetricsConfig& config, const std::string& id) {
  std::size_t size = 0;
  for (const auto& [name, value] : config.properties) size += name.size() + value.size();
  if (size > kLargestProperties)
    return fail(ErrorKind::TooLarge, "properties have {} bytes of names and values; at most {} fit a line", size,
                kLargestProperties);
  auto file = open_line_sink(config.metrics_path, "metrics_path");
  if (!file) return propagate(file);
  return MetricsSink{std::move(*file), config, id};
}

Status MetricsSink::flush(const Metrics& metrics) {
  const auto refused = [this] {
    return fail(ErrorKind::System, "metrics_path {} does not take a line now: its reader is gone or slow",
                config_.metrics_path);
  };
  if (!unsent_.empty()) unsent_.erase(0, write_now(file_.get(), unsent_));
  if (!unsent_.empty()) return refused();
  std::map<std::string, std::uint64_t> values;
  JsonWriter json;
  json.begin_object();
  json.field("utc_timestamp_ms", clock_ns(CLOCK_REALTIME) / 1'000'000);
  if (config_.emit_id) json.field("id", std::string_view{id_});
  if (!config_.properties.empty()) {
    json.key("properties");
    json.begin_object();
    for (const auto& [name, value] : config_.properties) json.field(name, std::string_view{value});
    json.end_object();
  }
  std::string_view open_group;
  for_each_metric(metrics, [&](std::string_view group, std::string_view name, std::string_view, const auto& metric) {
    if (group != open_group) {
      if (!open_group.empty()) json.end_object();
      json.key(group);
      json.begin_object();
      open_group = group;
    }
    const std::uint64_t now_value = metric.value();
    std::uint64_t value = now_value;
    if constexpr (std::is_same_v<std::remove_cvref_t<decltype(metric)>, Counter>) {
      std::string full = fmt::format("{}.{}", group, name);
      value -= flushed_[full];
      values[std::move(full)] = now_value;
    }
    json.field(name, value);
  });
  json.end_object();
  json.end_object();
  std::string line = std::move(json).take();
  line.push_back('\n');
  const std::size_t written = write_now(file_.get(), line);
  if (written == 0) return refused();
  unsent_ = line.substr(written);
  flushed_ = std::move(values);
  return {};
}

}  // namespace mayfly
