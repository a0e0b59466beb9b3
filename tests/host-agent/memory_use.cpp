#include "tests/host-agent/memory_use.h"

#include "vmm/base/files.h"

#include <algorithm>
#include <charconv>

#include <fmt/format.h>

namespace mayfly::host_agent {
namespace {

constexpr std::size_t kLongestRollup = std::size_t{64} << 10;

/// The number of a line "Pss:    1234 kB".
std::optional<std::uint64_t> kib_of(std::string_view line, std::string_view name) {
  if (!line.starts_with(name) || !line.ends_with(" kB")) return std::nullopt;
  line.remove_prefix(name.size());
  line.remove_prefix(std::min(line.find_first_not_of(' '), line.size()));
  std::uint64_t number = 0;
  const auto [end, error] = std::from_chars(line.data(), line.data() + line.size(), number);
  if (error != std::errc{} || *end != ' ') return std::nullopt;
  return number;
}

}  // namespace

void MemoryUse::write(JsonWriter& json) const {
  json.begin_object();
  json.field("monitors", monitors);
  json.field("pss_kib", pss_kib);
  json.field("private_kib", private_kib);
  json.end_object();
}

std::optional<MemoryUse> parse_smaps_rollup(std::string_view text) {
  std::optional<std::uint64_t> pss;
  MemoryUse use{.monitors = 1};
  while (!text.empty()) {
    const std::string_view line = text.substr(0, text.find('\n'));
    text.remove_prefix(std::min(line.size() + 1, text.size()));
    if (const auto kib = kib_of(line, "Pss:")) pss = kib;
    for (const char* name : {"Private_Clean:", "Private_Dirty:", "Private_Hugetlb:"})
      if (const auto kib = kib_of(line, name)) use.private_kib += *kib;
  }
  if (!pss) return std::nullopt;
  use.pss_kib = *pss;
  return use;
}

MemoryUse memory_of(const std::vector<pid_t>& processes, const std::string& proc) {
  MemoryUse sum;
  for (const pid_t process : processes) {
    const auto text = read_file(fmt::format("{}/{}/smaps_rollup", proc, process), "a process's memory", kLongestRollup);
    const auto use = text ? parse_smaps_rollup(*text) : std::nullopt;
    if (!use) continue;
    ++sum.monitors;
    sum.pss_kib += use->pss_kib;
    sum.private_kib += use->private_kib;
  }
  return sum;
}

}  // namespace mayfly::host_agent
