// Any text as filters and any bytes as compiled ones: nothing crashes, and what is taken is within its bounds.

#include "jailer/seccomp/blob.h"
#include "jailer/seccomp/constants.h"
#include "jailer/seccomp/filter_text.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <vector>

namespace {

using namespace mayfly::seccomp;

void require(bool holds) {
  if (!holds) std::abort();
}

void parse(std::string_view text) {
  const auto parsed = parse_filters(text, constant_named);
  if (!parsed) return;
  for (const ThreadFilter& thread : parsed->threads)
    for (const Entry& entry : entries_of(*parsed, thread)) {
      require(!entry.call.empty() && entry.line > 0 && entry.conditions.size() <= 6);
      require(std::ranges::adjacent_find(entry.conditions, std::ranges::greater_equal{}, &Condition::argument) ==
              entry.conditions.end());
      for (const Condition& condition : entry.conditions) require(condition.argument < 6);
    }
}

/// Aligned as what the monitor reads.
void find(std::span<const std::uint8_t> bytes) {
  std::vector<std::uint64_t> words((bytes.size() + 7) / 8);
  std::memcpy(words.data(), bytes.data(), bytes.size());
  const auto blob = std::as_bytes(std::span{words}).first(bytes.size());
  const auto found = find_programs(blob);
  if (!found) return;
  for (const auto& program : found->of_kind) {
    const auto whole = std::as_bytes(program);
    require(!whole.empty() && whole.data() >= blob.data() && whole.data() + whole.size() <= blob.data() + blob.size());
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  parse({reinterpret_cast<const char*>(data), size});
  if (size > 0) find({data, size});
  return 0;
}
