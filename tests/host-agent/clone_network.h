#pragma once

#include "vmm/base/error.h"
#include "vmm/base/owned_fd.h"

#include <netinet/in.h>

#include <string>
#include <utility>
#include <vector>

/// A network namespace with TAPs in it, each for one machine at a time. All clones of a snapshot have the same addresses,
/// so each needs a link of its own; and none of them reaches the host's networks.
///
///   auto network = CloneNetwork::enter(1);    // this thread lives there from now on, and so do processes it starts
///   auto connection = network->socket(0);
///   ::connect(connection->get(), ..., guest_address(), ...);   // on any thread
///
/// Machines that are branched off live in their parent's namespace, so one namespace has a TAP for each of them. Both
/// ends of all those links have the same addresses; which link is meant is the socket's to say, which is bound to it.
///
/// Nothing has a name on the host: namespace and TAPs go with the last process that uses them.
namespace mayfly::host_agent {

inline constexpr const char* kGuestMac = "06:00:0a:0c:00:02";

/// "tap0"
[[nodiscard]] std::string tap_name(unsigned tap);

/// Where the function listens: 10.12.0.2:80. The host's end is 10.12.0.1/24.
[[nodiscard]] sockaddr_in guest_address();

class CloneNetwork {
 public:
  /// Moves the calling thread to a fresh namespace, for good, and makes so many TAPs there. Errors: no right to (it
  /// takes root), no /dev/net/tun.
  [[nodiscard]] static Result<CloneNetwork> enter(unsigned taps);

  // On the thread that entered:

  /// A TCP socket for what is at the TAP, to be connected on any thread; non-blocking.
  [[nodiscard]] Result<OwnedFd> socket(unsigned tap) const;

  /// Whether no process has the TAP. A killed process may have it a while after its end: the kernel takes rings apart
  /// at leisure. What is sent meanwhile could go there instead of to the next machine.
  [[nodiscard]] Result<bool> is_unused(unsigned tap) const;
  /// Waits for that, within a time.
  [[nodiscard]] Status await_unused(unsigned tap) const;

 private:
  explicit CloneNetwork(std::vector<OwnedFd> taps) : taps_(std::move(taps)) {}

  std::vector<OwnedFd> taps_;
};

}  // namespace mayfly::host_agent
