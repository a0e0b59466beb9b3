#include "api/client/deadline.h"

#include <poll.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <limits>

namespace mayfly {

std::chrono::milliseconds time_left(Deadline deadline) {
  const auto left = std::chrono::ceil<std::chrono::milliseconds>(deadline - Deadline::clock::now());
  return std::max(left, std::chrono::milliseconds{0});
}

bool is_ready_by(Deadline deadline, int fd, short events, int cancel) {
  std::array ready{pollfd{.fd = fd, .events = events, .revents = 0},
                   pollfd{.fd = cancel, .events = POLLIN, .revents = 0}};
  for (;;) {
    // Not polled once it is over: a peer that sends a little at a time would always be ready.
    const auto left = time_left(deadline).count();
    if (left == 0) return false;
    constexpr int kLongest = std::numeric_limits<int>::max();
    const int count = ::poll(ready.data(), ready.size(), left < kLongest ? static_cast<int>(left) : kLongest);
    if (count > 0) return ready[1].revents == 0;
    if (count < 0 && errno != EINTR) return false;
  }
}

}  // namespace mayfly
