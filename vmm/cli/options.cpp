#include "vmm/cli/options.h"

#include "snapshot/state_file.h"
#include "vmm/cli/agent_options.h"
#include "vmm/cli/choices.h"
#include "vmm/cli/clone_options.h"
#include "vmm/cli/command_tree.h"
#include "vmm/cli/common_options.h"
#include "vmm/cli/completion.h"
#include "vmm/cli/describer.h"
#include "vmm/cli/override_options.h"
#include "vmm/cli/terminal_options.h"

#include <algorithm>
#include <array>
#include <cstdio>
#include <iostream>
#include <map>

#include <CLI/CLI.hpp>
#include <fmt/format.h>

namespace mayfly {
namespace {

struct ServeFlags {
  std::string api_sock = kDefaultSocket;
  bool no_api = false;
  std::string config_file;
  std::string metadata_file;
  ApiLimits limits;
  bool enable_pci = false;
};

void add_serve(const Describer& describe, ServeFlags& flags) {
  describe.option("--api-sock", flags.api_sock, "Unix socket of the API",
                  [](CLI::Option& socket) { socket.type_name("PATH")->capture_default_str(); });
  describe.flag("--no-api", flags.no_api, "Serve no API; needs --config-file");
  describe.option("--config-file", flags.config_file,
                  "JSON file with the whole configuration; the\nmachine starts at once", "FILE");
  describe.option("--metadata", flags.metadata_file, "JSON file with the first metadata for the guest\n(see PUT /mmds)",
                  "FILE");
  add_limits(describe, flags.limits);
  describe.flag("--enable-pci", flags.enable_pci, "Accepted for the dialect: devices are virtio-mmio");
}

struct SnapshotFlags {
  std::vector<std::string> freezes;  // of create
  MergeOptions merge;
  VerifyOptions verify;
  SweepOptions sweep;
  DescribeOptions describe;
  RemoteOptions create{.verb = RemoteOptions::Verb::Snapshot};
};

void add_machine(CLI::App& app, RemoteOptions& remote) {
  app.add_option("machine", remote.machine, "Its id or process (see mayfly ps), or the path\nof its socket")
      ->option_text("ID|PID|SOCKET REQUIRED")
      ->required();
}

void add_files(CLI::App& app, std::string& state, std::vector<std::string>& memory) {
  app.add_option("-s,--state", state, "State file")->option_text("FILE REQUIRED")->required();
  app.add_option("-m,--memory", memory, "Memory file; or its base, and repeated for each\ndiff over it, in their order")
      ->option_text("FILE REQUIRED")
      ->required()
      ->allow_extra_args(false);
}

void add_snapshot(CLI::App& app, SnapshotFlags& flags) {
  app.require_subcommand(1);
  CLI::App& create = *app.add_subcommand(
      "create", "Take a snapshot of a machine; it is paused\nmeanwhile. Files of a jailed one are in its jail");
  add_machine(create, flags.create);
  create.add_option("-s,--state", flags.create.state, "State file to write")->option_text("FILE REQUIRED")->required();
  create.add_option("-m,--memory", flags.create.memory, "Memory file to write")
      ->option_text("FILE REQUIRED")
      ->required();
  create.add_flag("--diff", flags.create.diff,
                  "Write only what changed since the last snapshot;\nmerged into it if FILE is its memory file");
  create
      .add_option("--freeze", flags.freezes,
                  "Keep that drive as it is under FILE: clones need\nnot wait for this machine's end. Repeatable")
      ->option_text("ID=FILE")
      ->allow_extra_args(false);
  create.add_flag(
      "--live", flags.create.live,
      "Have the machine stand still for a moment alone,\nand write its memory while it goes on; it was\nstarted "
      "with --live-snapshots");
  create
      .add_option("--max-copied-mib", flags.create.max_copied_mib,
                  "With --live: where the machine's writes cost more\nmemory meanwhile, it is held back")
      ->option_text("MIB")
      ->check(CLI::Range(1, 1 << 20))
      ->needs("--live");
  CLI::App& merge = *app.add_subcommand("merge", "Merge diffs of the memory into their base");
  merge.add_option("-b,--base", flags.merge.base, "Memory file that is the diff's base")
      ->option_text("FILE REQUIRED")
      ->required();
  merge.add_option("-d,--diff", flags.merge.diffs, "Memory file of the diff; repeat it for those over\nit")
      ->option_text("FILE REQUIRED")
      ->required()
      ->allow_extra_args(false);
  merge.add_option("-o,--output", flags.merge.output, "For the last diff's state file; may be any of them")
      ->option_text("FILE REQUIRED")
      ->required();
  CLI::App& verify = *app.add_subcommand("verify", "Check that the files are whole and belong together");
  add_files(verify, flags.verify.state, flags.verify.memory);
  CLI::App& describe = *app.add_subcommand("describe", "Print a snapshot as JSON, with its memory's layers");
  add_files(describe, flags.describe.state, flags.describe.memory);
  CLI::App& sweep = *app.add_subcommand("sweep", "Remove what killed monitors left of snapshots");
  sweep.add_option("directories", flags.sweep.directories, "Where memory files and state files are")
      ->option_text("DIRECTORY... REQUIRED")
      ->required();
  sweep.add_flag("--dry-run", flags.sweep.dry_run, "Only print what would be done");
}

struct DriveFlags {
  DriveInfoOptions info;
  DriveExportOptions exported;
  DriveCommitOptions commit;
};

void add_layers(CLI::App& app, std::vector<std::string>& bases, std::string& overlay) {
  app.add_option("-b,--base", bases, "Raw image below it; repeated, layers in their\norder")
      ->option_text("FILE REQUIRED")
      ->required()
      ->allow_extra_args(false);
  app.add_option("--overlay", overlay, "The overlay, which no machine writes")
      ->option_text("FILE REQUIRED")
      ->required();
}

void add_drive(CLI::App& app, DriveFlags& flags) {
  app.require_subcommand(1);
  CLI::App& info = *app.add_subcommand("info", "Say what overlays have, and what they lie over");
  info.add_option("overlays", flags.info.overlays, "Overlays that no machine writes")
      ->option_text("FILE... REQUIRED")
      ->required();
  info.add_flag("--json", flags.info.json, "Print JSON");
  CLI::App& exported = *app.add_subcommand("export", "Write what a guest sees of an overlay as a raw image");
  add_layers(exported, flags.exported.bases, flags.exported.overlay);
  CLI::App& commit = *app.add_subcommand(
      "commit", "Put what an overlay has into the layer below it,\nwhich is replaced; the overlay is removed");
  add_layers(commit, flags.commit.bases, flags.commit.overlay);
  exported.add_option("-o,--output", flags.exported.output, "The image, which must not be there")
      ->option_text("FILE REQUIRED")
      ->required();
}

/// What is asked of machines in other processes, but for snapshots.
struct RemoteCommand {
  RemoteOptions::Verb verb;
  const char* name;
  const char* description;
};
constexpr std::array kRemoteCommands = {
    RemoteCommand{RemoteOptions::Verb::List, "ps", "List the machines of this host"},
    RemoteCommand{RemoteOptions::Verb::Pause, "pause", "Pause a machine"},
    RemoteCommand{RemoteOptions::Verb::Resume, "resume", "Resume a paused machine"},
    RemoteCommand{RemoteOptions::Verb::Revert, "revert", "Take a restored machine back to its snapshot"},
    RemoteCommand{RemoteOptions::Verb::Branch, "branch", "Make children that go on from where a machine is"},
    RemoteCommand{RemoteOptions::Verb::Stop, "stop", "Ask a machine's guest to shut down, and wait"},
    RemoteCommand{RemoteOptions::Verb::Config, "config", "Print a machine's configuration as JSON"},
    RemoteCommand{RemoteOptions::Verb::Metrics, "metrics", "Print a machine's metrics as Prometheus reads them"},
};

void add_remote(CLI::App& app, RemoteOptions::Verb verb, RemoteOptions& options, std::vector<std::string>& taps) {
  if (verb != RemoteOptions::Verb::List) add_machine(app, options);
  if (verb == RemoteOptions::Verb::Revert) {
    app.add_flag("--paused", options.paused, "Leave it paused (default: it runs on)");
    add_clock(app, options.clock_realtime);
  }
  if (verb == RemoteOptions::Verb::Branch) {
    app.add_option("-n,--children", options.children, "How many (default: 1)")
        ->option_text("N")
        ->check(CLI::Range(1U, static_cast<unsigned>(kMostBranchChildren)));
    app.add_option("--name", options.name, "They are NAME-1, NAME-2 ... (default: the\nmachine's id)")
        ->option_text("NAME");
    app.add_option("-t,--tap", taps,
                   "A TAP for a network interface, and an address if\ngiven; repeat it for each child")
        ->option_text("ID=NAME[,mac=MAC]")
        ->allow_extra_args(false);
  }
  if (verb != RemoteOptions::Verb::Stop) return;
  app.add_flag("--now", options.now, "End its monitor without asking the guest");
  app.add_option("--timeout", options.timeout_s, "How long to wait for its end (default: 30)")
      ->option_text("SECONDS")
      ->check(CLI::Range(1U, 86'400U));
}

/// Not CLI11's Range, to which "nan" is within any.
std::string check_interval(const std::string& text) {
  double seconds = 0;
  const bool good = CLI::detail::lexical_cast(text, seconds) && seconds >= 0.1 && seconds <= 3600;
  return good ? "" : "the interval '" + text + "' must be from 0.1 to 3600 seconds";
}

void add_top(CLI::App& app, TopOptions& top) {
  app.add_flag("--once", top.once, "Print one table and end (also without a terminal)");
  app.add_option("--interval", top.interval_s, "Time between two tables (default: 1)")
      ->option_text("SECONDS")
      ->check(check_interval);
}

const std::map<std::string, Shell>& shell_names() {
  static const std::map<std::string, Shell> names = {{"bash", Shell::Bash}, {"fish", Shell::Fish}, {"zsh", Shell::Zsh}};
  return names;
}

void add_doctor(CLI::App& app, DoctorOptions& doctor) {
  CLI::Option* const json = app.add_flag("--json", doctor.json, "Print JSON");
  CLI::Option* const cpu =
      app.add_flag("--cpu", doctor.cpu, "Print the features that guests can be shown\nhere, as a /cpu-config")
          ->excludes(json);
  app.add_option("files", doctor.cpu_files,
                 "With --cpu: what it has printed on other hosts;\nprint what all of them have")
      ->option_text("FILE...")
      ->needs(cpu);
}

/// For packages and for setting up a shell, so --help does not show it.
void add_completion(CLI::App& app, CompletionOptions& completion) {
  app.group("");
  app.add_option("shell", completion.shell, "For which shell")
      ->option_text("bash|fish|zsh REQUIRED")
      ->required()
      ->transform(choice_of(shell_names(), "bash, fish or zsh"));
}

ExitNow refuse(const std::string& what) {
  std::fprintf(stderr, "mayfly: %s\n", what.c_str());
  return {kExitBadArguments};
}

/// What the library found, and where the options are listed.
ExitNow refuse_parsed(const CLI::App& app, const CLI::ParseError& error) {
  std::string whole = "mayfly";
  for (auto named = app.get_subcommands(); !named.empty(); named = named.front()->get_subcommands())
    whole += " " + named.front()->get_name();
  const std::vector<std::string> strange = app.remaining(true);
  if (!strange.empty() && dynamic_cast<const CLI::ExtrasError*>(&error) != nullptr)
    return refuse(fmt::format("there is no {} {}; see {} --help",
                              strange.front().starts_with("-") ? "option" : "command or argument", strange.front(),
                              whole));
  return refuse(fmt::format("{}; see {} --help", error.what(), whole));
}

/// Options before a subcommand belong to `mayfly` without one: CLI11 accepts them, and they would have no effect.
std::optional<ExitNow> refuse_misplaced(const CLI::App& app) {
  for (const CLI::App* command : app.get_subcommands())
    for (const CLI::Option* option : app.get_options([](const CLI::Option* each) { return each->count() > 0; })) {
      const std::string name = option->get_name();
      const std::string whole = "mayfly " + command->get_name();
      if (command->get_option_no_throw(name) != nullptr)
        return refuse(
            fmt::format("{} has no effect before '{}'; write {} {} ...", name, command->get_name(), whole, name));
      return refuse(fmt::format("{0} is not for {1}; see {1} --help", name, whole));
    }
  return std::nullopt;
}

/// A machine on this terminal.
Invocation on_terminal(Result<std::vector<Command>> commands, CommonOptions common, const LoggerFlags& logger,
                       const std::string& api_sock, const ApiLimits& limits) {
  if (!commands) return refuse(commands.error().message);
  common.logger = logger_config(logger);
  RunOptions options{.common = std::move(common), .commands = std::move(*commands), .api_sock = {}, .limits = limits};
  if (!api_sock.empty()) options.api_sock = api_sock;
  return options;
}

/// The command line as CLI11 understands it, and what it fills. CLI11 keeps references to it.
class CommandLine {
 public:
  /// `behind`: of `mayfly exec`, what stands behind "--".
  CommandLine(Words words, Words behind)
      : completes_(has_word(words, "completion")),
        lists_all_(completes_ || std::ranges::any_of(words,
                                                     [](std::string_view word) {
                                                       return word.starts_with("-h") || word.starts_with("--help");
                                                     })),
        words_(words),
        behind_(behind) {
    app_.fallthrough(false);
    app_.require_subcommand(0, 1);
    describe_serve();
    describe_commands();
  }
  CommandLine(const CommandLine&) = delete;
  CommandLine& operator=(const CommandLine&) = delete;

  Invocation parse(int argc, const char* const* argv) {
    try {
      app_.parse(argc, argv);
    } catch (const CLI::Success& answer) {  // --help, --version
      const int code = app_.exit(answer);
      if (std::cout.flush()) return ExitNow{code};
      std::fputs("mayfly: standard output cannot be written to\n", stderr);  // a full disk, or a reader who went away
      return ExitNow{kExitError};
    } catch (const CLI::ParseError& error) {
      return refuse_parsed(app_, error);
    }
    if (auto refused = refuse_misplaced(app_)) return *refused;
    const auto commands = app_.get_subcommands();
    return commands.empty() ? serve() : chosen(*commands.front());
  }

 private:
  /// `mayfly` without a subcommand.
  void describe_serve() {
    const Describer describe = lists_all_ ? Describer{app_} : Describer{app_, words_};
    describe.answer("--version", "Mayfly v" MAYFLY_VERSION "\nAPI dialect: Firecracker v1.17.0",
                    "Display program version information and exit");
    describe.answer("--snapshot-version", fmt::format("v{}", kStateFormatVersion),
                    "Print the version of the snapshots' format");
    describe.option("--describe-snapshot", describe_.state, "Print a snapshot's state file as JSON",
                    [](CLI::Option& file) { file.option_text("FILE"); });
    add_serve(describe, serve_);
    add_common(describe, common_, logger_);
  }

  /// The subcommands that are named, or all where they are listed.
  void describe_commands() {
    subcommand("run", "Boot a kernel on this terminal; Ctrl-A x quits", [this](CLI::App& app) {
      add_run(app, run_);
      add_common(Describer{app}, terminal_common_, terminal_logger_);
    });
    subcommand("restore", "Restore a snapshot on this terminal", [this](CLI::App& app) {
      add_restore(app, restore_);
      add_common(Describer{app}, terminal_common_, terminal_logger_);
    });
    subcommand("snapshot", "Take a snapshot; merge, verify, describe or sweep\nfiles",
               [this](CLI::App& app) { add_snapshot(app, snapshot_); });
    subcommand("drive", "Show overlays of drives, export or commit one",
               [this](CLI::App& app) { add_drive(app, drive_); });
    for (const RemoteCommand& command : kRemoteCommands)
      subcommand(command.name, command.description,
                 [&](CLI::App& app) { add_remote(app, command.verb, remote_, remote_taps_); });
    subcommand("up", "Start a clone of a template", [this](CLI::App& app) { add_up(app, up_); });
    subcommand("down", "End a clone, and remove its files", [this](CLI::App& app) { add_down(app, down_); });
    subcommand("logs", "Print what a clone's guest has printed", [this](CLI::App& app) { add_logs(app, logs_); });
    subcommand("exec", "Run a command in a guest", [this](CLI::App& app) { add_exec(app, exec_); });
    subcommand("cp", "Copy files into a guest, or out of it", [this](CLI::App& app) { add_copy(app, copy_); });
    subcommand("top", "Follow the machines of this host on a terminal", [this](CLI::App& app) { add_top(app, top_); });
    if (completes_)
      subcommand("completion", "Print a script by which a shell completes commands",
                 [this](CLI::App& app) { add_completion(app, completion_); });
    subcommand("doctor", "Check this host: costs and remedies", [this](CLI::App& app) { add_doctor(app, doctor_); });
  }

  void subcommand(const char* name, const char* description, const auto& describe) {
    if (lists_all_ || has_word(words_, name)) describe(*app_.add_subcommand(name, description));
  }

  [[nodiscard]] Invocation serve() {
    const CLI::Option* const describes = app_.get_option_no_throw("--describe-snapshot");
    if (describes != nullptr && describes->count() > 0) return describe_;
    if (serve_.no_api && serve_.config_file.empty())
      return refuse("--no-api needs --config-file: nothing else could start the machine");
    common_.logger = logger_config(logger_);
    ServeOptions options{.common = common_,
                         .api_sock = {},
                         .config_file = {},
                         .metadata_file = {},
                         .limits = serve_.limits,
                         .enable_pci = serve_.enable_pci};
    if (!serve_.no_api) options.api_sock = serve_.api_sock;
    if (!serve_.config_file.empty()) options.config_file = serve_.config_file;
    if (!serve_.metadata_file.empty()) options.metadata_file = serve_.metadata_file;
    return options;
  }

  [[nodiscard]] Invocation chosen(const CLI::App& command) {
    const std::string& name = command.get_name();
    if (name == "run")
      return on_terminal(run_commands(run_), terminal_common_, terminal_logger_, run_.api_sock, run_.limits);
    if (name == "restore")
      return on_terminal(restore_commands(restore_), terminal_common_, terminal_logger_, restore_.api_sock,
                         restore_.limits);
    if (name == "top") return top_;
    if (name == "cp") return copy_;
    if (name == "down") return down_;
    if (name == "logs") return logs_;
    if (name == "up") {
      auto options = up_options(up_);
      if (!options) return refuse(options.error().message);
      return std::move(*options);
    }
    if (name == "exec") {
      auto options = exec_options(exec_, behind_);
      if (!options) return refuse(options.error().message);
      return std::move(*options);
    }
    if (name == "doctor") return doctor_;
    if (name == "completion") {
      completion_.commands = command_tree(app_);
      return completion_;
    }
    if (name == "snapshot") {
      if (command.got_subcommand("create")) {
        auto frozen = read_frozen_drives(snapshot_.freezes);
        if (!frozen) return refuse(frozen.error().message);
        snapshot_.create.frozen_drives = std::move(*frozen);
        return snapshot_.create;
      }
      if (command.got_subcommand("merge")) return snapshot_.merge;
      if (command.got_subcommand("sweep")) return snapshot_.sweep;
      if (command.got_subcommand("describe")) return snapshot_.describe;
      return snapshot_.verify;
    }
    if (name == "drive") {
      if (command.got_subcommand("info")) return drive_.info;
      if (command.got_subcommand("commit")) return drive_.commit;
      return drive_.exported;
    }
    remote_.verb = std::ranges::find(kRemoteCommands, name, &RemoteCommand::name)->verb;
    auto taps = read_children_taps(remote_taps_);
    if (!taps) return refuse(taps.error().message);
    remote_.taps = std::move(*taps);
    return remote_;
  }

  const bool completes_;  ///< Its script names everything.
  const bool lists_all_;  ///< Options and subcommands that nobody named, too.
  const Words words_;
  const Words behind_;
  CLI::App app_{"Mayfly runs one microVM, driven by an API or on this terminal (mayfly run).", "mayfly"};

  CommonOptions common_;
  LoggerFlags logger_;
  ServeFlags serve_;
  DescribeOptions describe_;
  // Of `run` and of `restore`, of which there is one at most.
  CommonOptions terminal_common_{
      .id = kDefaultTerminalId, .logger = {}, .metrics_path = {}, .boot_timer = false, .filters = {}, .start = {}};
  LoggerFlags terminal_logger_{.path = {}, .level = LogLevel::Warning, .has_level = true};
  RunFlags run_;
  RestoreFlags restore_;
  SnapshotFlags snapshot_;
  DriveFlags drive_;
  RemoteOptions remote_;
  std::vector<std::string> remote_taps_;
  UpFlags up_;
  DownOptions down_;
  LogsOptions logs_;
  ExecFlags exec_;
  CopyOptions copy_;
  TopOptions top_;
  CompletionOptions completion_;
  DoctorOptions doctor_;
};

}  // namespace

Invocation parse_options(int argc, const char* const* argv) {
  const Words words{argv + std::min(argc, 1), argv + argc};
  // A guest's command is not ours to understand: its words may be like options and commands of our own.
  auto end = words.end();
  if (!words.empty() && std::string_view{words.front()} == "exec")
    end = std::ranges::find(words, std::string_view{"--"}, [](const char* word) { return std::string_view{word}; });
  const Words behind{end == words.end() ? end : end + 1, words.end()};
  const Words ours{words.begin(), end};
  return CommandLine{ours, behind}.parse(static_cast<int>(ours.size()) + std::min(argc, 1), argv);
}

}  // namespace mayfly
