#pragma once

#include "vmm/cli/describer.h"

#include <map>
#include <string>
#include <type_traits>

namespace mayfly {

/// Takes one of the names, in any case, and makes it its value, of an enumeration. `list` is what a refusal says: the
/// library's own prints its table, with the numbers behind the names.
template <class Value>
[[nodiscard]] CLI::Validator choice_of(const std::map<std::string, Value>& names, std::string list) {
  return CLI::Validator{[&names, list = std::move(list)](std::string& word) {
                          const std::string name = CLI::detail::to_lower(word);
                          const auto named = std::ranges::find_if(
                              names, [&](const auto& each) { return CLI::detail::to_lower(each.first) == name; });
                          if (named == names.end()) return "must be " + list + ", not " + word;
                          word = std::to_string(static_cast<std::underlying_type_t<Value>>(named->second));
                          return std::string{};
                        },
                        ""};
}

}  // namespace mayfly
