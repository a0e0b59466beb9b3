#pragma once

#include <cstddef>
#include <string_view>

namespace mayfly {

/// The length of the UTF-8 character at the start of `text`, which is not empty; 0 where there is none (Unicode 15,
/// table 3-7).
[[nodiscard]] std::size_t utf8_length(std::string_view text);

/// Whether all of `text` is UTF-8.
[[nodiscard]] bool is_utf8(std::string_view text);

/// Whether that one character is a control character: of ASCII, or U+0080 to U+009F, which terminals obey as well.
[[nodiscard]] bool is_control(std::string_view character);

}  // namespace mayfly
