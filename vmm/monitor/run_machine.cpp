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
#include <string>
#include <utility>
#include <vector>

#include <fmt/format.h>

namespace mayfly {
namespace {

/// More than any configuration needs, and more than metadata within their limit, with white space.
constexpr std::size_t kLargestConfigFile = 1 << 20;

/// What the files and options order, and what whoever wrote them should know.
struct Orders {
  std::vector<Command> commands{};
  std::vector<std::string> warnings{};
};

Status add_file(const std::string& path, Orders& orders) {
  const std::string what = "--config-file " + path;
  auto text = read_file(path, what, kLargestConfigFile);
  if (!text) return propagate(text);
  auto file = parse_config_file(*text);
  if (!file) return propagate(file, what);
  std::ranges::move(file->commands, std::back_inserter(orders.commands));
  if (!file->unknown_sections.empty())
    orders.warnings.push_back(
        fmt::format("{}: unknown sections have no effect: {}", what, in_words(file->unknown_sections)));
  return {};
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

/// Of the files, metadata first: a machine that a configuration starts has them from its start.
Result<Orders> orders_of(const ServeOptions& options) {
  Orders orders;
  if (options.enable_pci)
    orders.warnings.emplace_back("--enable-pci has no effect: there is no PCI, the guest's devices are virtio-mmio");
  if (options.metadata_file) {
    auto metadata = metadata_of_file(*options.metadata_file, options.limits.metadata());
    if (!metadata) return propagate(metadata);
    orders.commands.push_back(std::move(*metadata));
  }
  if (options.config_file)
    if (auto added = add_file(*options.config_file, orders); !added) return propagate(added);
  return orders;
}

struct MachineRun {
  const CommonOptions& common;
  const std::optional<std::string>& api_sock;
  const ApiLimits& limits;
  Orders orders;
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
  const auto code = monitor.run(std::move(machine.orders.commands), std::move(machine.orders.warnings));
  return code ? *code : refuse(code.error(), exit_code_of(code.error()));
}

}  // namespace

int run_machine(const ServeOptions& options) {
  auto orders = orders_of(options);
  if (!orders) return report(orders.error(), kExitBadConfiguration);
  return run_to_end(
      {.common = options.common, .api_sock = options.api_sock, .limits = options.limits, .orders = std::move(*orders)});
}

int run_machine(RunOptions options) {
  return run_to_end({.common = options.common,
                     .api_sock = options.api_sock,
                     .limits = options.limits,
                     .orders = {.commands = std::move(options.commands)},
                     .on_terminal = true});
}

}  // namespace mayfly
