#pragma once

#include "vmm/base/error.h"
#include "vmm/base/owned_fd.h"

#include <netinet/in.h>

#include <cstdint>

/// A network namespace with one TAP in it, for one machine at a time. All clones of a snapshot have the same addresses,
/// so each needs a network of its own; and none of them reaches the host's.
///
///   auto network = CloneNetwork::enter();    // this thread lives there from now on, and so do processes it starts
///   auto connection = network->socket();
///   ::connect(connection->get(), ..., guest_address(), ...);   // on any thread
///
/// Nothing has a name on the host: namespace and TAP go with the last process that uses them.
namespace mayfly::host_agent {

inline constexpr const char* kTapName = "tap0";
inline constexpr const char* kGuestMac = "06:00:0a:0c:00:02";

/// Where the function listens: 10.12.0.2:80. The host's end is 10.12.0.1/24.
[[nodiscard]] sockaddr_in guest_address();

class CloneNetwork {
 public:
  /// Moves the calling thread to a fresh namespace, for good, and makes the TAP there. Errors: no right to (it takes
  /// root), no /dev/net/tun.
  [[nodiscard]] static Result<CloneNetwork> enter();

  /// A TCP socket in the namespace of the calling thread, to be connected on any thread; non-blocking.
  [[nodiscard]] static Result<OwnedFd> socket();

  /// Waits until no process has the TAP, on the thread that entered. A killed process may have it a while after its
  /// end: the kernel takes rings apart at leisure. What is sent meanwhile could go there instead of to the next
  /// machine.
  [[nodiscard]] static Status await_unused();

 private:
  explicit CloneNetwork(OwnedFd tap) : tap_(std::move(tap)) {}

  OwnedFd tap_;
};

}  // namespace mayfly::host_agent
