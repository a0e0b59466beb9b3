#pragma once

#include <sys/socket.h>
#include <sys/un.h>

#include <cstddef>
#include <string>
#include <string_view>

namespace mayfly {

/// The longest path of a socket, in bytes: the kernel's field without the zero at its end (unix(7)).
inline constexpr std::size_t kLongestSocketPath = sizeof(sockaddr_un::sun_path) - 1;

/// The address of the socket at `path`, of which kLongestSocketPath bytes count.
inline sockaddr_un unix_address(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  path.copy(address.sun_path, kLongestSocketPath);
  return address;
}

/// Sends all of `text`, which is not empty, and with it a descriptor (unix(7), SCM_RIGHTS), in one call. No SIGPIPE.
/// False, with errno, where that fails.
[[nodiscard]] bool send_with_descriptor(int socket, std::string_view text, int descriptor, int flags = 0) noexcept;

}  // namespace mayfly
