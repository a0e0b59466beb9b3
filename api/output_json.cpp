#include "api/schema.h"
#include "vmm/base/newest_bytes.h"

namespace mayfly {
namespace {

constexpr JsonName<LogLevel> kLevels[] = {
    {"Error", LogLevel::Error}, {"Warning", LogLevel::Warning}, {"Info", LogLevel::Info},   {"Debug", LogLevel::Debug},
    {"Trace", LogLevel::Trace}, {"Off", LogLevel::Off},         {"Warn", LogLevel::Warning}};
constexpr std::size_t kLevelAliases = 1;  // "Warn": the dialect takes it, without showing it

/// Of a file that keeps its newest bytes.
constexpr JsonWhole kBound{.lowest = kLeastBound};

}  // namespace

Result<SerialConfig> read_serial(const JsonValue& json, const std::string& where) {
  JsonFields fields{json, where};
  SerialConfig serial{.serial_out_path = fields.optional("serial_out_path", JsonPath{}),
                      .rate_limiter = fields.optional("rate_limiter", read_token_bucket),
                      .max_bytes = fields.optional("max_bytes", kBound)};
  return fields.finish(std::move(serial));
}

void write_serial(JsonWriter& json, const SerialConfig& serial) {
  json.begin_object();
  if (serial.serial_out_path) json.field("serial_out_path", *serial.serial_out_path);
  if (serial.rate_limiter) {
    json.key("rate_limiter");
    write_token_bucket(json, *serial.rate_limiter);
  }
  if (serial.max_bytes) json.field("max_bytes", *serial.max_bytes);
  json.end_object();
}

Result<LoggerConfig> read_logger(const JsonValue& json, const std::string& where) {
  JsonFields fields{json, where};
  LoggerConfig logger{.log_path = fields.optional("log_path", JsonPath{}),
                      .level = fields.optional(
                          "level", JsonEnum<LogLevel>{.names = kLevels, .ignore_case = true, .aliases = kLevelAliases}),
                      .show_level = fields.optional("show_level", JsonBool{}),
                      .show_log_origin = fields.optional("show_log_origin", JsonBool{}),
                      .module = fields.optional("module", JsonString{}),
                      .max_bytes = fields.optional("max_bytes", kBound)};
  return fields.finish(std::move(logger));
}

void write_logger(JsonWriter& json, const LoggerConfig& logger) {
  json.begin_object();
  if (logger.log_path) json.field("log_path", *logger.log_path);
  if (logger.level) json.field("level", json_name(kLevels, *logger.level));
  if (logger.show_level) json.field("show_level", *logger.show_level);
  if (logger.show_log_origin) json.field("show_log_origin", *logger.show_log_origin);
  if (logger.module) json.field("module", *logger.module);
  if (logger.max_bytes) json.field("max_bytes", *logger.max_bytes);
  json.end_object();
}

Result<MetricsConfig> read_metrics(const JsonValue& json, const std::string& where) {
  JsonFields fields{json, where};
  MetricsConfig metrics{
      .metrics_path = fields.required("metrics_path", JsonPath{}),
      .emit_id = fields.optional("emit_id", JsonBool{}).value_or(false),
      .properties = fields.optional("properties", JsonStringMap{}).value_or(std::map<std::string, std::string>{})};
  return fields.finish(std::move(metrics));
}

void write_metrics(JsonWriter& json, const MetricsConfig& metrics) {
  json.begin_object();
  json.field("metrics_path", metrics.metrics_path);
  json.field("emit_id", metrics.emit_id);
  json.key("properties");
  json.begin_object();
  for (const auto& [name, text] : metrics.properties) json.field(name, text);
  json.end_object();
  json.end_object();
}

}  // namespace mayfly
