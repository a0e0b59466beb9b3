#include "api/config_file.h"

#include "api/json_reader.h"
#include "api/requests.h"
#include "api/schema.h"
#include "vmm/base/files.h"

#include <algorithm>
#include <array>
#include <set>

namespace mayfly {
namespace {

constexpr std::size_t kLargestTemplate = std::size_t{1} << 20;  // bytes; those in use are below 10 KiB

/// Sections of the dialect that configure what Mayfly does not have.
constexpr std::array kAbsentSections =
    std::to_array<std::string_view>({"balloon", "entropy", "memory-hotplug", "pmem", "vsock"});

Result<bool> read_absent_section(const JsonValue& json, const std::string& where) {
  const auto* array = std::get_if<JsonValue::Array>(&json.data);
  if (array != nullptr && array->empty()) return true;
  return fail(ErrorKind::InvalidArgument, "{}: Mayfly has no such device; leave the section out. It has {}", where,
              kDevicesThatExist);
}

Result<CpuConfig> read_cpu_section(const JsonValue& json, const std::string& where) {
  if (!std::holds_alternative<std::string>(json.data)) return read_cpu_config(json, where);
  const auto path = JsonPath{}(json, where);
  if (!path) return std::unexpected(path.error());
  return read_cpu_config_file(*path, where);
}

/// The section `name` of the document, whose own fields are named after it: "boot-source.initrd_path".
template <auto read>
auto section(std::string_view name) {
  return [name](const JsonValue& json, const std::string&) { return read(json, std::string{name}); };
}

/// Such a section whose value is an array of things with an id: "drives[0].path_on_host". A request may replace what an
/// earlier one configured; in one file, an id that comes twice is a mistake.
template <auto read, auto id>
auto array_section(std::string_view name) {
  return [name](const JsonValue& json, const std::string&) {
    auto values = JsonArray{read}(json, std::string{name});
    std::set<std::string> seen;
    for (std::size_t i = 0; values && i < values->size(); ++i) {
      const std::string own = fmt::format("{}", (*values)[i].*id);
      if (seen.insert(own).second) continue;
      values = fail(ErrorKind::InvalidArgument, "{}[{}]: the id {} is there twice; give each its own", name, i,
                    in_quotes(own));
    }
    return values;
  };
}

template <typename C, typename Value>
void add(std::vector<Command>& commands, std::optional<Value> value) {
  if (value) commands.emplace_back(C{std::move(*value)});
}

template <typename C, typename Value>
void add_each(std::vector<Command>& commands, std::optional<std::vector<Value>> values) {
  if (!values) return;
  for (Value& value : *values) commands.emplace_back(C{std::move(value)});
}

}  // namespace

Result<CpuConfig> read_cpu_config_file(const std::string& path, const std::string& where) {
  const auto text = read_file(path, fmt::format("{}: the CPU template {}", where, in_quotes(path)), kLargestTemplate);
  if (!text) return std::unexpected(text.error());
  const auto value = parse_json(*text, "the CPU template " + in_quotes(path));
  if (!value) return std::unexpected(value.error());
  return read_cpu_config(*value, where);
}

std::string in_words(std::span<const std::string> sections) {
  constexpr std::size_t kMostShown = 8;
  std::string names;
  for (const std::string& name : sections.first(std::min(sections.size(), kMostShown)))
    names += (names.empty() ? "" : ", ") + in_quotes(name);
  if (sections.size() > kMostShown) names += fmt::format(" and {} more", sections.size() - kMostShown);
  return names;
}

Result<ConfigFile> parse_config_file(std::string_view text) {
  const auto json = parse_json(text, "the configuration");
  if (!json) return std::unexpected(json.error());
  JsonFields sections{*json, "the configuration"};
  std::vector<Command> commands;
  // Outputs first, so that what follows is logged and counted.
  add<PutLogger>(commands, sections.optional("logger", section<read_logger>("logger")));
  add<PutMetrics>(commands, sections.optional("metrics", section<read_metrics>("metrics")));
  add<PutMachineConfig>(commands, sections.optional("machine-config", section<read_machine_config>("machine-config")));
  add<PutCpuConfig>(commands, sections.optional("cpu-config", section<read_cpu_section>("cpu-config")));
  commands.emplace_back(PutBootSource{sections.required("boot-source", section<read_boot_source>("boot-source"))});
  add_each<PutDrive>(commands,
                     sections.optional("drives", array_section<read_drive, &DriveConfig::drive_id>("drives")));
  add_each<PutNetworkInterface>(
      commands, sections.optional(
                    "network-interfaces",
                    array_section<read_network_interface, &NetworkInterfaceConfig::iface_id>("network-interfaces")));
  add<PutMmdsConfig>(commands, sections.optional("mmds-config", section<read_mmds_config>("mmds-config")));
  add_each<PutChannel>(commands,
                       sections.optional("channels", array_section<read_channel, &ChannelConfig::port>("channels")));
  add<PutSerial>(commands, sections.optional("serial", section<read_serial>("serial")));
  for (const std::string_view name : kAbsentSections) {
    sections.optional(name, [name](const JsonValue& value, const std::string&) {
      return read_absent_section(value, std::string{name});
    });
  }
  commands.emplace_back(StartInstance{});
  auto unknown = sections.ignore_unknown();
  auto finished = sections.finish();
  if (finished) return ConfigFile{.commands = std::move(commands), .unknown_sections = std::move(unknown)};
  // A misspelt name explains a missing one.
  if (!unknown.empty()) finished.error().message += fmt::format("; it has unknown sections: {}", in_words(unknown));
  return propagate(finished);
}

}  // namespace mayfly
