#pragma once

#include "vmm/base/error.h"
#include "vmm/config/configuration.h"

#include <string>
#include <string_view>

/// Ethernet addresses of guests: read, written and made up.
///
///   auto mac = parse_mac_address("06:00:AC:10:00:02");
///   if (!mac) return propagate(mac, "guest_mac");
///   const MacAddress chosen = mac_of(config);
///
/// Pure functions: any thread.
namespace mayfly {

/// The address that `text` spells: six pairs of hexadecimal digits in any case, with colons between. Errors
/// (InvalidArgument): not that; multicast (the lowest bit of the first byte), which no station has; all zero.
[[nodiscard]] Result<MacAddress> parse_mac_address(std::string_view text);

/// The address as "06:00:ac:10:00:02".
[[nodiscard]] std::string format_mac_address(const MacAddress& address);

/// An address for an interface that was given none: locally administered, unicast, and the same for the same id in
/// every process and version, so that a guest keeps its address over a restart.
[[nodiscard]] MacAddress derive_mac_address(std::string_view interface_id) noexcept;
/// What the guest sees.
[[nodiscard]] MacAddress mac_of(const NetworkInterfaceConfig& interface) noexcept;

}  // namespace mayfly
