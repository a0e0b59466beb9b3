#pragma once

#include <algorithm>
#include <charconv>
#include <optional>
#include <string_view>
#include <system_error>

/// ASCII text, whatever the locale says.
namespace mayfly {

[[nodiscard]] constexpr char to_lower(char c) noexcept {
  return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
}

[[nodiscard]] constexpr bool equal_ignoring_case(std::string_view left, std::string_view right) noexcept {
  return std::ranges::equal(left, right, {}, to_lower, to_lower);
}

/// Without spaces and tabs at its ends.
[[nodiscard]] constexpr std::string_view trimmed(std::string_view text) noexcept {
  const auto first = text.find_first_not_of(" \t");
  if (first == std::string_view::npos) return {};
  return text.substr(first, text.find_last_not_of(" \t") - first + 1);
}

/// A character of a token, such as a header field's name (RFC 9110, 5.6.2: tchar).
[[nodiscard]] constexpr bool is_token_character(char c) noexcept {
  return (c >= '0' && c <= '9') || (to_lower(c) >= 'a' && to_lower(c) <= 'z') ||
         std::string_view{"!#$%&'*+-.^_`|~"}.contains(c);
}

/// The number that all of `text` spells, without a prefix; nullopt where it is none, or too large for its type.
template <typename Number>
[[nodiscard]] std::optional<Number> whole_number(std::string_view text, int base = 10) noexcept {
  Number number{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number, base);
  if (error != std::errc{} || end != text.data() + text.size()) return std::nullopt;
  return number;
}

/// A line of an HTTP message's head, without its end.
struct HttpField {
  std::string_view name;
  std::string_view value;
};

/// "Name: value". nullopt where the name is no token, or the value has a control character. So a name may not end in a
/// blank, nor a line be folded: what reads those differently is how requests are smuggled (RFC 9112, 5.1 and 5.2).
[[nodiscard]] constexpr std::optional<HttpField> http_field(std::string_view line) noexcept {
  const auto is_control = [](char c) { return (static_cast<unsigned char>(c) < 0x20 && c != '\t') || c == 0x7F; };
  const auto colon = line.find(':');
  if (colon == std::string_view::npos || colon == 0) return std::nullopt;
  const HttpField field{line.substr(0, colon), trimmed(line.substr(colon + 1))};
  if (!std::ranges::all_of(field.name, is_token_character) || std::ranges::any_of(field.value, is_control))
    return std::nullopt;
  return field;
}

}  // namespace mayfly
