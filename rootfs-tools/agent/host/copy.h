#pragma once

#include "rootfs-tools/agent/host/place.h"
#include "vmm/base/error.h"

#include <functional>
#include <string>

namespace mayfly::agent {

struct CopyRequest {
  std::string source;       ///< PATH, or MACHINE:PATH: one of the two is in a guest.
  std::string destination;  ///< The same.
  std::string agent_socket{};
  /// Finds the agent by the machine's name and the socket that was given.
  std::function<Result<AgentPlace>(const std::string& machine, const std::string& agent_socket)> find = find_agent;
};

/// Copies files between this host and a guest. What was left out is said on standard error, and how far it has come,
/// where that is a terminal and it takes more than a second. An interrupt leaves no half file.
[[nodiscard]] Status copy_files(const CopyRequest& request);

/// A side of a copy: "ID:PATH" has a slash in the path alone. No machine: on this host.
struct CopySide {
  bool in_guest = false;
  std::string machine{};
  std::string path{};
};
[[nodiscard]] CopySide parse_side(const std::string& text);

}  // namespace mayfly::agent
