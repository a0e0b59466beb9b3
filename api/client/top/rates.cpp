#include "api/client/top/rates.h"

#include <algorithm>

namespace mayfly::top {
namespace {

/// Empty where no time is between them, or the number fell, which none of these does.
std::optional<double> per_second(std::uint64_t before, std::uint64_t now, Clock::duration time) {
  const double seconds = std::chrono::duration<double>(time).count();
  if (seconds <= 0 || now < before) return std::nullopt;
  return static_cast<double>(now - before) / seconds;
}

bool is_same_process(const Sample& one, const Sample& other) {
  return one.machine.pid == other.machine.pid && one.times && other.times &&
         one.times->value.start_ticks == other.times->value.start_ticks;
}

double bytes_of_kib(std::uint64_t kib) { return static_cast<double>(kib) * 1024; }

}  // namespace

Row row_of(const Sample* before, const Sample& now, double ticks_per_second) {
  Row row{.id = now.machine.id, .pid = now.machine.pid, .state = now.state};
  if (now.memory) {
    row.private_bytes = bytes_of_kib(now.memory->private_kib);
    row.shared_bytes = bytes_of_kib(now.memory->shared_kib);
  }
  if (before == nullptr || !is_same_process(*before, now)) return row;
  const auto ticks =
      per_second(before->times->value.cpu_ticks, now.times->value.cpu_ticks, now.times->at - before->times->at);
  if (ticks) row.cpu_percent = *ticks * 100 / ticks_per_second;
  if (!before->counters || !now.counters) return row;
  const Counters& then = before->counters->value;
  const Counters& latest = now.counters->value;
  const auto time = now.counters->at - before->counters->at;
  row.read_rate = per_second(then.read_bytes, latest.read_bytes, time);
  row.write_rate = per_second(then.write_bytes, latest.write_bytes, time);
  row.rx_rate = per_second(then.rx_bytes, latest.rx_bytes, time);
  row.tx_rate = per_second(then.tx_bytes, latest.tx_bytes, time);
  row.exit_rate = per_second(then.exits, latest.exits, time);
  return row;
}

std::vector<Row> rows_of(std::span<const Sample> before, std::span<const Sample> now, double ticks_per_second) {
  const auto pid_of = [](const Sample& sample) { return sample.machine.pid; };
  std::vector<Row> rows;
  rows.reserve(now.size());
  for (const Sample& sample : now) {
    const auto then = std::ranges::lower_bound(before, sample.machine.pid, {}, pid_of);
    const bool is_there = then != before.end() && then->machine.pid == sample.machine.pid;
    rows.push_back(row_of(is_there ? &*then : nullptr, sample, ticks_per_second));
  }
  return rows;
}

}  // namespace mayfly::top
