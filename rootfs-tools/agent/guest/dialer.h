#pragma once

#include "rootfs-tools/agent/guest/defaults.h"
#include "vmm/base/error.h"

#include <netinet/in.h>

#include <chrono>
#include <string_view>

namespace mayfly::agent {

/// "169.254.169.254:1024".
[[nodiscard]] Result<sockaddr_in> parse_address(std::string_view text);

/// How long to wait before the next attempt: nothing after a connection that was of use, and from 10 ms to a second
/// where attempts fail one after the other.
class Backoff {
 public:
  [[nodiscard]] std::chrono::milliseconds next() noexcept;
  void reset() noexcept { next_ = std::chrono::milliseconds{0}; }

 private:
  std::chrono::milliseconds next_{0};
};

/// Keeps one idle connection to the host. When the first byte comes on it, a process of its own serves it, and the next
/// connection is dialled. Does not return.
[[noreturn]] void dial_for_ever(const sockaddr_in& host, const Defaults& defaults);

}  // namespace mayfly::agent
