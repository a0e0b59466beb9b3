#pragma once

#include "api/json_reader.h"
#include "vmm/base/json_writer.h"
#include "vmm/config/configuration.h"

/// JSON of where output goes: the serial console, the log, the metrics.
namespace mayfly {

[[nodiscard]] Result<SerialConfig> read_serial(const JsonValue& json, const std::string& where);
void write_serial(JsonWriter& json, const SerialConfig& serial);

/// Every field is optional; levels are read in any case.
[[nodiscard]] Result<LoggerConfig> read_logger(const JsonValue& json, const std::string& where);
void write_logger(JsonWriter& json, const LoggerConfig& logger);

[[nodiscard]] Result<MetricsConfig> read_metrics(const JsonValue& json, const std::string& where);
void write_metrics(JsonWriter& json, const MetricsConfig& metrics);

}  // namespace mayfly
