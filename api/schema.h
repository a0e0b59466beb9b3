#pragma once

#include "api/json_reader.h"
#include "vmm/base/json_writer.h"
#include "vmm/config/configuration.h"

/// The API's JSON, both ways: what a request's body or a section of the configuration file says becomes a plain value,
/// and is written again for GET. openapi.yaml describes the same. The definitions are sorted by topic (*_json.cpp).
///
///   auto json = parse_json(R"({"vcpu_count": 2, "mem_size_mib": 256})", "the body");
///   auto config = read_machine_config(*json, "machine-config");
///
/// Readers judge what can be judged without the machine: types, ranges, fields that contradict each other. Files and
/// the machine's state are the controller's. Errors name `where`, the field, the value and what would be right.
namespace mayfly {

// Boot source, vCPUs and memory: machine_json.cpp.

[[nodiscard]] Result<BootSource> read_boot_source(const JsonValue& json, const std::string& where);
void write_boot_source(JsonWriter& json, const BootSource& source);

/// PUT: vcpu_count and mem_size_mib are required; what else is absent takes its default.
[[nodiscard]] Result<MachineConfig> read_machine_config(const JsonValue& json, const std::string& where);
/// PATCH: at least one field.
[[nodiscard]] Result<MachineConfigPatch> read_machine_config_patch(const JsonValue& json, const std::string& where);
void write_machine_config(JsonWriter& json, const MachineConfig& config);

// CPU templates, that is, which bits of CPUID leaves and MSRs a guest sees changed: cpu_config_json.cpp.
//
//   {"cpuid_modifiers": [{"leaf": "0x1", "subleaf": "0x0", "flags": 0,
//                         "modifiers": [{"register": "ecx", "bitmap": "0bxxxx_0"}]}],
//    "msr_modifiers": [{"addr": "0x10a", "bitmap": "0b1x"}], "kvm_capabilities": ["!56"]}
//
// In a bitmap 0 clears, 1 sets, x leaves; the last character is bit 0, bits beyond the first are left, underscores are
// for the eye. Addresses are strings in hexadecimal (0x), binary (0b) or decimal.

/// Errors: as for every reader, and the fields that only 64-bit Arm has, unless they are empty.
[[nodiscard]] Result<CpuConfig> read_cpu_config(const JsonValue& json, const std::string& where);
/// The same template, bitmaps in full length. Edits that follow each other on one leaf are written as one modifier.
void write_cpu_config(JsonWriter& json, const CpuConfig& config);

// Drives: drive_json.cpp.
//
//   {"drive_id": "rootfs", "path_on_host": "/vm/rootfs.ext4", "is_root_device": true, "is_read_only": false}

/// drive_id, path_on_host and is_root_device are required. Whether the path opens is the machine's to judge.
///
/// With base_path (one layer) or base_paths (a raw image, then overlays) path_on_host is an overlay.
[[nodiscard]] Result<DriveConfig> read_drive(const JsonValue& json, const std::string& where);
void write_drive(JsonWriter& json, const DriveConfig& drive);
/// Beside drive_id, at least one field that changes something.
[[nodiscard]] Result<DrivePatch> read_drive_patch(const JsonValue& json, const std::string& where);

/// base_path or base_paths, of an object that may have one of them.
[[nodiscard]] std::vector<std::string> read_base_paths(JsonFields& fields, const std::string& where);

// Network interfaces: network_json.cpp.
//
//   {"iface_id": "eth0", "host_dev_name": "tap0", "guest_mac": "06:00:ac:10:00:02"}

/// Six bytes in hexadecimal, with colons.
[[nodiscard]] Result<MacAddress> read_mac_address(const JsonValue& json, const std::string& where);
/// iface_id is required. Whether the TAP is there is the machine's to judge.
[[nodiscard]] Result<NetworkInterfaceConfig> read_network_interface(const JsonValue& json, const std::string& where);
void write_network_interface(JsonWriter& json, const NetworkInterfaceConfig& interface);
/// Without a limiter it changes nothing, which the dialect allows.
[[nodiscard]] Result<NetworkInterfacePatch> read_network_interface_patch(const JsonValue& json,
                                                                         const std::string& where);

// Limits of drives, interfaces and the console: rate_limiter_json.cpp.
//
//   {"bandwidth": {"size": 1048576, "refill_time": 1000, "one_time_burst": 4194304}, "ops": null}

/// A token bucket: size and refill_time (ms) are required. Either being 0 is no limit, as in the dialect.
[[nodiscard]] Result<TokenBucketConfig> read_token_bucket(const JsonValue& json, const std::string& where);
void write_token_bucket(JsonWriter& json, const TokenBucketConfig& bucket);
/// Both buckets are optional.
[[nodiscard]] Result<RateLimiterConfig> read_rate_limiter(const JsonValue& json, const std::string& where);
/// The limiter as the field `name`; nothing where there is none.
void write_rate_limiter(JsonWriter& json, std::string_view name, const std::optional<RateLimiterConfig>& limiter);

// The metadata service: mmds_json.cpp.
//
//   {"version": "V2", "network_interfaces": ["eth0"], "ipv4_address": "169.254.169.254"}

/// network_interfaces is required. Whether they are there is the machine's to judge.
[[nodiscard]] Result<MmdsConfig> read_mmds_config(const JsonValue& json, const std::string& where);
void write_mmds_config(JsonWriter& json, const MmdsConfig& mmds);

// Channels: channel_json.cpp.
//
//   {"port": 1024, "uds_path": "/run/agent.sock"}

/// Both are required.
[[nodiscard]] Result<ChannelConfig> read_channel(const JsonValue& json, const std::string& where);
void write_channel(JsonWriter& json, const ChannelConfig& channel);

/// Metadata, or a patch of them: any object. Errors quote nothing of it, since the log shows them.
[[nodiscard]] Result<JsonValue> read_metadata(const JsonValue& json, const std::string& where);

// Where output goes (serial console, log, metrics): output_json.cpp.

[[nodiscard]] Result<SerialConfig> read_serial(const JsonValue& json, const std::string& where);
void write_serial(JsonWriter& json, const SerialConfig& serial);
/// Every field is optional; levels are read in any case.
[[nodiscard]] Result<LoggerConfig> read_logger(const JsonValue& json, const std::string& where);
void write_logger(JsonWriter& json, const LoggerConfig& logger);
[[nodiscard]] Result<MetricsConfig> read_metrics(const JsonValue& json, const std::string& where);
void write_metrics(JsonWriter& json, const MetricsConfig& metrics);

// Requests about snapshots: snapshot_json.cpp.

[[nodiscard]] Result<SnapshotCreateParams> read_snapshot_create(const JsonValue& json, const std::string& where);
[[nodiscard]] Result<SnapshotLoadParams> read_snapshot_load(const JsonValue& json, const std::string& where);
[[nodiscard]] Result<SnapshotRevertParams> read_snapshot_revert(const JsonValue& json, const std::string& where);

/// channel_overrides, of an object that may have them: each channel at most once (channel_json.cpp).
[[nodiscard]] std::vector<ChannelOverride> read_channel_overrides(JsonFields& fields, const std::string& where);
/// frozen_drives, network_overrides and drive_overrides, the same: each device at most once.
[[nodiscard]] std::vector<FrozenDrive> read_frozen_drives(JsonFields& fields, const std::string& where);
[[nodiscard]] std::vector<NetworkOverride> read_network_overrides(JsonFields& fields, const std::string& where);
[[nodiscard]] std::vector<DriveOverride> read_drive_overrides(JsonFields& fields, const std::string& where);
/// drive_overrides without layers: of a child, whose overlays lie over its parent's.
[[nodiscard]] std::vector<DriveOverride> read_new_overlays(JsonFields& fields, const std::string& where);

// Children of a machine: branch_json.cpp.

[[nodiscard]] Result<BranchParams> read_branch(const JsonValue& json, const std::string& where);

}  // namespace mayfly
