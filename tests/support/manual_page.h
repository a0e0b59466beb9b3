#pragma once

#include <map>
#include <set>
#include <string>

/// Manual pages of ours, to be compared with what they describe.
namespace mayfly::testing {

/// What a page (its text) has entries for, by the heading (.SH, .SS) that they stand under: below .TP, a line that
/// begins with .B or .BR. The names of an option ("-k", "--kernel"), or an entry's first word.
[[nodiscard]] std::map<std::string, std::set<std::string>> manual_entries(const std::string& page);

/// The options that --help shows (its text), each with all of its names.
[[nodiscard]] std::set<std::string> options_of_help(const std::string& help);

}  // namespace mayfly::testing
