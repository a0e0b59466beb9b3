#include "vmm/cli/agent_options.h"

#include "vmm/cli/clone_options.h"

#include <CLI/CLI.hpp>

namespace mayfly {
namespace {

void add_agent_socket(CLI::App& app, std::string& socket) {
  app.add_option("--agent-socket", socket, "Where the guest's agent is reached, instead of\nby a machine")
      ->option_text("PATH");
}

}  // namespace

void add_exec(CLI::App& app, ExecFlags& flags) {
  ExecOptions& options = flags.options;
  app.add_flag("-i,--interactive", options.interactive, "Standard input is the command's (default: it\nreads nothing)");
  app.add_flag("-t,--tty", options.tty, "Give it a terminal, of this one's size; with -i,\nEnter ~ . leaves it");
  app.add_option("-u,--user", options.user, "Run it as that user (default: as the image says,\nor root)")
      ->option_text("USER[:GROUP]");
  app.add_option("-e,--env", options.environment, "Set a variable for it; repeat it for more")
      ->option_text("NAME=VALUE")
      ->allow_extra_args(false);
  app.add_option("-w,--cwd", options.directory, "Run it in that directory (default: as the image\nsays, or /)")
      ->option_text("GUEST-PATH");
  add_agent_socket(app, options.agent_socket);
  add_bases(app, options.bases);
  app.add_option("machine", flags.words, "Its id or process (see mayfly ps); then the\ncommand, behind --")
      ->option_text("ID|PID -- COMMAND...");
}

Result<ExecOptions> exec_options(const ExecFlags& flags, std::span<const char* const> behind) {
  ExecOptions options = flags.options;
  auto words = flags.words;
  if (options.agent_socket.empty()) {
    if (words.empty())
      return fail(ErrorKind::InvalidArgument, "mayfly exec needs a machine (mayfly ps), or --agent-socket");
    options.machine = words.front();
    words.erase(words.begin());
  }
  options.command = std::move(words);
  options.command.insert(options.command.end(), behind.begin(), behind.end());
  if (options.command.empty() || options.command.front().empty())
    return fail(ErrorKind::InvalidArgument, "mayfly exec needs a command: mayfly exec [OPTIONS] ID -- COMMAND");
  for (const std::string& each : options.environment)
    if (const auto equals = each.find('='); equals == 0 || equals == std::string::npos)
      return fail(ErrorKind::InvalidArgument, "--env '{}' must be NAME=VALUE", each);
  if (!options.directory.empty() && !options.directory.starts_with('/'))
    return fail(ErrorKind::InvalidArgument, "--cwd '{}' must be an absolute path of the guest", options.directory);
  return options;
}

void add_copy(CLI::App& app, CopyOptions& options) {
  add_agent_socket(app, options.agent_socket);
  add_bases(app, options.bases);
  app.add_option("source", options.source, "A file or directory; /. at its end: its content")
      ->option_text("[ID:]PATH REQUIRED")
      ->required();
  app.add_option("destination", options.destination, "Where it goes; within, if it is a directory")
      ->option_text("[ID:]PATH REQUIRED")
      ->required();
}

}  // namespace mayfly
