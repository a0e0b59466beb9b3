#pragma once

#include "vmm/base/error.h"
#include "vmm/config/configuration.h"

#include <string>
#include <string_view>

/// The address of the metadata service: read and written. Pure functions: any thread.
namespace mayfly {

/// The address that `text` spells, "169.254.169.254". Errors (InvalidArgument): not four numbers without leading
/// zeros; not link-local and free for use (RFC 3927, 2.1: 169.254.1.0 to 169.254.254.255).
[[nodiscard]] Result<Ipv4Address> parse_mmds_address(std::string_view text);

[[nodiscard]] std::string format_ipv4_address(const Ipv4Address& address);

}  // namespace mayfly
