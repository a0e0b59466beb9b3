#pragma once

#include "vmm/cli/describer.h"
#include "vmm/cli/options.h"

#include <string>

/// The options that every way to start a machine has.
namespace mayfly {

/// What CLI11 fills and cannot fill in place.
struct LoggerFlags {
  std::string path;
  LogLevel level = LogLevel::Info;
  bool has_level = false;
  bool show_level = false;
  bool show_origin = false;
  std::string module{};
};

/// The machine's name, log, metrics, filters and start. What is in `common` and `logger` before are the defaults.
void add_common(const Describer& describe, CommonOptions& common, LoggerFlags& logger);
/// The options that were given; the rest is as PUT /logger leaves it.
[[nodiscard]] LoggerConfig logger_config(const LoggerFlags& flags);

/// Whether the clock of a guest that comes back from a snapshot goes ahead: `advances` is the default.
void add_clock(CLI::App& app, bool& advances);

/// How large the API's requests may be.
void add_limits(const Describer& describe, ApiLimits& limits);

}  // namespace mayfly
