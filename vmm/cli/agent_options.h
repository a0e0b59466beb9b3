#pragma once

#include "vmm/cli/options.h"

#include <span>
#include <string>
#include <vector>

namespace CLI {
class App;
}

/// The options of what is asked of the agent in a guest.
namespace mayfly {

struct ExecFlags {
  ExecOptions options;
  std::vector<std::string> words;  ///< The machine and, where no "--" stands before it, the command.
};

void add_exec(CLI::App& app, ExecFlags& flags);
/// `behind`: the words behind "--". Errors: no machine, no command, a variable without a name or value.
[[nodiscard]] Result<ExecOptions> exec_options(const ExecFlags& flags, std::span<const char* const> behind);

void add_copy(CLI::App& app, CopyOptions& options);

}  // namespace mayfly
