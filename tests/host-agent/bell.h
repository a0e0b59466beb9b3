#pragma once

#include "vmm/base/owned_fd.h"

#include <poll.h>
#include <sys/eventfd.h>

#include <cerrno>
#include <chrono>
#include <system_error>
#include <vector>

/// Has a thread that waits look again; one that waits for processes' ends as well, so a descriptor and no condition.
///
///   Bell bell;
///   while (!is_done()) bell.wait({monitor.pidfd()});   // here; bell.ring() on any other thread
namespace mayfly::host_agent {

class Bell {
 public:
  /// Throws std::system_error where the process has no descriptor left.
  Bell() : event_(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {
    if (!event_) throw std::system_error{errno, std::generic_category(), "cannot make an event descriptor"};
  }

  /// Readable when it has rung since the last wait.
  [[nodiscard]] pollfd ringing() const { return {.fd = event_.get(), .events = POLLIN, .revents = 0}; }

  void ring() const { (void)::eventfd_write(event_.get(), 1); }

  /// Returns when it has rung since the last wait, one of `others` is readable, or the time is over. -1 among them: none.
  void wait(const std::vector<int>& others = {},
            std::chrono::milliseconds longest = std::chrono::milliseconds{-1}) const {
    std::vector<pollfd> all{ringing()};
    for (const int fd : others) all.push_back({.fd = fd, .events = POLLIN, .revents = 0});
    (void)::poll(all.data(), all.size(), static_cast<int>(longest.count()));
    eventfd_t times = 0;
    (void)::eventfd_read(event_.get(), &times);
  }

 private:
  OwnedFd event_;
};

}  // namespace mayfly::host_agent
