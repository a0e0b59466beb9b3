#include "api/client/top/top.h"

#include "api/client/deadline.h"
#include "api/client/top/collector.h"
#include "api/client/top/live.h"
#include "api/client/top/rates.h"
#include "api/client/top/view.h"

#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace mayfly {
namespace {

std::string_view environment(const char* name) {
  const char* const value = std::getenv(name);  // NOLINT(concurrency-mt-unsafe): no other thread exists
  return value == nullptr ? "" : value;
}

/// Whether the terminal knows more than lines.
bool can_draw() { return environment("TERM") != "dumb"; }

/// no-color.org: set to anything, it asks for none.
bool wants_colours() { return can_draw() && environment("NO_COLOR").empty(); }

/// Longer than a round on a terminal: metrics may take a second (with --branches), and this is the only table.
constexpr std::chrono::seconds kLastRound{2};

void take_answers_until(Deadline deadline, top::Collector& collector) {
  while (is_ready_by(deadline, collector.fd(), POLLIN)) collector.take_answers();
}

/// Rates need two rounds, with the interval in between, in which answers of the first one may come.
Status print_once(top::Collector collector, std::chrono::milliseconds interval, double ticks_per_second) {
  const Deadline second = Deadline::clock::now() + interval;
  collector.begin_round();
  std::vector<top::Sample> now;
  std::vector<top::Sample> before;
  if (!collector.samples().empty()) {
    take_answers_until(second, collector);
    before = collector.samples();
    const Deadline end = Deadline::clock::now() + kLastRound;
    collector.begin_round();
    while (!collector.is_complete() && is_ready_by(end, collector.fd(), POLLIN)) collector.take_answers();
    now = collector.samples();
  }
  std::vector<top::Row> rows = top::rows_of(before, now, ticks_per_second);
  top::sort_rows(rows, top::SortKey::Cpu);
  const bool on_terminal = ::isatty(STDOUT_FILENO) == 1;
  const std::size_t columns = on_terminal ? top::screen_size(STDOUT_FILENO).columns : top::kAnyWidth;
  const std::string table = top::table_of(rows, columns, on_terminal && wants_colours());
  if (std::fwrite(table.data(), 1, table.size(), stdout) != table.size() || std::fflush(stdout) == EOF)
    return fail_errno(ErrorKind::System, "cannot write the table");
  return {};
}

}  // namespace

Result<int> run_top(const TopParameters& parameters) {
  auto collector = top::Collector::create();
  if (!collector) return propagate(collector);
  const auto ticks_per_second = static_cast<double>(::sysconf(_SC_CLK_TCK));
  const bool on_terminal = ::isatty(STDIN_FILENO) == 1 && ::isatty(STDOUT_FILENO) == 1;
  if (on_terminal && can_draw() && !parameters.once)
    return top::LiveTop{std::move(*collector), parameters.interval, ticks_per_second, wants_colours()}.run();
  if (auto printed = print_once(std::move(*collector), parameters.interval, ticks_per_second); !printed)
    return propagate(printed);
  return 0;
}

}  // namespace mayfly
