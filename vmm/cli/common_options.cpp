#include "vmm/cli/common_options.h"

#include "vmm/base/machine_id.h"
#include "vmm/cli/choices.h"

#include <map>

#include <fmt/format.h>

namespace mayfly {
namespace {

const std::map<std::string, LogLevel>& level_names() {
  static const std::map<std::string, LogLevel> names = {
      {"off", LogLevel::Off},   {"error", LogLevel::Error}, {"warning", LogLevel::Warning}, {"warn", LogLevel::Warning},
      {"info", LogLevel::Info}, {"debug", LogLevel::Debug}, {"trace", LogLevel::Trace}};
  return names;
}

std::string check_id(const std::string& id) {
  return is_machine_id(id) ? "" : "the id '" + id + "' must have 1 to 64 letters, digits and hyphens";
}

void add_logger(const Describer& describe, LoggerFlags& logger) {
  describe.option("--log-path", logger.path, "File or FIFO for the log (default: standard error)", "FILE");
  if (describe.wants("--level"))
    describe.app()
        .add_option_function<std::string>(
            "--level",
            [&logger](const std::string& number) {
              logger.level = static_cast<LogLevel>(std::stoi(number));
              logger.has_level = true;
            },
            fmt::format("Least level of messages (default: {})", logger.level == LogLevel::Info ? "Info" : "Warning"))
        ->option_text("Off|Error|Warning|Info|Debug|Trace")
        ->transform(choice_of(level_names(), "Off, Error, Warning, Info, Debug or Trace"));
  describe.flag("--show-level", logger.show_level, "Accepted for the dialect: levels are always shown");
  describe.flag("--show-log-origin", logger.show_origin, "Show which source file a message comes from");
  describe.option("--module", logger.module, "Log only what comes from source files with this in\ntheir path", "TEXT");
}

}  // namespace

void add_common(const Describer& describe, CommonOptions& common, LoggerFlags& logger) {
  describe.option("--id", common.id, "Name of this machine, in its log and in GET /",
                  [](CLI::Option& id) { id.type_name("ID")->check(check_id); });
  add_logger(describe, logger);
  describe.option("--metrics-path", common.metrics_path, "File or FIFO for lines of metrics", "FILE");
  describe.flag("--boot-timer", common.boot_timer,
                "Log the time when the guest writes 123 to\nport 0x3F0 or address 0xC0000000");
  describe.flag("--no-seccomp", common.filters.off, "No system call filters for this process's threads");
  describe.option("--seccomp-filter", common.filters.file,
                  "Compiled filters (of mayfly-seccompile) in place\nof the built-in ones", [&](CLI::Option& filters) {
                    filters.option_text("FILE");
                    if (CLI::Option* const none = describe.app().get_option_no_throw("--no-seccomp"))
                      filters.excludes(none);
                  });
  describe.flag("--live-snapshots", common.live_snapshots,
                "Let snapshots be taken while the machine runs,\nfor a wider system call filter");
  describe.flag("--branches", common.branches,
                "Let the machine have children (PUT /vm/branch),\nfor a thread with a wider system call filter");
  describe.option("--start-time-us", common.start.wall_us,
                  "When this process began, in microseconds of\nCLOCK_MONOTONIC", "UINT");
  describe.option("--start-time-cpu-us", common.start.cpu_us, "CPU time that this process had used by then", "UINT");
  describe.option("--parent-cpu-time-us", common.start.parent_cpu_us, "CPU time that its parent used for it", "UINT");
}

LoggerConfig logger_config(const LoggerFlags& flags) {
  LoggerConfig config;
  if (!flags.path.empty()) config.log_path = flags.path;
  if (flags.has_level) config.level = flags.level;
  if (flags.show_level) config.show_level = true;
  if (flags.show_origin) config.show_log_origin = true;
  if (!flags.module.empty()) config.module = flags.module;
  return config;
}

void add_clock(CLI::App& app, bool& advances) {
  app.add_flag_callback(
      "--clock-realtime", [&advances] { advances = true; }, "Advance the guest's clock by the time since\n(default)");
  app.add_flag_callback(
      "--no-clock-realtime", [&advances] { advances = false; }, "Let it go on from the snapshot's time");
}

void add_limits(const Describer& describe, ApiLimits& limits) {
  const auto refine = [](CLI::Option& size) { size.check(CLI::Range(std::size_t{1}, std::size_t{1} << 30)); };
  describe.option("--http-api-max-payload-size", limits.max_payload,
                  fmt::format("Largest request body in bytes (default: {})", limits.max_payload), refine);
  describe.option("--mmds-size-limit", limits.metadata_limit,
                  "Largest metadata in bytes (default: as for request\nbodies)", refine);
}

}  // namespace mayfly
