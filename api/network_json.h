#pragma once

#include "api/json_reader.h"
#include "vmm/base/json_writer.h"
#include "vmm/config/configuration.h"

/// JSON of network interfaces.
///
///   {"iface_id": "eth0", "host_dev_name": "tap0", "guest_mac": "06:00:ac:10:00:02"}
namespace mayfly {

/// An interface: iface_id and host_dev_name are required. Whether the TAP is there is the machine's to judge.
[[nodiscard]] Result<NetworkInterfaceConfig> read_network_interface(const JsonValue& json, const std::string& where);
void write_network_interface(JsonWriter& json, const NetworkInterfaceConfig& interface);

/// Without a limiter it changes nothing, which the dialect allows.
[[nodiscard]] Result<NetworkInterfacePatch> read_network_interface_patch(const JsonValue& json,
                                                                         const std::string& where);

}  // namespace mayfly
