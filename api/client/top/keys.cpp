#include "api/client/top/keys.h"

#include <algorithm>
#include <array>

namespace mayfly::top {
namespace {

constexpr char kEscape = '\x1B';
/// Longer than any sequence of a key that counts.
constexpr std::size_t kLongestSequence = 16;

struct Typed {
  std::string_view bytes;
  Key key;
};
constexpr std::array kTyped = {
    Typed{"q", Key::Quit},           Typed{"\x03", Key::Quit},
    Typed{"\x1A", Key::Suspend},     Typed{"k", Key::Up},
    Typed{"\x1B[A", Key::Up},        Typed{"\x1BOA", Key::Up},
    Typed{"j", Key::Down},           Typed{"\x1B[B", Key::Down},
    Typed{"\x1BOB", Key::Down},      Typed{"\x02", Key::PageUp},
    Typed{"\x1B[5~", Key::PageUp},   Typed{"\x06", Key::PageDown},
    Typed{"\x1B[6~", Key::PageDown}, Typed{" ", Key::PageDown},
    Typed{"g", Key::First},          Typed{"\x1B[H", Key::First},
    Typed{"\x1BOH", Key::First},     Typed{"\x1B[1~", Key::First},
    Typed{"G", Key::Last},           Typed{"\x1B[F", Key::Last},
    Typed{"\x1BOF", Key::Last},      Typed{"\x1B[4~", Key::Last},
    Typed{"i", Key::SortId},         Typed{"p", Key::SortProcess},
    Typed{"s", Key::SortState},      Typed{"c", Key::SortCpu},
    Typed{"m", Key::SortPrivate},    Typed{"h", Key::SortShared},
    Typed{"b", Key::SortBlock},      Typed{"n", Key::SortNet},
    Typed{"e", Key::SortExits},
};

std::optional<Key> key_of(std::string_view bytes) {
  const auto found = std::ranges::find(kTyped, bytes, &Typed::bytes);
  return found != kTyped.end() ? std::optional{found->key} : std::nullopt;
}

/// ECMA-48, 5.4: parameters, then one byte from "@" on; ESC O takes one byte alone.
bool is_whole(std::string_view sequence) {
  if (sequence.size() < 3) return false;
  const char last = sequence.back();
  return sequence[1] == 'O' || (last >= '@' && last <= '~');
}

}  // namespace

std::vector<Key> KeyReader::take(std::string_view bytes) {
  std::vector<Key> keys;
  for (const char byte : bytes) {
    // The Esc key alone looks like the start of a sequence; a byte that does not continue it is a key of its own.
    const bool goes_on = sequence_.size() > 1 ? sequence_.size() < kLongestSequence : byte == '[' || byte == 'O';
    if (byte == kEscape || !goes_on) sequence_.clear();
    if (sequence_.empty() && byte != kEscape) {
      if (const auto key = key_of({&byte, 1})) keys.push_back(*key);
      continue;
    }
    sequence_ += byte;
    if (!is_whole(sequence_)) continue;
    if (const auto key = key_of(sequence_)) keys.push_back(*key);
    sequence_.clear();
  }
  return keys;
}

View view_after(Key key, View view, std::size_t rows, ScreenSize size) {
  const std::size_t page = std::max<std::size_t>(rows_on(size), 1);
  const auto sorted_by = [&view](SortKey sort) {
    view.sort = sort;
    view.first = 0;
  };
  switch (key) {
    case Key::Up:
      view.first -= std::min<std::size_t>(view.first, 1);
      break;
    case Key::Down:
      ++view.first;
      break;
    case Key::PageUp:
      view.first -= std::min(view.first, page);
      break;
    case Key::PageDown:
      view.first += page;
      break;
    case Key::First:
      view.first = 0;
      break;
    case Key::Last:
      view.first = rows;
      break;
    case Key::SortId:
      sorted_by(SortKey::Id);
      break;
    case Key::SortProcess:
      sorted_by(SortKey::Process);
      break;
    case Key::SortState:
      sorted_by(SortKey::State);
      break;
    case Key::SortCpu:
      sorted_by(SortKey::Cpu);
      break;
    case Key::SortPrivate:
      sorted_by(SortKey::Private);
      break;
    case Key::SortShared:
      sorted_by(SortKey::Shared);
      break;
    case Key::SortBlock:
      sorted_by(SortKey::Block);
      break;
    case Key::SortNet:
      sorted_by(SortKey::Net);
      break;
    case Key::SortExits:
      sorted_by(SortKey::Exits);
      break;
    case Key::Quit:
    case Key::Suspend:
      break;
  }
  view.first = clamp_first(view.first, rows, size);
  return view;
}

}  // namespace mayfly::top
