#pragma once

#include "api/json_reader.h"
#include "vmm/base/json_writer.h"
#include "vmm/config/configuration.h"

/// JSON of the metadata service.
///
///   {"version": "V2", "network_interfaces": ["eth0"], "ipv4_address": "169.254.169.254"}
namespace mayfly {

/// network_interfaces is required. Whether they are there is the machine's to judge.
[[nodiscard]] Result<MmdsConfig> read_mmds_config(const JsonValue& json, const std::string& where);
void write_mmds_config(JsonWriter& json, const MmdsConfig& mmds);

/// Metadata, or a patch of them: any object. Errors quote nothing of it, since the log shows them.
[[nodiscard]] Result<JsonValue> read_metadata(const JsonValue& json, const std::string& where);

}  // namespace mayfly
