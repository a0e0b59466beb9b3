#pragma once

#include "vmm/base/owned_fd.h"

#include <csignal>
#include <initializer_list>

namespace mayfly {

/// Signals that would end this process wait while it does what it must be able to undo. Those that are ignored stay
/// ignored. For the calling thread and those that it makes; at its end what waits is delivered.
///
///   const HeldSignals until_it_resumes{SIGINT, SIGTERM, SIGHUP};
class HeldSignals {
 public:
  HeldSignals(std::initializer_list<int> numbers) noexcept;
  ~HeldSignals() { let_through(); }
  HeldSignals(const HeldSignals&) = delete;
  HeldSignals& operator=(const HeldSignals&) = delete;

  /// One that waits; 0: none.
  [[nodiscard]] int waiting() const noexcept;
  /// Readable once a signal waits. Not to be read: that would take the signal.
  [[nodiscard]] OwnedFd watch() const noexcept;
  /// The mask of signals as the caller had it; for a program that inherits it.
  void let_through() noexcept;
  /// Undoes let_through().
  void hold() noexcept;

 private:
  sigset_t held_{};
  sigset_t before_{};
};

}  // namespace mayfly
