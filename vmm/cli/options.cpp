#include "vmm/cli/options.h"

#include "snapshot/state_file.h"
#include "vmm/base/machine_id.h"
#include "vmm/cli/command_tree.h"
#include "vmm/cli/completion.h"
#include "vmm/cli/device_options.h"
#include "vmm/cli/override_options.h"

#include <algorithm>
#include <array>
#include <cstdio>
#include <map>

#include <CLI/CLI.hpp>
#include <fmt/format.h>

namespace mayfly {
namespace {

/// For a person at a terminal: unlike the default, without `8250.nr_uarts=0`, and with a console.
constexpr const char* kRunBootArgs =
    "console=ttyS0 reboot=k panic=1 nomodule i8042.noaux i8042.nomux i8042.dumbkbd swiotlb=noforce";

const std::map<std::string, LogLevel>& level_names() {
  static const std::map<std::string, LogLevel> names = {
      {"off", LogLevel::Off},   {"error", LogLevel::Error}, {"warning", LogLevel::Warning}, {"warn", LogLevel::Warning},
      {"info", LogLevel::Info}, {"debug", LogLevel::Debug}, {"trace", LogLevel::Trace}};
  return names;
}

std::string check_id(const std::string& id) {
  return is_machine_id(id) ? "" : "the id '" + id + "' must have 1 to 64 letters, digits and hyphens";
}

/// What CLI11 fills and cannot fill in place.
struct LoggerFlags {
  std::string path;
  LogLevel level = LogLevel::Info;
  bool has_level = false;
  bool show_level = false;
  bool show_origin = false;
};

void add_common(CLI::App& app, CommonOptions& common, LoggerFlags& logger) {
  app.add_option("--id", common.id, "Name of this machine, in its log and in GET /")->type_name("ID")->check(check_id);
  app.add_option("--log-path", logger.path, "File or FIFO for the log (default: standard error)")->type_name("FILE");
  app.add_option_function<std::string>(
         "--level",
         [&logger](const std::string& name) {
           logger.level = level_names().at(CLI::detail::to_lower(name));
           logger.has_level = true;
         },
         fmt::format("Least level of messages (default: {})", logger.level == LogLevel::Info ? "Info" : "Warning"))
      ->option_text("Off|Error|Warning|Info|Debug|Trace")
      ->check(CLI::IsMember(level_names(), CLI::ignore_case));
  app.add_flag("--show-level", logger.show_level, "Accepted for the dialect: levels are always shown");
  app.add_flag("--show-log-origin", logger.show_origin, "Show which source file a message comes from");
  app.add_option("--metrics-path", common.metrics_path, "File or FIFO for lines of metrics")->type_name("FILE");
  app.add_flag("--boot-timer", common.boot_timer, "Log the time when the guest writes 123 to\nport 0x3F0");
  CLI::Option* const unfiltered =
      app.add_flag("--no-seccomp", common.filters.off, "No system call filters for this process's threads");
  app.add_option("--seccomp-filter", common.filters.file,
                 "Compiled filters (of mayfly-seccompile) in place\nof the built-in ones")
      ->option_text("FILE")
      ->excludes(unfiltered);
  app.add_option("--start-time-us", common.start.wall_us,
                 "When this process was begun, in microseconds of\nCLOCK_MONOTONIC");
  app.add_option("--start-time-cpu-us", common.start.cpu_us, "CPU time that this process had used then");
  app.add_option("--parent-cpu-time-us", common.start.parent_cpu_us, "CPU time that its parent used for it");
}

LoggerConfig logger_config(const LoggerFlags& flags) {
  LoggerConfig config;
  if (!flags.path.empty()) config.log_path = flags.path;
  if (flags.has_level) config.level = flags.level;
  if (flags.show_level) config.show_level = true;
  if (flags.show_origin) config.show_log_origin = true;
  return config;
}

struct ServeFlags {
  std::string api_sock = kDefaultSocket;
  bool no_api = false;
  std::string config_file;
  std::string metadata_file;
  ApiLimits limits;
};

void add_limits(CLI::App& app, ApiLimits& limits) {
  app.add_option("--http-api-max-payload-size", limits.max_payload,
                 fmt::format("Largest request body in bytes (default: {})", limits.max_payload))
      ->check(CLI::Range(std::size_t{1}, std::size_t{1} << 30));
  app.add_option("--mmds-size-limit", limits.metadata_limit, "Most metadata in bytes (default: as for request\nbodies)")
      ->check(CLI::Range(std::size_t{1}, std::size_t{1} << 30));
}

/// The API beside a terminal.
void add_api(CLI::App& app, std::string& api_sock, ApiLimits& limits) {
  CLI::Option* const socket =
      app.add_option("--api-sock", api_sock, "Serve the API on this Unix socket, too")->type_name("PATH");
  add_limits(app, limits);
  // With a text of our own: CLI11 would add what each needs, and the lines would be too long.
  for (const char* limit : {"--http-api-max-payload-size", "--mmds-size-limit"})
    app.get_option(limit)->needs(socket)->option_text("BYTES");
}

void add_serve(CLI::App& app, ServeFlags& flags) {
  app.add_option("--api-sock", flags.api_sock, "Unix socket of the API")->type_name("PATH")->capture_default_str();
  app.add_flag("--no-api", flags.no_api, "Serve no API: --config-file says it all");
  app.add_option("--config-file", flags.config_file,
                 "JSON file with the whole configuration; the\nmachine starts at once")
      ->type_name("FILE");
  app.add_option("--metadata", flags.metadata_file, "JSON file with the first metadata for the guest\n(see PUT /mmds)")
      ->type_name("FILE");
  add_limits(app, flags.limits);
}

/// Prints `text` and ends well.
void add_answer(CLI::App& app, const std::string& flag, const std::string& text, const std::string& help) {
  app.add_flag_callback(flag, [text] { throw CLI::CallForVersion{text, 0}; }, help);
}

struct RunFlags {
  BootSource source;
  MachineConfig machine;
  std::string boot_args = kRunBootArgs;
  std::string append;
  std::string initrd;
  std::vector<std::string> drives;
  std::vector<std::string> nets;
  std::string api_sock;
  ApiLimits limits;
};

void add_devices(CLI::App& app, RunFlags& flags) {
  app.add_option("-d,--drive", flags.drives,
                 "A drive: a file or block device. Parts:\n"
                 "root (has the root file system), ro (read-only),\n"
                 "direct (past the host's page cache),\n"
                 "cache=writeback (the guest's flushes count),\n"
                 "id=NAME (default: drive0, drive1 and so on).\n"
                 "Repeat it for more; double a comma in the path")
      ->option_text("PATH[,PART]...")
      ->allow_extra_args(false);
  app.add_option("-n,--net", flags.nets,
                 "A network interface on a TAP. Parts: mac=ADDRESS,\n"
                 "mtu=BYTES, id=NAME (default: eth0, eth1 and so on)")
      ->option_text("TAP[,PART]...")
      ->allow_extra_args(false);
}

const std::map<std::string, HugePages>& huge_page_names() {
  static const std::map<std::string, HugePages> names = {
      {"none", HugePages::None}, {"transparent", HugePages::Transparent}, {"2M", HugePages::Explicit2M}};
  return names;
}

void add_run(CLI::App& app, RunFlags& flags) {
  app.add_option("-k,--kernel", flags.source.kernel_image_path, "ELF vmlinux or bzImage")
      ->type_name("FILE")
      ->required();
  app.add_option("-i,--initrd", flags.initrd, "Initial RAM disk")->type_name("FILE");
  add_devices(app, flags);
  app.add_option("-a,--append", flags.append, "Words to add to the kernel command line");
  app.add_option("--boot-args", flags.boot_args,
                 "The kernel command line before --append (default:\n"
                 "what microVMs need, with a console on ttyS0)");
  app.add_option("-c,--cpus", flags.machine.vcpu_count, "vCPUs, 1 to 32")->capture_default_str();
  app.add_option("-m,--memory", flags.machine.mem_size_mib, "Memory in MiB")->capture_default_str();
  app.add_flag("--smt", flags.machine.smt, "Show pairs of vCPUs as threads of one core");
  app.add_option("--huge-pages", flags.machine.huge_pages, "Pages behind the memory")
      ->option_text("none|transparent|2M")
      ->transform(CLI::CheckedTransformer(huge_page_names(), CLI::ignore_case));
  add_api(app, flags.api_sock, flags.limits);
}

Result<std::vector<Command>> run_commands(RunFlags& flags) {
  auto drives = read_drive_options(flags.drives);
  if (!drives) return propagate(drives);
  auto nets = read_net_options(flags.nets);
  if (!nets) return propagate(nets);
  if (!flags.initrd.empty()) flags.source.initrd_path = flags.initrd;
  flags.source.boot_args = flags.append.empty() ? flags.boot_args : flags.boot_args + " " + flags.append;
  std::vector<Command> commands = {PutMachineConfig{flags.machine}, PutBootSource{flags.source}};
  for (DriveConfig& drive : *drives) commands.emplace_back(PutDrive{std::move(drive)});
  for (NetworkInterfaceConfig& net : *nets) commands.emplace_back(PutNetworkInterface{std::move(net)});
  commands.emplace_back(StartInstance{});
  return commands;
}

struct RestoreFlags {
  SnapshotLoadParams load;
  std::string memory;
  std::string page_server;
  std::vector<std::string> taps;
  std::vector<std::string> drives;
  std::string record_working_set;
  std::string working_set;
  std::string api_sock;
  ApiLimits limits;
};

void add_restore(CLI::App& app, RestoreFlags& flags) {
  app.add_option("-s,--state", flags.load.snapshot_path, "State file of the snapshot")
      ->option_text("FILE REQUIRED")
      ->required();
  CLI::Option* const memory =
      app.add_option("-m,--memory", flags.memory, "Memory file of the snapshot")->option_text("FILE");
  app.add_option("--page-server", flags.page_server, "Instead of --memory: Unix socket of a server\nthat gives pages")
      ->option_text("SOCKET")
      ->excludes(memory);
  app.add_option("-t,--tap", flags.taps, "Another TAP for a network interface; repeat it\nfor more")
      ->option_text("ID=NAME")
      ->allow_extra_args(false);
  app.add_option("-d,--drive", flags.drives, "Another image for a drive: a copy of the one\nit had")
      ->option_text("ID=PATH")
      ->allow_extra_args(false);
  app.add_flag("--allow-changed-drives", flags.load.allow_changed_drives,
               "Restore though an image was written to since");
  app.add_flag("--clock-realtime", flags.load.clock_realtime, "Put the guest's clock ahead by the time since");
  app.add_flag("--track-dirty-pages", flags.load.track_dirty_pages, "Remember what changes, for small diffs");
  CLI::Option* const record = app.add_option("--record-working-set", flags.record_working_set,
                                             "Write down which pages the guest touches until\nthe machine ends")
                                  ->option_text("FILE")
                                  ->excludes("--page-server");
  app.add_option("--working-set", flags.working_set, "Bring in first what was written down")
      ->option_text("FILE")
      ->excludes("--page-server")
      ->excludes(record);
  app.add_option_function<HugePages>(
         "--huge-pages", [&flags](HugePages pages) { flags.load.huge_pages = pages; },
         "Pages behind the memory (default: as they were)")
      ->option_text("none|transparent|2M")
      ->transform(CLI::CheckedTransformer(huge_page_names(), CLI::ignore_case));
  add_api(app, flags.api_sock, flags.limits);
}

Result<std::vector<Command>> restore_commands(RestoreFlags& flags) {
  if (flags.memory.empty() && flags.page_server.empty())
    return fail(ErrorKind::InvalidArgument, "mayfly restore needs --memory (or --page-server)");
  auto taps = read_tap_overrides(flags.taps);
  if (!taps) return propagate(taps);
  auto drives = read_drive_overrides(flags.drives);
  if (!drives) return propagate(drives);
  SnapshotLoadParams load = flags.load;
  load.backend = flags.memory.empty() ? MemoryBackend::Uffd : MemoryBackend::File;
  load.backend_path = flags.memory.empty() ? flags.page_server : flags.memory;
  load.network_overrides = std::move(*taps);
  load.drive_overrides = std::move(*drives);
  load.resume_vm = true;
  if (!flags.record_working_set.empty())
    load.working_set = WorkingSetParams{.record = true, .path = flags.record_working_set};
  else if (!flags.working_set.empty())
    load.working_set = WorkingSetParams{.path = flags.working_set};
  return std::vector<Command>{LoadSnapshot{std::move(load)}};
}

struct SnapshotFlags {
  MergeOptions merge;
  VerifyOptions verify;
  RemoteOptions create{.verb = RemoteOptions::Verb::Snapshot};
};

void add_machine(CLI::App& app, RemoteOptions& remote) {
  app.add_option("machine", remote.machine, "Its id or process (see mayfly ps), or the path\nof its socket")
      ->option_text("ID|PID|SOCKET REQUIRED")
      ->required();
}

void add_snapshot(CLI::App& app, SnapshotFlags& flags) {
  app.require_subcommand(1);
  CLI::App& create = *app.add_subcommand(
      "create", "Take a snapshot of a machine, which goes on.\nFiles of a jailed machine are within its jail");
  add_machine(create, flags.create);
  create.add_option("-s,--state", flags.create.state, "State file to write")->option_text("FILE REQUIRED")->required();
  create.add_option("-m,--memory", flags.create.memory, "Memory file to write")
      ->option_text("FILE REQUIRED")
      ->required();
  create.add_flag("--diff", flags.create.diff, "Only what has changed since the snapshot before");
  CLI::App& merge = *app.add_subcommand("merge", "Put a diff of the memory onto its base");
  merge.add_option("-b,--base", flags.merge.base, "Memory file that the diff is of")
      ->option_text("FILE REQUIRED")
      ->required();
  merge.add_option("-d,--diff", flags.merge.diff, "Memory file of the diff")->option_text("FILE REQUIRED")->required();
  merge.add_option("-o,--output", flags.merge.output, "For the diff's state file; may be base or diff")
      ->option_text("FILE REQUIRED")
      ->required();
  CLI::App& verify = *app.add_subcommand("verify", "Look whether the files are whole and a pair");
  verify.add_option("-s,--state", flags.verify.state, "State file")->option_text("FILE REQUIRED")->required();
  verify.add_option("-m,--memory", flags.verify.memory, "Memory file")->option_text("FILE REQUIRED")->required();
}

/// What is asked of machines in other processes, but for snapshots.
struct RemoteCommands {
  struct Entry {
    RemoteOptions::Verb verb;
    const char* name;
    const char* description;
  };
  static constexpr std::array kEntries = {
      Entry{RemoteOptions::Verb::List, "ps", "List the machines of this host"},
      Entry{RemoteOptions::Verb::Pause, "pause", "Let a machine stand still"},
      Entry{RemoteOptions::Verb::Resume, "resume", "Let a paused machine go on"},
      Entry{RemoteOptions::Verb::Stop, "stop", "Ask a machine's guest to shut down, and wait"},
      Entry{RemoteOptions::Verb::Config, "config", "Print a machine's configuration as JSON"},
      Entry{RemoteOptions::Verb::Metrics, "metrics", "Print a machine's metrics as Prometheus reads them"},
  };
  RemoteOptions options;
  std::array<CLI::App*, kEntries.size()> apps{};

