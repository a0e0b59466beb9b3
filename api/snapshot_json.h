#pragma once

#include "api/json_reader.h"
#include "vmm/config/configuration.h"

/// JSON of requests about snapshots. What is judged here needs neither files nor a machine.
namespace mayfly {

[[nodiscard]] Result<SnapshotCreateParams> read_snapshot_create(const JsonValue& json, const std::string& where);
[[nodiscard]] Result<SnapshotLoadParams> read_snapshot_load(const JsonValue& json, const std::string& where);

}  // namespace mayfly
