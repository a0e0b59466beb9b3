#pragma once

#include "api/client/top/view.h"

#include <optional>
#include <string>
#include <string_view>
#include <vector>

/// What somebody types at `mayfly top`. Pure.
namespace mayfly::top {

enum class Key {
  Quit,
  Suspend,
  Up,
  Down,
  PageUp,
  PageDown,
  First,
  Last,
  SortId,
  SortProcess,
  SortState,
  SortCpu,
  SortPrivate,
  SortShared,
  SortBlock,
  SortNet,
  SortExits
};

/// Bytes of a terminal as keys: an arrow comes as several, and perhaps not all at once. What means nothing is skipped.
class KeyReader {
 public:
  [[nodiscard]] std::vector<Key> take(std::string_view bytes);

 private:
  std::string sequence_;  ///< The begin of one: "\x1B[" and parameters.
};

/// The view after a key, of so many rows on such a screen. Quit and Suspend are not its matter.
[[nodiscard]] View view_after(Key key, View view, std::size_t rows, ScreenSize size);

}  // namespace mayfly::top
