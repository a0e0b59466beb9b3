#pragma once

#include <string>
#include <vector>

namespace CLI {
class App;
}

/// A command line as data: what completion scripts and manual pages name. Read from what parses it, so that neither can
/// differ from it unnoticed.
namespace mayfly {

struct CommandOption {
  std::vector<std::string> names;  ///< "-k", "--kernel"; of a positional one its name: "machine".
  std::string value;               ///< What follows it, as --help has it: "FILE", "none|transparent|2M"; empty: a flag.
  std::string description;         ///< A line.
  bool is_positional = false;
  bool repeats = false;
};

struct CommandTree {
  std::string name;
  std::string description;
  std::vector<CommandOption> options;
  std::vector<CommandTree> commands;
};

[[nodiscard]] CommandTree command_tree(const CLI::App& app);

}  // namespace mayfly
