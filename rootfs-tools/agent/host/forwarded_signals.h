#pragma once

#include "vmm/base/owned_fd.h"

#include <csignal>
#include <optional>

namespace mayfly::agent {

/// Signals that are to go on to a command come by a descriptor, but for those that are ignored.
class ForwardedSignals {
 public:
  ForwardedSignals();
  ForwardedSignals(const ForwardedSignals&) = delete;
  ForwardedSignals& operator=(const ForwardedSignals&) = delete;
  ~ForwardedSignals();

  [[nodiscard]] int fd() const noexcept { return signals_.get(); }
  /// The next one that has come.
  [[nodiscard]] std::optional<int> next() const;

 private:
  sigset_t before_{};
  OwnedFd signals_;
};

}  // namespace mayfly::agent
