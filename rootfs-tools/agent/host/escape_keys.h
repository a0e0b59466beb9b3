#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace mayfly::agent {

/// Finds Enter ~ . among the keys for a guest, as ssh does: Ctrl-C goes to the guest, which may hang. ~~ at the begin of a
/// line is one ~.
class EscapeKeys {
 public:
  struct Passed {
    std::string keys;  ///< What goes to the guest: at most one more than was typed.
    bool leaves = false;
  };
  [[nodiscard]] Passed pass(std::string_view typed);
  /// Keys that wait for the next one.
  [[nodiscard]] std::size_t held() const noexcept { return after_ == After::Tilde ? 1 : 0; }

 private:
  enum class After { Enter, Tilde, Other };

  After after_ = After::Enter;
};

}  // namespace mayfly::agent
