// What another process says to `mayfly ps` and `mayfly top`: any answer in any pieces, shown on a terminal; and what is
// typed there. The first byte says which of them it is, the second how it is cut into pieces.

#include "api/client/answer_reader.h"
#include "api/client/top/keys.h"
#include "api/client/top/rates.h"
#include "api/client/top/view.h"
#include "tests/fuzz/input.h"
#include "tests/fuzz/must.h"
#include "vmm/base/printable.h"

#include <algorithm>
#include <array>
#include <chrono>
#include <string>
#include <string_view>
#include <vector>

namespace mayfly {
namespace {

bool has_controls(std::string_view text, std::string_view but = "") {
  return std::ranges::any_of(text, [but](char c) {
    return (static_cast<unsigned char>(c) < 0x20 || c == 0x7F) && but.find(c) == std::string_view::npos;
  });
}

/// Empty where the reader gave up on it.
std::optional<MachineAnswer> read_in_pieces(std::string_view bytes, std::size_t piece) {
  AnswerReader reader;
  while (!bytes.empty() && !reader.is_whole()) {
    const std::size_t length = std::min(piece, bytes.size());
    if (!reader.take(bytes.substr(0, length))) return std::nullopt;
    bytes.remove_prefix(length);
  }
  auto answer = std::move(reader).finish();
  return answer ? std::optional{std::move(*answer)} : std::nullopt;
}

void read_answer(std::string_view bytes, std::size_t piece) {
  const auto answer = read_in_pieces(bytes, piece);
  const auto at_once = read_in_pieces(bytes, bytes.size());
  // What comes behind the answer's end is cut off or not, by how it comes; the rest is the same.
  if (answer && at_once) {
    must(answer->status == at_once->status);
    const std::size_t both = std::min(answer->body.size(), at_once->body.size());
    must(answer->body.compare(0, both, at_once->body, 0, both) == 0);
  }
  if (!answer) return;
  const std::string state = text_member(answer->body, "state");
  must(!has_controls(printable(state, kLongestShownName)));
  const auto body = body_of(*answer, "GET /");
  if (!body) must(!has_controls(body.error().message));
}

void show(std::string_view bytes, std::size_t longest) {
  const std::string name = printable(bytes, longest);
  must(!has_controls(name) && name.size() <= longest + std::string_view{"..."}.size());
  must(printable(name, name.size()) == name);
  must(!has_controls(printable_lines(bytes), "\n\t"));
}

/// Rows whose texts and figures are the input's.
void show_rows(std::span<const std::uint8_t> input) {
  const auto size = take<std::array<std::uint8_t, 2>>(input);
  const auto sort = static_cast<top::SortKey>(take<std::uint8_t>(input) % 9);
  const auto first = take<std::uint8_t>(input);
  std::vector<top::Sample> before;
  std::vector<top::Sample> now;
  while (!input.empty() && now.size() < 100) {
    top::Sample sample;
    sample.machine.pid = static_cast<pid_t>(now.size() + 1);
    for (std::string* text : {&sample.machine.id, &sample.state}) {
      const std::size_t length = std::min<std::size_t>(take<std::uint8_t>(input), input.size());
      text->assign(reinterpret_cast<const char*>(input.data()), length);
      input = input.subspan(length);
    }
    const auto what = take<std::uint8_t>(input);
    const top::Clock::time_point at{std::chrono::nanoseconds{take<std::int32_t>(input)}};
    if ((what & 1) != 0) sample.times = {at, {.cpu_ticks = take<std::uint64_t>(input), .start_ticks = what & 8U}};
    if ((what & 2) != 0) sample.memory = {.private_kib = take<std::uint64_t>(input), .shared_kib = what};
    if ((what & 4) != 0) sample.counters = {at, {.read_bytes = take<std::uint64_t>(input), .exits = what}};
    before.push_back(sample);
    if (sample.times) sample.times->at += std::chrono::nanoseconds{take<std::int32_t>(input)};
    if (sample.times) sample.times->value.cpu_ticks += take<std::uint16_t>(input);
    if (sample.counters) sample.counters->at += std::chrono::nanoseconds{take<std::int32_t>(input)};
    now.push_back(std::move(sample));
  }
  auto rows = top::rows_of(before, now, 100);
  top::sort_rows(rows, sort);
  const top::ScreenSize screen{.columns = size[0], .lines = size[1]};
  must(!has_controls(top::table_of(rows, screen.columns, false), "\n"));
  must(!has_controls(top::screen_of(rows, {.sort = sort, .first = first}, screen), "\n"));
}

void type(std::string_view bytes, std::size_t piece) {
  top::KeyReader reader;
  top::View view;
  const top::ScreenSize size{.columns = 80, .lines = 10};
  while (!bytes.empty()) {
    const std::size_t length = std::min(piece, bytes.size());
    for (const top::Key key : reader.take(bytes.substr(0, length)))
      if (key != top::Key::Quit && key != top::Key::Suspend) view = top::view_after(key, view, 30, size);
    must(view.first < 30);
    bytes.remove_prefix(length);
  }
}

}  // namespace
}  // namespace mayfly

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size < 3) return 0;
  const std::string_view bytes{reinterpret_cast<const char*>(data) + 2, size - 2};
  const std::size_t piece = std::size_t{data[1]} + 1;
  switch (data[0] % 4) {
    case 0:
      mayfly::read_answer(bytes, piece);
      break;
    case 1:
      mayfly::show(bytes, piece);
      break;
    case 2:
      mayfly::show_rows({data + 2, size - 2});
      break;
    default:
      mayfly::type(bytes, piece);
  }
  return 0;
}
