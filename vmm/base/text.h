#pragma once

#include <algorithm>
#include <string_view>

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

}  // namespace mayfly
