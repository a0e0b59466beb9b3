#pragma once

#include "vmm/base/error.h"

#include <netinet/in.h>

#include <chrono>
#include <optional>
#include <string>
#include <string_view>

/// Who this guest is, by the metadata of its host: the object `mayfly`, of which each field may be absent.
///
///   {"mayfly": {"hostname": "vm-7", "address": "10.0.0.7/24", "gateway": "10.0.0.1", "nameserver": "10.0.0.1"}}
///
/// A clone has another host than its template had, so this is asked for again after each restore, before the first request is
/// served.
namespace mayfly::agent {

struct GuestAddress {
  in_addr address{};
  in_addr mask{};
};

struct Identity {
  std::string hostname{};  ///< Empty: as it is.
  std::optional<GuestAddress> address{};
  std::optional<in_addr> gateway{};
  std::string nameserver{};
};

/// By HTTP, with a token where the service gives one (MMDS V2). None: there is no such service, or it knows nothing of us.
/// Errors: a timeout, or an answer that is no HTTP (ErrorKind::System); a field that is no name or address, with its value.
[[nodiscard]] Result<std::optional<Identity>> fetch_identity(const sockaddr_in& service,
                                                             std::chrono::milliseconds patience);

/// "10.0.0.7/24"
[[nodiscard]] std::optional<GuestAddress> parse_guest_address(std::string_view text);

/// The content of /etc/hosts with this name in place of the one before, where a line says no more than that.
[[nodiscard]] std::string hosts_with(std::string_view hostname, std::string_view before, std::string_view hosts);

/// Errors: what the kernel does not take; the rest of it is set.
[[nodiscard]] Status take_identity(const Identity& identity);

}  // namespace mayfly::agent
