#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <string_view>

/// Makes text of other processes safe for a terminal, where control characters move, hide, and even type.
///
///   fmt::format("{:<12} {}\n", printable(state, kLongestShownName), printable(socket, kLongestShownName));
namespace mayfly {

/// Of a name or a path: longer than any that a socket may have.
inline constexpr std::size_t kLongestShownName = 128;
/// Of a sentence.
inline constexpr std::size_t kLongestShownMessage = 1000;

/// `text` with a question mark for each control character and for each byte that is no UTF-8; what goes beyond
/// `longest` bytes is cut, with "..." in its place.
[[nodiscard]] std::string printable(std::string_view text, std::size_t longest);

/// Two digits a byte.
[[nodiscard]] std::string hexadecimal_digits(std::span<const std::byte> bytes);

/// The whole of `text`, whose ends of lines and tabs stay.
[[nodiscard]] std::string printable_lines(std::string_view text);

}  // namespace mayfly
