#pragma once

#include "vmm/config/configuration.h"

#include <string_view>

/// Names and limits of devices, as users give them and as the host has them: judged alike by the API, the configuration
/// file and the command line.
///
///   if (!is_device_id(id))
///     return fail(ErrorKind::InvalidArgument, "the id must be {}, not \"{}\"", kDeviceIdRule, id);
///
/// Pure functions: any thread.
namespace mayfly {

/// Ids of drives and network interfaces. Everything that the dialect's clients send is one: the dialect asks for
/// letters, digits and underscores. A bound, so that an id fits messages and logs.
[[nodiscard]] bool is_device_id(std::string_view id) noexcept;
inline constexpr std::string_view kDeviceIdRule = R"(1 to 64 letters, digits, "_" and "-")";

[[nodiscard]] bool is_socket_path(std::string_view path) noexcept;
inline constexpr std::string_view kSocketPathRule = "the path of a Unix socket, 1 to 107 bytes";
/// One that can be configured.
[[nodiscard]] bool is_channel(const ChannelConfig& channel) noexcept;

/// What Linux takes as the name of a network interface. Without "%", which would be a pattern for a new name.
[[nodiscard]] bool is_interface_name(std::string_view name) noexcept;
inline constexpr std::string_view kInterfaceNameRule =
    R"(the name of a TAP interface, 1 to 15 bytes without "/", ":", "%" and blanks)";

/// The MTUs that virtio has; 68 is also the least of IPv4 (RFC 791).
inline constexpr unsigned kSmallestMtu = 68;
inline constexpr unsigned kLargestMtu = 65535;

}  // namespace mayfly
