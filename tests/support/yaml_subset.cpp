#include "tests/support/yaml_subset.h"

#include <algorithm>
#include <cstddef>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

namespace mayfly::testing {
namespace {

struct Line {
  std::size_t number;
  std::size_t indentation;
  std::string_view text;
};

/// The key of prose that begins on a line; empty where none does.
std::string_view prose_key(std::string_view text) {
  for (const std::string_view key : {"description:", "summary:"})
    if (text.starts_with(key)) return key;
  return {};
}

std::vector<Line> lines_of(std::string_view text, YamlProse prose) {
  std::vector<Line> lines;
  std::optional<std::size_t> prose_under;  // the indentation of what is skipped now
  for (std::size_t number = 1; !text.empty(); ++number) {
    const std::size_t end = std::min(text.find('\n'), text.size());
    const std::string_view line = text.substr(0, end);
    text.remove_prefix(std::min(end + 1, text.size()));
    const std::size_t indentation = line.find_first_not_of(' ');
    if (indentation == std::string_view::npos || line[indentation] == '#') continue;
    if (prose_under && indentation > *prose_under) continue;
    prose_under.reset();
    const std::string_view rest = line.substr(indentation);
    const std::string_view key = prose == YamlProse::Skipped ? prose_key(rest) : std::string_view{};
    if (!key.empty()) prose_under = indentation;
    lines.push_back({number, indentation,
                     key == "summary:"       ? "summary: skipped"
                     : key == "description:" ? "description: skipped"
                                             : rest});
  }
  return lines;
}

JsonValue scalar(std::string_view text) {
  if (text.size() >= 2 && text.front() == '"' && text.back() == '"') text = text.substr(1, text.size() - 2);
  return {std::string{text}};
}

JsonValue value_of(std::string_view text) {
  if (!text.starts_with('[')) return scalar(text);
  EXPECT_TRUE(text.ends_with(']')) << text;
  text = text.substr(1, text.size() - 2);
  JsonValue::Array items;
  while (!text.empty()) {
    const std::size_t comma = std::min(text.find(", "), text.size());
    items.push_back(scalar(text.substr(0, comma)));
    text.remove_prefix(std::min(comma + 2, text.size()));
  }
  return {std::move(items)};
}

class Parser {
 public:
  explicit Parser(std::vector<Line> lines) : lines_(std::move(lines)) {}

  JsonValue block(std::size_t indentation) {  // NOLINT(misc-no-recursion): as deep as the file is indented
    if (lines_[at_].text.starts_with("- ")) return list(indentation);
    return mapping(indentation);
  }

  void expect_end() const {
    if (at_ < lines_.size()) ADD_FAILURE() << "line " << lines_[at_].number << " is indented strangely";
  }

 private:
  [[nodiscard]] bool continues(std::size_t indentation) const {
    return at_ < lines_.size() && lines_[at_].indentation == indentation;
  }

  JsonValue mapping(std::size_t indentation) {
    JsonValue::Object members;
    while (continues(indentation) && !lines_[at_].text.starts_with("- ")) {
      const Line line = lines_[at_++];
      const std::size_t colon = line.text.ends_with(':') ? line.text.size() - 1 : line.text.find(": ");
      if (colon >= line.text.size()) {
        ADD_FAILURE() << "line " << line.number << " is no \"key: value\"";
        continue;
      }
      std::string key = std::get<std::string>(scalar(line.text.substr(0, colon)).data);
      if (colon + 1 < line.text.size()) {
        members.push_back({std::move(key), value_of(line.text.substr(colon + 2))});
      } else {
        members.push_back({std::move(key), nested(line, indentation)});
      }
    }
    return {std::move(members)};
  }

  JsonValue nested(const Line& under, std::size_t indentation) {
    if (at_ < lines_.size() && lines_[at_].indentation > indentation) return block(lines_[at_].indentation);
    if (continues(indentation) && lines_[at_].text.starts_with("- ")) return list(indentation);
    ADD_FAILURE() << "line " << under.number << " has nothing under it";
    return {nullptr};
  }

  JsonValue list(std::size_t indentation) {
    JsonValue::Array items;
    while (continues(indentation) && lines_[at_].text.starts_with("- ")) {
      Line& line = lines_[at_];
      line.text.remove_prefix(2);
      line.indentation += 2;
      if (line.text.ends_with(':') || line.text.contains(": ")) {
        items.push_back(mapping(indentation + 2));
      } else {
        items.push_back(scalar(line.text));
        ++at_;
      }
    }
    return {std::move(items)};
  }

  std::vector<Line> lines_;
  std::size_t at_ = 0;
};

}  // namespace

JsonValue parse_yaml_subset(std::string_view text, YamlProse prose) {
  Parser parser{lines_of(text, prose)};
  JsonValue value = parser.block(0);
  parser.expect_end();
  return value;
}

}  // namespace mayfly::testing
