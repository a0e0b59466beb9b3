#include "vmm/base/printable.h"

#include "vmm/base/utf8.h"

#include <algorithm>
#include <iterator>

#include <fmt/format.h>

namespace mayfly {
namespace {

std::string shown(std::string_view text, std::size_t longest, std::string_view kept) {
  std::string out;
  while (!text.empty()) {
    const std::size_t length = utf8_length(text);
    const std::string_view character = text.substr(0, std::max<std::size_t>(length, 1));
    if (out.size() + character.size() > longest) return out + "...";
    const bool harmless = length != 0 && (!is_control(character) || kept.find(character) != std::string_view::npos);
    out += harmless ? character : "?";
    text.remove_prefix(character.size());
  }
  return out;
}

}  // namespace

std::string printable(std::string_view text, std::size_t longest) { return shown(text, longest, ""); }

std::string printable_lines(std::string_view text) { return shown(text, std::string_view::npos, "\n\t"); }

std::string hexadecimal_digits(std::span<const std::byte> bytes) {
  std::string text;
  text.reserve(2 * bytes.size());
  for (const std::byte byte : bytes)
    fmt::format_to(std::back_inserter(text), "{:02x}", std::to_integer<unsigned>(byte));
  return text;
}

}  // namespace mayfly
