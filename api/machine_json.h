#pragma once

#include "api/json_reader.h"
#include "vmm/base/json_writer.h"
#include "vmm/config/configuration.h"

/// JSON of what the machine is: boot source, vCPUs and memory.
///
///   auto config = read_machine_config(*parse_json(R"({"vcpu_count": 2, "mem_size_mib": 256})", "the body"),
///   "machine-config");
///
/// Readers judge what can be judged without the machine: types, ranges, fields that contradict each other. Files and
/// the machine's state are the controller's. Errors name `where`, the field, the value and what would be right.
namespace mayfly {

[[nodiscard]] Result<BootSource> read_boot_source(const JsonValue& json, const std::string& where);
void write_boot_source(JsonWriter& json, const BootSource& source);

/// PUT: vcpu_count and mem_size_mib are required; what else is absent takes its default.
[[nodiscard]] Result<MachineConfig> read_machine_config(const JsonValue& json, const std::string& where);
/// PATCH: at least one field.
[[nodiscard]] Result<MachineConfigPatch> read_machine_config_patch(const JsonValue& json, const std::string& where);
void write_machine_config(JsonWriter& json, const MachineConfig& config);

}  // namespace mayfly
