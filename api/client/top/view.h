#pragma once

#include "api/client/top/rates.h"

#include <cstddef>
#include <limits>
#include <optional>
#include <span>
#include <string>
#include <vector>

/// Rows as text for a terminal. Pure; whatever machines say of themselves, no line is longer than it may be and none
/// has a control character of theirs.
namespace mayfly::top {

/// What rows are sorted by: text upwards, numbers downwards, and what is not known last.
enum class SortKey { Id, Process, State, Cpu, Private, Shared, Block, Net, Exits };

struct ScreenSize {
  std::size_t columns = 80;
  std::size_t lines = 24;
};

/// How somebody looks at the rows.
struct View {
  SortKey sort = SortKey::Cpu;
  std::size_t first = 0;  ///< The row at the top of the screen.
  bool colours = false;
};

inline constexpr std::size_t kAnyWidth = std::numeric_limits<std::size_t>::max();

void sort_rows(std::vector<Row>& rows, SortKey key);

/// All rows below their titles, each with its newline. Where `columns` are too few, the least wanted are left out.
[[nodiscard]] std::string table_of(std::span<const Row> rows, std::size_t columns, bool colours);

/// At most a screen full: a summary, titles, rows from `view.first` on, the keys; newlines between the lines.
[[nodiscard]] std::string screen_of(std::span<const Row> rows, const View& view, ScreenSize size);

/// How many rows a screen has room for.
[[nodiscard]] std::size_t rows_on(ScreenSize size) noexcept;

/// `first`, moved so far that no room is left empty while there are rows above.
[[nodiscard]] std::size_t clamp_first(std::size_t first, std::size_t rows, ScreenSize size) noexcept;

/// At most five characters: "0", "999", "1.2K", "1023K", "12M"; "-" where it is not known. `base`: 1000 or 1024.
[[nodiscard]] std::string short_number(std::optional<double> value, double base);

}  // namespace mayfly::top
