#include "vmm/monitor/run_machine.h"

#include "api/config_file.h"
#include "api/requests.h"
#include "api/schema.h"
#include "vmm/base/files.h"
#include "vmm/base/json_value.h"
#include "vmm/base/raw_terminal.h"
#include "vmm/cli/exit_codes.h"
#include "vmm/monitor/monitor.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <iterator>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

namespace mayfly {
namespace {

/// More than any configuration needs, and more than metadata within their limit, with white space.
constexpr std::size_t kLargestConfigFile = 1 << 20;

Result<std::vector<Command>> commands_of_file(const std::string& path) {
  const std::string what = "--config-file " + path;
  auto text = read_file(path, what, kLargestConfigFile);
  if (!text) return propagate(text);
  auto commands = parse_config_file(*text);
  if (!commands) return propagate(commands, what);
  return commands;
}

Result<Command> metadata_of_file(const std::string& path, std::size_t limit) {
  const std::string what = "--metadata " + path;
  auto text = read_file(path, what, kLargestConfigFile + limit);
  if (!text) return propagate(text);
  auto json = parse_json(*text, what);
  if (!json) return propagate(json);
  auto metadata = read_metadata(*json, what);
  if (!metadata) return propagate(metadata);
  return PutMmds{std::move(*metadata)};
}

/// The commands of the files, metadata first: a machine that a configuration starts has them from its start.
Result<std::vector<Command>> commands_of_files(const ServeOptions& options) {
  std::vector<Command> commands;
  if (options.metadata_file) {
    auto metadata = metadata_of_file(*options.metadata_file, options.limits.metadata());
    if (!metadata) return propagate(metadata);
    commands.push_back(std::move(*metadata));
  }
  if (options.config_file) {
    auto parsed = commands_of_file(*options.config_file);
    if (!parsed) return propagate(parsed);
    std::ranges::move(*parsed, std::back_inserter(commands));
  }
  return commands;
}

struct MachineRun {
  const CommonOptions& common;
  const std::optional<std::string>& api_sock;
  const ApiLimits& limits;
  std::vector<Command> commands;
  bool on_terminal = false;  ///< The console is on a raw terminal, which Ctrl-A x ends.
};

int run_to_end(MachineRun machine) {
  // A shell's background job that reads its terminal is stopped, API and all. Instead the read fails (EIO), which ends the
  // guest's input.
  if (!machine.on_terminal && ::signal(SIGTTIN, SIG_IGN) == SIG_ERR)
    return report(fail_errno(ErrorKind::System, "cannot ignore SIGTTIN").error(), kExitError);
  auto filters = seccomp::ThreadFilters::open(machine.common.filters);
  if (!filters) return report(filters.error(), kExitBadConfiguration);
  const OwnedFd keys = nonblocking_twin(STDIN_FILENO, O_RDONLY);
  const OwnedFd screen = nonblocking_twin(STDOUT_FILENO, O_WRONLY);
  ConsoleOptions console{.input_fd = keys ? keys.get() : STDIN_FILENO,
                         .output_fd = screen ? screen.get() : STDOUT_FILENO,
                         .rate_limiter = {},
                         .on_quit = {}};
  if (machine.on_terminal) console.on_quit = [] {};  // the monitor's own takes its place
  Monitor monitor{machine.common, std::move(*filters), std::move(console)};
  if (auto prepared = monitor.prepare(machine.limits.metadata()); !prepared)
    return report(prepared.error(), kExitError);
  std::unique_ptr<RawTerminal> terminal;
  const auto refuse = [&terminal](const Error& error, int code) {
    terminal.reset();
    return report(error, code);
  };
  if (machine.on_terminal) {
    auto entered = RawTerminal::enter(STDIN_FILENO);
    if (!entered) return refuse(entered.error(), kExitError);
    terminal = std::move(*entered);
  }
  if (machine.api_sock)
    if (auto serving = monitor.serve_api(*machine.api_sock, machine.limits.max_payload); !serving)
      return refuse(serving.error(), kExitError);
  if (auto in = monitor.lock_in(); !in) return refuse(in.error(), kExitError);
  const auto code = monitor.run(std::move(machine.commands));
  return code ? *code : refuse(code.error(), exit_code_of(code.error()));
}

}  // namespace

int run_machine(const ServeOptions& options) {
  auto commands = commands_of_files(options);
  if (!commands) return report(commands.error(), kExitBadConfiguration);
  return run_to_end({.common = options.common,
                     .api_sock = options.api_sock,
                     .limits = options.limits,
                     .commands = std::move(*commands)});
}

int run_machine(RunOptions options) {
  return run_to_end({.common = options.common,
                     .api_sock = options.api_sock,
                     .limits = options.limits,
                     .commands = std::move(options.commands),
                     .on_terminal = true});
}

}  // namespace mayfly
