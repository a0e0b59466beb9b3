#pragma once

#include "tests/support/child_process.h"

#include <string>
#include <vector>

/// A snapshot of a guest that waits (tests/guests/restored.cpp), with leave to go on in its memory file: restored, it
/// writes 123 to the boot timer and an "A" to its console.
///
///   const FrozenGuest frozen{scratch, {.monitor = ..., .guest = ..., .size_mib = 128}};
///
/// What goes wrong throws std::runtime_error.
namespace mayfly::perf {

/// What is read next of these files comes from the disk.
void drop_from_page_cache(const std::vector<std::string>& paths);

class FrozenGuest {
 public:
  /// What the guest does after its "A".
  enum class Then : char { Reset = 1, Halt = 2 };
  struct Options {
    std::string monitor;
    std::string guest;
    unsigned size_mib = 128;
    Then then = Then::Reset;
  };
  FrozenGuest(const testing::ScratchDirectory& scratch, const Options& options);

  [[nodiscard]] unsigned size_mib() const { return size_mib_; }
  [[nodiscard]] const std::string& state() const { return state_; }
  [[nodiscard]] const std::string& memory() const { return memory_; }
  /// Takes the files out of the page cache.
  void cool() const;

 private:
  unsigned size_mib_;
  std::string state_;
  std::string memory_;
};

}  // namespace mayfly::perf
