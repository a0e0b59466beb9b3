#pragma once

#include "vmm/machine/command.h"
#include "vmm/machine/controller.h"

#include <optional>
#include <string>
#include <variant>
#include <vector>

/// The `mayfly` binary's command line.
///
///   auto invocation = parse_options(argc, argv);
///   if (const auto* serve = std::get_if<ServeOptions>(&invocation)) ...
namespace mayfly {

/// Exit codes of the process that are not a machine's end; the values are the dialect's.
inline constexpr int kExitError = 1;
inline constexpr int kExitBadConfiguration = 152;
inline constexpr int kExitBadArguments = 153;

/// What every way to start a machine has.
struct CommonOptions {
  std::string id = "anonymous-instance";
  LoggerConfig logger;
  std::optional<std::string> metrics_path;
  bool boot_timer = false;
  ProcessStart start;
};

/// `mayfly --api-sock PATH ...`: a machine that is driven by its API, or by a configuration file.
struct ServeOptions {
  CommonOptions common;
  std::optional<std::string> api_sock;  ///< None: --no-api.
  std::optional<std::string> config_file;
  std::optional<std::string> metadata_file;
  std::size_t max_payload = 51'200;
  std::optional<std::size_t> metadata_limit;  ///< Bytes; as max_payload where absent.
};

/// `mayfly run --kernel FILE ...` or `mayfly restore --state FILE ...`: a machine with its console on the terminal.
struct RunOptions {
  CommonOptions common;
  std::vector<Command> commands;  ///< Configure and start, or load.
  std::optional<std::string> api_sock;
};

/// `mayfly doctor ...`.
struct DoctorOptions {
  bool json = false;
};

/// `mayfly --describe-snapshot FILE`.
struct DescribeOptions {
  std::string state;
};

/// `mayfly snapshot merge ...`.
struct MergeOptions {
  std::string base;
  std::string diff;
  std::string output;
};

/// `mayfly snapshot verify ...`.
struct VerifyOptions {
  std::string state;
  std::string memory;
};

/// `mayfly ps`, `mayfly pause ID` and so on: something to ask of a machine in another process.
struct RemoteOptions {
  enum class Verb { List, Pause, Resume, Snapshot, Stop, Config, Metrics };
  Verb verb = Verb::List;
  std::string machine{};  ///< An id or a socket's path; not of List.
  // Of Snapshot.
  std::string state{};
  std::string memory{};
  bool diff = false;
  // Of Stop.
  bool now = false;
  unsigned timeout_s = 30;
};

/// Nothing to do: --help and --version were answered, or the arguments were refused (on standard error).
struct ExitNow {
  int code = 0;
};

using Invocation = std::variant<ServeOptions, RunOptions, DoctorOptions, DescribeOptions, MergeOptions, VerifyOptions,
                                RemoteOptions, ExitNow>;

[[nodiscard]] Invocation parse_options(int argc, const char* const* argv);

}  // namespace mayfly
