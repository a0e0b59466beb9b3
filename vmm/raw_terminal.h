#pragma once

#include "vmm/base/error.h"

#include <memory>

/// The terminal of `mayfly run`: raw, so that the guest sees every key, and put back on every way out, a crash of ours
/// included.
namespace mayfly {

class RawTerminal {
 public:
  /// Switches `fd` to raw mode; an empty pointer where it is not a terminal. One at a time in a process.
  [[nodiscard]] static Result<std::unique_ptr<RawTerminal>> enter(int fd);
  RawTerminal(const RawTerminal&) = delete;
  RawTerminal& operator=(const RawTerminal&) = delete;
  ~RawTerminal();

 private:
  RawTerminal() = default;
};

}  // namespace mayfly