  /// Those that `wanted` names.
  void add(CLI::App& app, const auto& wanted) {
    for (std::size_t i = 0; i < kEntries.size(); ++i) {
      const Entry& entry = kEntries.at(i);
      if (!wanted(entry.name)) continue;
      apps.at(i) = app.add_subcommand(entry.name, entry.description);
      if (entry.verb != RemoteOptions::Verb::List) add_machine(*apps.at(i), options);
      if (entry.verb != RemoteOptions::Verb::Stop) continue;
      apps.at(i)->add_flag("--now", options.now, "End its monitor without asking the guest");
      apps.at(i)
          ->add_option("--timeout", options.timeout_s, "How long to wait for its end (default: 30)")
          ->option_text("SECONDS")
          ->check(CLI::Range(1U, 86'400U));
    }
  }
  [[nodiscard]] std::optional<RemoteOptions> parsed() const {
    for (std::size_t i = 0; i < kEntries.size(); ++i)
      if (apps.at(i) != nullptr && apps.at(i)->parsed()) {
        RemoteOptions chosen = options;
        chosen.verb = kEntries.at(i).verb;
        return chosen;
      }
    return std::nullopt;
  }
};

/// Not CLI11's Range, to which "nan" is within any.
std::string check_interval(const std::string& text) {
  double seconds = 0;
  const bool good = CLI::detail::lexical_cast(text, seconds) && seconds >= 0.1 && seconds <= 3600;
  return good ? "" : "the interval '" + text + "' must be from 0.1 to 3600 seconds";
}

void add_top(CLI::App& app, TopOptions& top) {
  app.add_flag("--once", top.once, "Print one table and end (so it is as well without\na terminal)");
  app.add_option("--interval", top.interval_s, "Time between two looks (default: 1)")
      ->option_text("SECONDS")
      ->check(check_interval);
}

const std::map<std::string, Shell>& shell_names() {
  static const std::map<std::string, Shell> names = {{"bash", Shell::Bash}, {"fish", Shell::Fish}, {"zsh", Shell::Zsh}};
  return names;
}

/// For packages and for people who set up their shell, so --help does not show it.
void add_completion(CLI::App& app, CompletionOptions& completion) {
  app.group("");
  app.add_option("shell", completion.shell, "For which shell")
      ->option_text("bash|fish|zsh REQUIRED")
      ->required()
      ->transform(CLI::CheckedTransformer(shell_names()));
}

ExitNow refuse(const std::string& what) {
  std::fprintf(stderr, "mayfly: %s\n", what.c_str());
  return {kExitBadArguments};
}

/// What stands before a subcommand is for `mayfly` without one: CLI11 takes it, and nothing would heed it.
std::optional<ExitNow> refuse_misplaced(const CLI::App& app) {
  for (const CLI::App* command : app.get_subcommands())
    for (const CLI::Option* option : app.get_options([](const CLI::Option* each) { return each->count() > 0; })) {
      const std::string name = option->get_name();
      const std::string whole = "mayfly " + command->get_name();
      if (command->get_option_no_throw(name) != nullptr)
        return refuse(fmt::format("{} stands before '{}', where nothing heeds it; write {} {} ...", name,
                                  command->get_name(), whole, name));
      return refuse(fmt::format("{0} is not for {1}; see {1} --help", name, whole));
    }
  return std::nullopt;
}

/// The options of a subcommand cost a fifth of a millisecond to describe, which a host pays at every start without one.
bool has_word(int argc, const char* const* argv, std::string_view word) {
  return std::any_of(argv + 1, argv + std::max(argc, 1), [word](const char* each) { return each == word; });
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

}  // namespace

Invocation parse_options(int argc, const char* const* argv) {
  CLI::App app{"Mayfly runs one microVM, driven by an API or on this terminal (mayfly run).", "mayfly"};
  app.set_version_flag("--version", "Mayfly v" MAYFLY_VERSION "\nAPI dialect: Firecracker v1.17.0");
  add_answer(app, "--snapshot-version", fmt::format("v{}", kStateFormatVersion),
             "Print the version of the snapshots' format");
  DescribeOptions describe;
  const CLI::Option& describe_option =
      *app.add_option("--describe-snapshot", describe.state, "Print a snapshot's state file as JSON")
           ->option_text("FILE");
  app.fallthrough(false);
  CommonOptions common;
  LoggerFlags logger;
  ServeFlags serve;
  add_serve(app, serve);
  add_common(app, common, logger);

  // Of `run` and of `restore`, of which there is one at most.
  CommonOptions run_common{
      .id = kDefaultTerminalId, .logger = {}, .metrics_path = {}, .boot_timer = false, .filters = {}, .start = {}};
  LoggerFlags run_logger{.path = {}, .level = LogLevel::Warning, .has_level = true};
  RunFlags run;
  // Its script names everything.
  const bool completes = has_word(argc, argv, "completion");
  const auto wanted = [&](std::string_view word) { return completes || has_word(argc, argv, word); };
  CLI::App& run_app = *app.add_subcommand("run", "Boot a kernel on this terminal; Ctrl-A x quits");
  if (wanted(run_app.get_name())) {
    add_run(run_app, run);
    add_common(run_app, run_common, run_logger);
  }

  RestoreFlags restore;
  CLI::App& restore_app = *app.add_subcommand("restore", "Go on with a snapshot on this terminal");
  if (wanted(restore_app.get_name())) {
    add_restore(restore_app, restore);
    add_common(restore_app, run_common, run_logger);
  }

  SnapshotFlags snapshot;
  CLI::App& snapshot_app = *app.add_subcommand("snapshot", "Take a snapshot; merge or verify the files of some");
  if (wanted(snapshot_app.get_name())) add_snapshot(snapshot_app, snapshot);

  RemoteCommands remote;
  const bool helps = has_word(argc, argv, "--help") || has_word(argc, argv, "-h");
  remote.add(app, [&](const char* name) { return helps || wanted(name); });

  TopOptions top;
  CLI::App* top_app = nullptr;
  if (helps || wanted("top")) {
    top_app = app.add_subcommand("top", "Follow the machines of this host on a terminal");
    add_top(*top_app, top);
  }

  CompletionOptions completion;
  CLI::App* completion_app = nullptr;
  if (completes) {
    completion_app = app.add_subcommand("completion", "Print a script by which a shell completes commands");
    add_completion(*completion_app, completion);
  }

  DoctorOptions doctor;
  CLI::App& doctor_app = *app.add_subcommand("doctor", "Check this host: costs and remedies");
  doctor_app.add_flag("--json", doctor.json, "Print JSON");
  app.require_subcommand(0, 1);

  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    const int code = app.exit(error);
    return ExitNow{code == 0 ? 0 : kExitBadArguments};
  }
  if (auto refused = refuse_misplaced(app)) return *refused;
  if (doctor_app.parsed()) return doctor;
  if (run_app.parsed()) return on_terminal(run_commands(run), run_common, run_logger, run.api_sock, run.limits);
  if (restore_app.parsed())
    return on_terminal(restore_commands(restore), run_common, run_logger, restore.api_sock, restore.limits);
  if (auto asked = remote.parsed()) return *asked;
  if (top_app != nullptr && top_app->parsed()) return top;
  if (completion_app != nullptr && completion_app->parsed()) {
    completion.commands = command_tree(app);
    return completion;
  }
  if (snapshot_app.parsed() && snapshot_app.got_subcommand("create")) return snapshot.create;
  if (snapshot_app.parsed() && snapshot_app.got_subcommand("merge")) return snapshot.merge;
  if (snapshot_app.parsed()) return snapshot.verify;
  if (describe_option.count() > 0) return describe;
  if (serve.no_api && serve.config_file.empty())
    return refuse("--no-api needs --config-file: nothing else could start the machine");
  common.logger = logger_config(logger);
  ServeOptions options{
      .common = common, .api_sock = {}, .config_file = {}, .metadata_file = {}, .limits = serve.limits};
  if (!serve.no_api) options.api_sock = serve.api_sock;
  if (!serve.config_file.empty()) options.config_file = serve.config_file;
  if (!serve.metadata_file.empty()) options.metadata_file = serve.metadata_file;
  return options;
}

}  // namespace mayfly
