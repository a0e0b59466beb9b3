#include "tests/support/manual_page.h"

#include <algorithm>
#include <sstream>

namespace mayfly::testing {
namespace {

/// Hyphens of options are written "\-"; quotes and commas stand between names.
std::string plain(std::string text) {
  for (std::size_t at = 0; (at = text.find("\\-", at)) != std::string::npos;) text.erase(at, 1);
  std::ranges::replace_if(text, [](char c) { return c == '"' || c == ','; }, ' ');
  return text;
}

/// The words at the begin of a line that are options, each up to a "=" or "[".
std::set<std::string> leading_options(const std::string& line) {
  std::istringstream words{plain(line)};
  std::set<std::string> names;
  for (std::string word; words >> word && word.starts_with('-');)
    names.insert(word.substr(0, word.find_first_of("=[")));
  return names;
}

}  // namespace

std::map<std::string, std::set<std::string>> manual_entries(const std::string& page) {
  std::map<std::string, std::set<std::string>> entries;
  std::string heading;
  std::istringstream lines{page};
  std::string before;
  for (std::string line; std::getline(lines, line); before = line) {
    if (line.starts_with(".SH ") || line.starts_with(".SS ")) {
      heading = plain(line.substr(4));
      entries[heading];
    }
    if (before != ".TP" || !line.starts_with(".B")) continue;
    const std::string entry = line.substr(std::min(line.find(' '), line.size()));
    std::set<std::string> names = leading_options(entry);
    std::string first;
    if (names.empty() && std::istringstream{plain(entry)} >> first) names.insert(first);
    entries[heading].merge(names);
  }
  return entries;
}

std::set<std::string> options_of_help(const std::string& help) {
  std::set<std::string> options;
  std::istringstream lines{help};
  for (std::string line; std::getline(lines, line);)
    if (line.starts_with("  -")) options.merge(leading_options(line));
  return options;
}

}  // namespace mayfly::testing
