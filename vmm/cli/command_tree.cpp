#include "vmm/cli/command_tree.h"

#include <algorithm>
#include <string_view>

#include <CLI/CLI.hpp>

namespace mayfly {
namespace {

/// The text without the breaks that fit it to a help's columns.
std::string in_a_line(std::string text) {
  std::ranges::replace(text, '\n', ' ');
  return text;
}

/// As --help shows it, without the mark of what is required and without the rule of what is checked.
std::string value_of(const CLI::Option& option) {
  if (option.get_items_expected_max() == 0) return "";
  if (option.get_option_text().empty()) return option.get_type_name().substr(0, option.get_type_name().find(':'));
  std::string text = option.get_option_text();
  constexpr std::string_view kRequired = " REQUIRED";
  if (text.ends_with(kRequired)) text.resize(text.size() - kRequired.size());
  return text;
}

CommandOption option_of(const CLI::Option& option) {
  CommandOption read{.names = {},
                     .value = value_of(option),
                     .description = in_a_line(option.get_description()),
                     .is_positional = option.get_positional(),
                     .repeats = option.get_expected_max() > 1};
  for (const std::string& name : option.get_snames()) read.names.push_back("-" + name);
  for (const std::string& name : option.get_lnames()) read.names.push_back("--" + name);
  if (read.is_positional) read.names.push_back(option.get_name(true));
  return read;
}

}  // namespace

CommandTree command_tree(const CLI::App& app) {
  CommandTree tree{
      .name = app.get_name(), .description = in_a_line(app.get_description()), .options = {}, .commands = {}};
  for (const CLI::Option* option : app.get_options()) tree.options.push_back(option_of(*option));
  for (const CLI::App* command : app.get_subcommands([](const CLI::App*) { return true; }))
    tree.commands.push_back(command_tree(*command));
  return tree;
}

}  // namespace mayfly
