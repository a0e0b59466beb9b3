#pragma once

#include "vmm/base/error.h"

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

/// The metadata service (MMDS): by what a host tells a guest who it is, over HTTP at a link-local address.
///
/// The service lives below `virtio` and above `vmm/base`, and includes nothing else of the project: network interfaces
/// are its users, so it cannot lie above them, and it knows no machine, so it need not lie in `vmm`.
///
///   config, metadata_store, session_tokens    what is served, and to whom
///   http_request, metadata_service            a request, and its answer
///   packet, tcp_connection, network_stack     frames of the guest, and frames for it; no socket anywhere
namespace mayfly {

using Ipv4Address = std::array<std::uint8_t, 4>;

enum class MmdsVersion : std::uint8_t {
  V1,  ///< Answers without a token; one that is given is not looked at.
  V2,  ///< Answers only to who has got a token before.
};

/// What the service is like; all of it that a snapshot keeps. The metadata and the tokens are a machine's own: a clone
/// starts without, and its host gives it other ones.
struct MmdsConfig {
  MmdsVersion version = MmdsVersion::V1;
  std::vector<std::string> network_interfaces{};  ///< Ids of those that serve it.
  Ipv4Address ipv4_address = {169, 254, 169, 254};
  bool imds_compat = false;  ///< Answers are plain text, whatever the guest accepts.
  friend bool operator==(const MmdsConfig&, const MmdsConfig&) = default;
};

/// The address that `text` spells, "169.254.169.254". Errors (InvalidArgument): not four numbers without leading
/// zeros; not link-local and free for use (RFC 3927, 2.1: 169.254.1.0 to 169.254.254.255).
[[nodiscard]] Result<Ipv4Address> parse_mmds_address(std::string_view text);

[[nodiscard]] std::string format_ipv4_address(const Ipv4Address& address);

}  // namespace mayfly
