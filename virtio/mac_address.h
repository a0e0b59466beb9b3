#pragma once

#include "vmm/base/error.h"
#include "vmm/configuration.h"

#include <string>
#include <string_view>

/// Ethernet addresses as text, and one for an interface that was given none.
///
///   auto mac = parse_mac_address("06:00:c0:a8:00:02");
///   format_mac_address(*mac);                      // "06:00:c0:a8:00:02"
///   derive_mac_address("eth0");                    // always the same for "eth0"
namespace mayfly {

/// Six pairs of hexadecimal digits with colons between, of either case. Errors: another form; an address that no
/// interface can have (a group's, which is multicast and broadcast, or all zeroes). The message names the value.
[[nodiscard]] Result<MacAddress> parse_mac_address(std::string_view text);

/// In small letters, as parse_mac_address() reads it.
[[nodiscard]] std::string format_mac_address(const MacAddress& address);

/// A locally administered unicast address (IEEE 802, 8.2) made from an interface's id alone: the same after every
/// start, on every host. Machines that share a bridge and an id need addresses of their own.
[[nodiscard]] MacAddress derive_mac_address(std::string_view interface_id) noexcept;

}  // namespace mayfly
