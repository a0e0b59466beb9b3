#include "api/client/top/sample.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cstddef>

namespace mayfly::top {
namespace {

/// What stands before `separator`, which is taken from `text` with it.
std::string_view take_until(std::string_view& text, char separator) {
  const std::size_t end = std::min(text.find(separator), text.size());
  const std::string_view taken = text.substr(0, end);
  text.remove_prefix(std::min(end + 1, text.size()));
  return taken;
}

/// The number at the start of `text`, after blanks.
std::optional<std::uint64_t> number_in(std::string_view text) {
  text.remove_prefix(std::min(text.find_first_not_of(' '), text.size()));
  std::uint64_t number = 0;
  const auto read = std::from_chars(text.data(), text.data() + text.size(), number);
  return read.ec == std::errc{} ? std::optional{number} : std::nullopt;
}

/// A line of metrics, and where its number is added.
struct Metric {
  std::string_view name;
  std::uint64_t Counters::* counter;
};
constexpr std::array kMetrics = {
    Metric{"mayfly_block_read_bytes_total", &Counters::read_bytes},
    Metric{"mayfly_block_write_bytes_total", &Counters::write_bytes},
    Metric{"mayfly_net_rx_bytes_count_total", &Counters::rx_bytes},
    Metric{"mayfly_net_tx_bytes_count_total", &Counters::tx_bytes},
    Metric{"mayfly_vcpu_exit_io_in_total", &Counters::exits},
    Metric{"mayfly_vcpu_exit_io_out_total", &Counters::exits},
    Metric{"mayfly_vcpu_exit_mmio_read_total", &Counters::exits},
    Metric{"mayfly_vcpu_exit_mmio_write_total", &Counters::exits},
    Metric{"mayfly_vcpu_exit_kicked_total", &Counters::exits},
};

}  // namespace

std::optional<ProcessTimes> parse_stat(std::string_view text) {
  // The program's name is in parentheses and may have some of its own, and blanks.
  const std::size_t name_end = text.rfind(") ");
  if (name_end == std::string_view::npos) return std::nullopt;
  text.remove_prefix(name_end + 2);
  // proc(5) counts from 1, and the state, which stands here, is 3.
  constexpr std::size_t kUserTime = 14;
  constexpr std::size_t kSystemTime = 15;
  constexpr std::size_t kStart = 22;
  std::array<std::optional<std::uint64_t>, kStart + 1> fields{};
  for (std::size_t i = 3; i <= kStart; ++i) fields.at(i) = number_in(take_until(text, ' '));
  if (!fields[kUserTime] || !fields[kSystemTime] || !fields[kStart]) return std::nullopt;
  return ProcessTimes{.cpu_ticks = *fields[kUserTime] + *fields[kSystemTime], .start_ticks = *fields[kStart]};
}

std::optional<ProcessMemory> parse_smaps_rollup(std::string_view text) {
  ProcessMemory memory;
  bool found = false;
  while (!text.empty()) {
    std::string_view line = take_until(text, '\n');
    const std::string_view name = take_until(line, ':');
    const auto kib = number_in(line);
    if (!kib) continue;
    if (name.starts_with("Private_")) memory.private_kib += *kib;  // clean, dirty and of huge pages
    if (name.starts_with("Shared_")) memory.shared_kib += *kib;
    found = found || name == "Private_Dirty";
  }
  return found ? std::optional{memory} : std::nullopt;
}

std::optional<Counters> parse_metrics(std::string_view text) {
  Counters counters;
  bool found = false;
  while (!text.empty()) {
    std::string_view line = take_until(text, '\n');
    const auto metric = std::ranges::find(kMetrics, take_until(line, ' '), &Metric::name);
    const auto number = metric != kMetrics.end() ? number_in(line) : std::nullopt;
    if (!number) continue;
    counters.*(metric->counter) += *number;
    found = true;
  }
  return found ? std::optional{counters} : std::nullopt;
}

}  // namespace mayfly::top
