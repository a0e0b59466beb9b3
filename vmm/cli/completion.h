#pragma once

#include "vmm/cli/command_tree.h"

#include <cstdint>
#include <string>

/// Scripts by which shells complete a command line, made from what parses it.
///
///   mayfly completion bash >/usr/share/bash-completion/completions/mayfly
namespace mayfly {

enum class Shell : std::uint8_t { Bash, Fish, Zsh };

/// Completes subcommands, options, files, words of which there are few, and machines (by `mayfly ps`, in the shell).
[[nodiscard]] std::string completion_script(Shell shell, const CommandTree& tree);

}  // namespace mayfly
