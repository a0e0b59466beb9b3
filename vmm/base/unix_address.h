#pragma once

#include <sys/socket.h>
#include <sys/un.h>

#include <cstddef>
#include <string>

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

}  // namespace mayfly
