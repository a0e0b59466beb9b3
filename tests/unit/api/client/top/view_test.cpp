#include "api/client/top/view.h"

#include <algorithm>
#include <sstream>

#include <fmt/format.h>
#include <gtest/gtest.h>

namespace mayfly::top {
namespace {

Row row(const std::string& id, pid_t pid, double cpu) {
  return {.id = id,
          .pid = pid,
          .state = "Running",
          .cpu_percent = cpu,
          .private_bytes = 1024.0 * 1024 * 3,
          .shared_bytes = 512,
          .read_rate = 0,
          .write_rate = 2048,
          .rx_rate = 1e9,
          .tx_rate = std::nullopt,
          .exit_rate = 12'345};
}

std::vector<std::string> lines_of(const std::string& text) {
  std::vector<std::string> lines;
  std::istringstream stream{text};
  for (std::string line; std::getline(stream, line);) lines.push_back(line);
  return lines;
}

std::size_t widest(const std::vector<std::string>& lines) {
  std::size_t width = 0;
  for (const std::string& line : lines) width = std::max(width, line.size());
  return width;
}

std::vector<std::string> ids(const std::vector<Row>& rows) {
  std::vector<std::string> found;
  for (const Row& each : rows) found.push_back(each.id);
  return found;
}

TEST(ShortNumber, HasFiveCharactersAtMost) {
  EXPECT_EQ(short_number(std::nullopt, 1024), "-");
  EXPECT_EQ(short_number(0, 1024), "0");
  EXPECT_EQ(short_number(-1, 1024), "0");
  EXPECT_EQ(short_number(1023, 1024), "1023");
  EXPECT_EQ(short_number(1024, 1024), "1.0K");
  EXPECT_EQ(short_number(10'189, 1024), "10K") << "9.95 K";
  EXPECT_EQ(short_number(1024.0 * 1023, 1024), "1023K");
  EXPECT_EQ(short_number(1024.0 * 1023.9, 1024), "1.0M");
  EXPECT_EQ(short_number(999, 1000), "999");
  EXPECT_EQ(short_number(999.6, 1000), "1.0K");
  EXPECT_EQ(short_number(12'345, 1000), "12K");
  EXPECT_LE(short_number(1.8e19, 1024).size(), 5U);
}

TEST(TopTable, HasALineAMachine) {
  const std::vector<Row> rows = {row("vm-7", 4711, 12.34)};
  EXPECT_EQ(table_of(rows, kAnyWidth, false),
            "ID        PID STATE         CPU%   PRIV SHARED   RD/s   WR/s   RX/s   TX/s EXIT/s\n"
            "vm-7     4711 Running       12.3   3.0M    512      0   2.0K   954M      -    12K\n");
  EXPECT_EQ(table_of({}, kAnyWidth, false),
            "ID      PID STATE         CPU%   PRIV SHARED   RD/s   WR/s   RX/s   TX/s EXIT/s\n");
}

TEST(TopTable, FitsAnyWidth) {
  const std::vector<Row> rows = {row(std::string(64, 'x'), 4'194'304, 3200), row("b", 2, 0)};
  for (std::size_t columns = 1; columns <= 160; ++columns)
    EXPECT_LE(widest(lines_of(table_of(rows, columns, false))), columns);
  const std::string narrow = table_of(rows, 80, false);
  EXPECT_EQ(narrow.find("PID"), std::string::npos) << "the process's number is wanted least";
  EXPECT_NE(narrow.find("EXIT/s"), std::string::npos);
  EXPECT_NE(narrow.find("xxx+ "), std::string::npos) << "what is cut says so";
  EXPECT_NE(table_of(rows, 30, false).find("CPU%"), std::string::npos);
}

TEST(TopTable, ShowsNoControlCharacterOfAMachine) {
  Row bad = row("a", 1, 0);
  bad.state = "\x1B[2J\r\n\u4E2D";
  const std::string table = table_of(std::vector<Row>{bad}, kAnyWidth, false);
  EXPECT_EQ(table.find('\x1B'), std::string::npos);
  EXPECT_EQ(lines_of(table).size(), 2U);
  EXPECT_NE(table.find("?[2J?????"), std::string::npos) << "in ASCII: others may be two columns wide\n" << table;
}

TEST(TopTable, ColoursTakeNoColumns) {
  std::vector<Row> rows = {row("a", 1, 0), row("b", 2, 0), row("c", 3, 0)};
  rows[1].state = "Paused";
  rows[2].state = "no answer";
  std::string coloured = table_of(rows, 80, true);
  for (const std::string_view colour : {"\x1B[7m", "\x1B[32m", "\x1B[33m", "\x1B[31m"}) {
    const std::size_t at = coloured.find(colour);
    ASSERT_NE(at, std::string::npos);
    coloured.erase(at, colour.size());
  }
  for (std::size_t at = 0; (at = coloured.find("\x1B[0m")) != std::string::npos;) coloured.erase(at, 4);
  EXPECT_EQ(coloured, table_of(rows, 80, false));
}

TEST(TopScreen, FillsTheScreenAndNoMore) {
  std::vector<Row> rows;
  for (int i = 0; i < 50; ++i) rows.push_back(row(fmt::format("vm-{:02}", i), i + 1, i));
  for (std::size_t height = 1; height <= 60; ++height) {
    const auto lines = lines_of(screen_of(rows, {}, {.columns = 80, .lines = height}));
    EXPECT_EQ(lines.size(), height);
    EXPECT_LE(widest(lines), 80U);
  }
  const auto lines = lines_of(screen_of(rows, {.sort = SortKey::Id, .first = 10}, {.columns = 120, .lines = 8}));
  EXPECT_EQ(lines[0], "50 machines, 50 running, CPU 1225.0%, private 150M, by id, rows 11 to 15");
  EXPECT_TRUE(lines[1].starts_with("ID "));
  EXPECT_TRUE(lines[2].starts_with("vm-10 "));
  EXPECT_TRUE(lines[6].starts_with("vm-14 "));
  EXPECT_TRUE(lines[7].starts_with("q quit"));
}

TEST(TopScreen, HasASummaryWithoutMachinesToo) {
  const auto lines = lines_of(screen_of({}, {}, {.columns = 80, .lines = 5}));
  EXPECT_EQ(lines.at(0), "0 machines, 0 running, CPU 0.0%, private 0, by CPU");
}

TEST(TopSort, PutsTheLargestFirstAndTheUnknownLast) {
  std::vector<Row> rows = {row("a", 3, 1), row("b", 2, 5), row("c", 1, 3), row("d", 4, 5)};
  rows[2].cpu_percent.reset();
  sort_rows(rows, SortKey::Cpu);
  EXPECT_EQ(ids(rows), (std::vector<std::string>{"b", "d", "a", "c"})) << "equal ones by their ids";
  sort_rows(rows, SortKey::Process);
  EXPECT_EQ(ids(rows), (std::vector<std::string>{"c", "b", "a", "d"}));
  sort_rows(rows, SortKey::Id);
  EXPECT_EQ(ids(rows), (std::vector<std::string>{"a", "b", "c", "d"}));
  rows[3].state = "Paused";
  rows[1].private_bytes = 1e12;
  rows[2].shared_bytes = 1e12;
  rows[0].read_rate = 1e12;
  rows[1].tx_rate = 1;
  rows[3].exit_rate = 1e12;
  const auto first_by = [&rows](SortKey key) {
    sort_rows(rows, key);
    return rows.front().id;
  };
  EXPECT_EQ(first_by(SortKey::State), "d");
  EXPECT_EQ(first_by(SortKey::Private), "b");
  EXPECT_EQ(first_by(SortKey::Shared), "c");
  EXPECT_EQ(first_by(SortKey::Block), "a");
  EXPECT_EQ(first_by(SortKey::Net), "b") << "the others' rates are not known";
  EXPECT_EQ(first_by(SortKey::Exits), "d");
}

TEST(TopScroll, StopsAtTheLastRow) {
  constexpr ScreenSize kSize{.columns = 80, .lines = 13};
  EXPECT_EQ(rows_on(kSize), 10U);
  EXPECT_EQ(clamp_first(5, 50, kSize), 5U);
  EXPECT_EQ(clamp_first(45, 50, kSize), 40U);
  EXPECT_EQ(clamp_first(5, 8, kSize), 0U);
  EXPECT_EQ(rows_on({.columns = 80, .lines = 2}), 0U);
}

}  // namespace
}  // namespace mayfly::top
