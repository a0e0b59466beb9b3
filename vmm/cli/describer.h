#pragma once

#include <algorithm>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include <CLI/CLI.hpp>

namespace mayfly {

/// The words after the program's name. They must outlive the holder.
using Words = std::span<const char* const>;

[[nodiscard]] inline bool has_word(Words words, std::string_view word) {
  return std::ranges::any_of(words, [word](const char* each) { return each == word; });
}

/// Describes a command's options to CLI11. Describing one costs about 10 us, and a host would pay for all of them at
/// every start of a machine: so those that the command line does not name can be left out.
class Describer {
 public:
  /// Describes all options. For commands that people type, and for lists of options.
  explicit Describer(CLI::App& app) : app_(app) {}
  /// Describes those that `words` name: "--id", or "--id=me". Not for options of one letter, which may stand together.
  Describer(CLI::App& app, Words words) : app_(app), words_(words) {}

  /// Whether the option is described; `name` with its hyphens.
  [[nodiscard]] bool wants(std::string_view name) const {
    return !words_ || std::ranges::any_of(*words_, [name](std::string_view word) {
      return word.starts_with(name) && (word.size() == name.size() || word[name.size()] == '=');
    });
  }

  /// `refine` says the rest about the option.
  void option(const std::string& names, auto& value, std::string_view text, const auto& refine) const {
    if (wants(names)) refine(*app_.add_option(names, value, std::string{text}));
  }
  /// `value_name` stands for the value in --help.
  void option(const std::string& names, auto& value, std::string_view text, const char* value_name) const {
    option(names, value, text, [value_name](CLI::Option& option) { option.type_name(value_name); });
  }
  void flag(const std::string& names, bool& value, std::string_view text) const {
    if (wants(names)) app_.add_flag(names, value, std::string{text});
  }
  /// A flag that prints `answer` and ends well.
  void answer(const std::string& names, const std::string& answer, std::string_view text) const {
    if (wants(names))
      app_.add_flag_callback(names, [answer] { throw CLI::CallForVersion{answer, 0}; }, std::string{text});
  }

  [[nodiscard]] CLI::App& app() const { return app_; }

 private:
  CLI::App& app_;
  std::optional<Words> words_;
};

}  // namespace mayfly
