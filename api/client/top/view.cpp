#include "api/client/top/view.h"

#include "vmm/base/printable.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <string_view>
#include <tuple>

#include <fmt/format.h>

namespace mayfly::top {
namespace {

constexpr double kBytes = 1024;
constexpr double kCounts = 1000;
/// Of the summary, the titles and the keys.
constexpr std::size_t kLinesAround = 3;
/// The least that an id gets before columns are left out for it.
constexpr std::size_t kShortId = 12;
constexpr std::string_view kKeys =
    "q quit  j k scroll  sort: i id  p process  s state  c CPU  m private  h shared  b block  n net  e exits";

constexpr std::string_view kReverse = "\x1B[7m";
constexpr std::string_view kRed = "\x1B[31m";
constexpr std::string_view kGreen = "\x1B[32m";
constexpr std::string_view kYellow = "\x1B[33m";
constexpr std::string_view kPlain = "\x1B[0m";

/// In ASCII, since a character elsewhere may be two columns wide, or none.
std::string plain(std::string_view text) {
  std::string out = printable(text, kLongestShownName);
  for (char& c : out)
    if (static_cast<unsigned char>(c) >= 0x80) c = '?';
  return out;
}

/// Exactly so wide; a plus sign stands for what is cut.
std::string left(std::string_view text, std::size_t width) {
  if (text.size() > width) return width == 0 ? "" : std::string{text.substr(0, width - 1)} + '+';
  return fmt::format("{:<{}}", text, width);
}

std::string percent(std::optional<double> value) { return value ? fmt::format("{:.1f}", *value) : "-"; }

std::optional<double> sum(std::optional<double> one, std::optional<double> other) {
  if (!one || !other) return std::nullopt;
  return *one + *other;
}

/// Behind the id, which takes the width that is left.
struct Column {
  std::string_view title;
  std::size_t width;
  bool is_text;
  int rank;  ///< The greater, the sooner it is left out.
  std::string (*cell)(const Row&);
};
constexpr std::array kColumns = {
    Column{"PID", 8, false, 8, [](const Row& row) { return fmt::format("{}", row.pid); }},
    Column{"STATE", 11, true, 0, [](const Row& row) { return plain(row.state); }},
    Column{"CPU%", 6, false, 0, [](const Row& row) { return percent(row.cpu_percent); }},
    Column{"PRIV", 6, false, 1, [](const Row& row) { return short_number(row.private_bytes, kBytes); }},
    Column{"SHARED", 6, false, 7, [](const Row& row) { return short_number(row.shared_bytes, kBytes); }},
    Column{"RD/s", 6, false, 3, [](const Row& row) { return short_number(row.read_rate, kBytes); }},
    Column{"WR/s", 6, false, 4, [](const Row& row) { return short_number(row.write_rate, kBytes); }},
    Column{"RX/s", 6, false, 5, [](const Row& row) { return short_number(row.rx_rate, kBytes); }},
    Column{"TX/s", 6, false, 6, [](const Row& row) { return short_number(row.tx_rate, kBytes); }},
    Column{"EXIT/s", 6, false, 2, [](const Row& row) { return short_number(row.exit_rate, kCounts); }},
};
constexpr int kHighestRank = 8;

/// What fits: the columns of this rank and below, and the id's width.
struct Layout {
  int rank = 0;
  std::size_t id_width = 0;
};

std::size_t width_to_rank(int rank) {
  std::size_t width = 0;
  for (const Column& column : kColumns)
    if (column.rank <= rank) width += 1 + column.width;
  return width;
}

Layout layout_of(std::span<const Row> rows, std::size_t columns) {
  std::size_t longest = std::string_view{"ID"}.size();
  for (const Row& row : rows) longest = std::max(longest, row.id.size());
  int rank = kHighestRank;
  while (rank > 0 && width_to_rank(rank) + std::min(longest, kShortId) > columns) --rank;
  const std::size_t room = columns - std::min(columns, width_to_rank(rank));
  return {.rank = rank, .id_width = std::clamp(room, std::size_t{2}, longest)};
}

std::string_view colour_of(std::string_view state) {
  if (state == "Running") return kGreen;
  if (state == "Paused") return kYellow;
  if (state == "no answer" || state == "unreachable") return kRed;
  return "";
}

/// A line of at most `columns`, coloured as a whole.
std::string coloured(std::string_view text, std::string_view colour, std::size_t columns) {
  const std::string_view cut = text.substr(0, columns);
  if (colour.empty()) return std::string{cut};
  return fmt::format("{}{}{}", colour, cut, kPlain);
}

std::string titles(const Layout& layout, std::size_t columns, bool colours) {
  std::string line = left("ID", layout.id_width);
  for (const Column& column : kColumns) {
    if (column.rank > layout.rank) continue;
    line +=
        column.is_text ? ' ' + left(column.title, column.width) : fmt::format(" {:>{}}", column.title, column.width);
  }
  return coloured(line, colours ? kReverse : "", columns);
}

std::string line_of(const Row& row, const Layout& layout, std::size_t columns, bool colours) {
  std::string line = left(plain(row.id), layout.id_width);
  std::size_t state_begin = 0;
  std::size_t state_end = 0;
  for (const Column& column : kColumns) {
    if (column.rank > layout.rank) continue;
    line += ' ';
    if (column.is_text) state_begin = line.size();
    line +=
        column.is_text ? left(column.cell(row), column.width) : fmt::format("{:>{}}", column.cell(row), column.width);
    if (column.is_text) state_end = line.size();
  }
  if (!colours || state_end > columns) return line.substr(0, columns);
  const std::string_view whole{line};
  return fmt::format("{}{}{}", whole.substr(0, state_begin),
                     coloured(whole.substr(state_begin, state_end - state_begin), colour_of(row.state), columns),
                     whole.substr(state_end, columns - state_end));
}

std::string_view name_of(SortKey key) {
  constexpr std::array<std::string_view, 9> kNames = {
      "id", "process", "state", "CPU", "private memory", "shared memory", "block rates", "net rates", "exits"};
  return kNames.at(static_cast<std::size_t>(key));
}

std::string summary_of(std::span<const Row> rows, const View& view, ScreenSize size) {
  std::size_t running = 0;
  double cpu = 0;
  double memory = 0;
  for (const Row& row : rows) {
    running += row.state == "Running" ? 1 : 0;
    cpu += row.cpu_percent.value_or(0);
    memory += row.private_bytes.value_or(0);
  }
  std::string line =
      fmt::format("{} machine{}, {} running, CPU {:.1f}%, private {}, by {}", rows.size(), rows.size() == 1 ? "" : "s",
                  running, cpu, short_number(memory, kBytes), name_of(view.sort));
  const std::size_t end = std::min(view.first + rows_on(size), rows.size());
  if (end - std::min(view.first, end) < rows.size()) line += fmt::format(", rows {} to {}", view.first + 1, end);
  return line;
}

/// A number to sort by, upwards: what is not known comes last.
double downwards(std::optional<double> value) { return value ? -*value : std::numeric_limits<double>::infinity(); }

double number_of(const Row& row, SortKey key) {
  switch (key) {
    case SortKey::Cpu:
      return downwards(row.cpu_percent);
    case SortKey::Private:
      return downwards(row.private_bytes);
    case SortKey::Shared:
      return downwards(row.shared_bytes);
    case SortKey::Block:
      return downwards(sum(row.read_rate, row.write_rate));
    case SortKey::Net:
      return downwards(sum(row.rx_rate, row.tx_rate));
    case SortKey::Exits:
      return downwards(row.exit_rate);
    case SortKey::Process:
      return row.pid;
    case SortKey::Id:
    case SortKey::State:
      break;
  }
  return 0;
}

}  // namespace

void sort_rows(std::vector<Row>& rows, SortKey key) {
  std::ranges::sort(rows, [key](const Row& one, const Row& other) {
    if (key == SortKey::State && one.state != other.state) return one.state < other.state;
    const double first = number_of(one, key);
    const double second = number_of(other, key);
    if (first != second) return first < second;
    return std::tie(one.id, one.pid) < std::tie(other.id, other.pid);
  });
}

std::string table_of(std::span<const Row> rows, std::size_t columns, bool colours) {
  const Layout layout = layout_of(rows, columns);
  std::string text = titles(layout, columns, colours) + '\n';
  for (const Row& row : rows) text += line_of(row, layout, columns, colours) + '\n';
  return text;
}

std::string screen_of(std::span<const Row> rows, const View& view, ScreenSize size) {
  const std::size_t first = std::min(view.first, rows.size());
  const Layout layout = layout_of(rows, size.columns);
  std::vector<std::string> lines = {summary_of(rows, view, size).substr(0, size.columns),
                                    titles(layout, size.columns, view.colours)};
  for (const Row& row : rows.subspan(first, std::min(rows.size() - first, rows_on(size))))
    lines.push_back(line_of(row, layout, size.columns, view.colours));
  while (lines.size() + 1 < size.lines) lines.emplace_back();
  lines.emplace_back(kKeys.substr(0, size.columns));
  lines.resize(std::min(lines.size(), size.lines));
  return fmt::format("{}", fmt::join(lines, "\n"));
}

std::size_t rows_on(ScreenSize size) noexcept { return size.lines - std::min(size.lines, kLinesAround); }

std::size_t clamp_first(std::size_t first, std::size_t rows, ScreenSize size) noexcept {
  return std::min(first, rows - std::min(rows, rows_on(size)));
}

std::string short_number(std::optional<double> value, double base) {
  if (!value) return "-";
  constexpr std::string_view kUnits = "KMGTPEZY";
  double scaled = std::max(*value, 0.0);
  std::size_t unit = 0;
  while (std::round(scaled) >= base && unit < kUnits.size()) {
    scaled /= base;
    ++unit;
  }
  if (unit == 0) return fmt::format("{:.0f}", scaled);
  // One that rounds to 10.0 has no room for the point.
  return scaled < 9.95 ? fmt::format("{:.1f}{}", scaled, kUnits[unit - 1])
                       : fmt::format("{:.0f}{}", scaled, kUnits[unit - 1]);
}

}  // namespace mayfly::top
