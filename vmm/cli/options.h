#pragma once

#include "jailer/seccomp/thread_filters.h"
#include "vmm/base/machine_id.h"
#include "vmm/cli/command_tree.h"
#include "vmm/cli/completion.h"
#include "vmm/cli/exit_codes.h"
#include "vmm/machine/command.h"
#include "vmm/machine/controller.h"

#include <cstddef>
#include <optional>
#include <string>
#include <variant>
#include <vector>

/// The `mayfly` binary's command line.
///
///   auto invocation = parse_options(argc, argv);
///   if (const auto* serve = std::get_if<ServeOptions>(&invocation)) ...
namespace mayfly {

/// What every way to start a machine has.
struct CommonOptions {
  std::string id = kDefaultMachineId;
  LoggerConfig logger;
  std::optional<std::string> metrics_path;
  bool boot_timer = false;
  seccomp::FilterOptions filters{};
  bool live_snapshots = false;
  bool branches = false;
  ProcessStart start;
};

/// What clients of the API may send.
struct ApiLimits {
  std::size_t max_payload = 51'200;             ///< Bytes of a request's body.
  std::optional<std::size_t> metadata_limit{};  ///< Bytes; as max_payload where absent.
  [[nodiscard]] std::size_t metadata() const noexcept { return metadata_limit.value_or(max_payload); }
};

/// `mayfly --api-sock PATH ...`: a machine that is driven by its API, or by a configuration file.
struct ServeOptions {
  CommonOptions common;
  std::optional<std::string> api_sock;  ///< None: --no-api.
  std::optional<std::string> config_file;
  std::optional<std::string> metadata_file;
  ApiLimits limits{};
  bool enable_pci = false;  ///< Asked for, and not here.
};

/// `mayfly run --kernel FILE ...` or `mayfly restore --state FILE ...`: a machine with its console on the terminal.
struct RunOptions {
  CommonOptions common;
  std::vector<Command> commands;  ///< Configure and start, or load.
  std::optional<std::string> api_sock;
  ApiLimits limits{};
};

/// `mayfly doctor ...`.
struct DoctorOptions {
  bool json = false;
  bool cpu = false;
  std::vector<std::string> cpu_files{};  ///< Of other hosts; empty: this host.
};

/// `mayfly --describe-snapshot FILE`, and `mayfly snapshot describe ...`.
struct DescribeOptions {
  std::string state;
  std::vector<std::string> memory{};  ///< Of `mayfly snapshot describe`: its layers, the lowest first.
};

/// `mayfly snapshot merge ...`.
struct MergeOptions {
  std::string base;
  std::vector<std::string> diffs;  ///< Each of the one before it.
  std::string output;
};

/// `mayfly snapshot verify ...`.
struct VerifyOptions {
  std::string state;
  std::vector<std::string> memory;  ///< Its layers, the lowest first.
};

/// `mayfly snapshot sweep ...`.
struct SweepOptions {
  std::vector<std::string> directories;
  bool dry_run = false;
};

/// `mayfly drive info ...`.
struct DriveInfoOptions {
  std::vector<std::string> overlays;
  bool json = false;
};

/// `mayfly drive export ...`.
struct DriveExportOptions {
  std::vector<std::string> bases;  ///< The lowest first.
  std::string overlay;
  std::string output;
};

/// `mayfly drive commit ...`.
struct DriveCommitOptions {
  std::vector<std::string> bases;  ///< The lowest first.
  std::string overlay;
};

/// `mayfly ps`, `mayfly pause ID` and so on: something to ask of a machine in another process.
struct RemoteOptions {
  enum class Verb { List, Pause, Resume, Revert, Branch, Snapshot, Stop, Config, Metrics };
  Verb verb = Verb::List;
  std::string machine{};  ///< An id or a socket's path; not of List.
  // Of Snapshot.
  std::string state{};
  std::string memory{};
  bool diff = false;
  std::vector<FrozenDrive> frozen_drives{};
  bool live = false;
  std::optional<std::uint64_t> max_copied_mib{};
  // Of Revert.
  bool paused = false;
  bool clock_realtime = true;
  // Of Branch.
  unsigned children = 1;
  std::string name{};
  std::vector<NetworkOverride> taps{};  ///< An interface may be there several times.
  // Of Stop.
  bool now = false;
  unsigned timeout_s = 30;
};

/// Below which directories clones are looked for.
struct CloneBases {
  std::string jail_base = "/srv/jailer";
  std::string run_directory{};  ///< Of those without a jail; empty: the default.
};

/// `mayfly exec`.
struct ExecOptions {
  std::string machine{};       ///< Empty: agent_socket names the guest.
  std::string agent_socket{};  ///< Empty: the machine's.
  std::vector<std::string> command{};
  bool tty = false;
  bool interactive = false;
  std::string user{};
  std::vector<std::string> environment{};  ///< NAME=VALUE.
  std::string directory{};
  CloneBases bases{};
};

/// `mayfly cp`.
struct CopyOptions {
  std::string source;
  std::string destination;
  std::string agent_socket{};
  CloneBases bases{};
};

/// `mayfly up`.
struct UpOptions {
  std::string directory{};
  std::string id{};        ///< Empty: made from the template's name.
  std::string metadata{};  ///< Empty: none.
  bool no_jail = false;
  std::optional<std::uint32_t> user{};
  CloneBases bases{};
  std::vector<std::string> jailer_words{};  ///< Options of the jailer with their values.
  std::string parent_cgroup{};
  unsigned max_output_kib = 1024;
  unsigned patience_s = 30;
};

/// `mayfly down`.
struct DownOptions {
  std::string machine{};
  bool now = false;
  unsigned timeout_s = 10;
  CloneBases bases{};
};

/// `mayfly logs`.
struct LogsOptions {
  std::string machine{};
  bool follow = false;
  CloneBases bases{};
};

/// `mayfly top`.
struct TopOptions {
  bool once = false;
  double interval_s = 1;
};

/// `mayfly completion SHELL`.
struct CompletionOptions {
  Shell shell = Shell::Bash;
  CommandTree commands;  ///< The whole command line, as it is understood.
};

/// Nothing to do: --help and --version were answered, or the arguments were refused (on standard error).
struct ExitNow {
  int code = 0;
};

using Invocation =
    std::variant<ServeOptions, RunOptions, DoctorOptions, DescribeOptions, MergeOptions, VerifyOptions, SweepOptions,
                 DriveInfoOptions, DriveExportOptions, DriveCommitOptions, RemoteOptions, ExecOptions, CopyOptions,
                 UpOptions, DownOptions, LogsOptions, TopOptions, CompletionOptions, ExitNow>;

[[nodiscard]] Invocation parse_options(int argc, const char* const* argv);

}  // namespace mayfly
