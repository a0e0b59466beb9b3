#pragma once

#include "vmm/base/error.h"

#include <memory>
#include <string_view>

/// The terminal of `mayfly run`: raw, so that the guest sees every key, and put back on every way out, a crash of ours
/// included. Of `mayfly top`, too.
namespace mayfly {

class RawTerminal {
 public:
  /// What is written on every way out, once the settings are back; static text, such as "show the cursor".
  struct Farewell {
    int fd = -1;  ///< -1: nothing is to be written.
    std::string_view text{};
  };
  /// Processed: a line's end returns to its begin, since log lines of our own may share the terminal. Raw: whoever
  /// writes has a terminal of its own behind it, which does that.
  enum class Output { Processed, Raw };
  /// Switches `fd` to raw mode; an empty pointer where it is not a terminal. One at a time in a process, and
  /// before its other threads.
  [[nodiscard]] static Result<std::unique_ptr<RawTerminal>> enter(int fd, Farewell farewell,
                                                                  Output output = Output::Processed);
  [[nodiscard]] static Result<std::unique_ptr<RawTerminal>> enter(int fd) { return enter(fd, Farewell{}); }
  /// Puts it back where it is raw, for a way out on which nothing is destroyed. Any thread; async-signal-safe.
  static void put_back() noexcept;
  RawTerminal(const RawTerminal&) = delete;
  RawTerminal& operator=(const RawTerminal&) = delete;
  ~RawTerminal();

 private:
  RawTerminal() = default;
};

}  // namespace mayfly
