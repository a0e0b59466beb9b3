#pragma once

#include "api/json_reader.h"
#include "vmm/base/json_writer.h"
#include "vmm/config/configuration.h"

/// JSON of drives.
///
///   {"drive_id": "rootfs", "path_on_host": "/vm/rootfs.ext4", "is_root_device": true, "is_read_only": false}
namespace mayfly {

/// A drive: drive_id, path_on_host and is_root_device are required. Whether the path opens is the machine's to judge.
[[nodiscard]] Result<DriveConfig> read_drive(const JsonValue& json, const std::string& where);
void write_drive(JsonWriter& json, const DriveConfig& drive);

/// Beside drive_id, at least one field that changes something.
[[nodiscard]] Result<DrivePatch> read_drive_patch(const JsonValue& json, const std::string& where);

}  // namespace mayfly
