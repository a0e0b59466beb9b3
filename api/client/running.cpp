#include "api/client/running.h"

#include "vmm/base/machine_id.h"

#include <sys/stat.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <filesystem>
#include <fstream>
#include <optional>
#include <string_view>

#include <fmt/format.h>

namespace mayfly {
namespace {

namespace fs = std::filesystem;

/// Far beyond what a machine's command line may need.
constexpr std::size_t kLongestCommandLine = 128 << 10;
constexpr std::size_t kMostWords = 256;

/// Empty where we may not look.
fs::path link_target(const fs::path& link) {
  std::error_code none;
  return fs::read_symlink(link, none);
}

/// Empty where the process is ending, or has a command line that no machine has.
std::vector<std::string> words_of(const fs::path& command_line) {
  std::ifstream file{command_line, std::ios::binary};
  std::string text(kLongestCommandLine + 1, '\0');
  file.read(text.data(), static_cast<std::streamsize>(text.size()));
  text.resize(static_cast<std::size_t>(file.gcount()));
  if (text.size() > kLongestCommandLine) return {};
  std::vector<std::string> words;
  for (std::size_t at = 0, end = 0; at < text.size(); at = end + 1) {
    if (words.size() == kMostWords) return {};
    end = std::min(text.find('\0', at), text.size());
    words.push_back(text.substr(at, end - at));
  }
  return words;
}

/// Whether there is --NAME or --NAME=VALUE.
bool has_flag(const std::vector<std::string>& words, std::string_view name) {
  return std::any_of(words.begin() + 1, words.end(), [name](std::string_view word) {
    return word.starts_with(name) && (word.size() == name.size() || word[name.size()] == '=');
  });
}

/// The value of --NAME VALUE or --NAME=VALUE.
std::optional<std::string> option(const std::vector<std::string>& words, std::string_view name) {
  for (std::size_t i = 1; i < words.size(); ++i) {
    const std::string_view word = words[i];
    if (word == name && i + 1 < words.size()) return words[i + 1];
    if (word.starts_with(name) && word.size() > name.size() && word[name.size()] == '=')
      return std::string{word.substr(name.size() + 1)};
  }
  return std::nullopt;
}

/// Whether it is `mayfly run` or `mayfly restore`, which have an API only where they are given its socket.
bool is_on_terminal(const std::vector<std::string>& words) {
  return words.size() > 1 && (words[1] == "run" || words[1] == "restore");
}

/// Whether it is `mayfly` with a machine and without a subcommand, before which no option may stand.
bool is_serving(const std::vector<std::string>& words) {
  if (words.size() > 1 && !words[1].starts_with('-')) return false;
  constexpr std::array<std::string_view, 5> kOnlyAnswered = {"--help", "-h", "--version", "--snapshot-version",
                                                             "--describe-snapshot"};
  return std::ranges::none_of(kOnlyAnswered, [&](std::string_view flag) { return has_flag(words, flag); });
}

/// As the process is told it; none: no API.
std::optional<std::string> socket_in(const std::vector<std::string>& words) {
  auto socket = option(words, "--api-sock");
  if (is_on_terminal(words)) return socket;
  if (has_flag(words, "--no-api")) return std::nullopt;
  return socket ? socket : kDefaultSocket;
}

/// Whether a path leads that process where it leads us: the same root directory, in the same mounts.
bool shares_our_paths(const fs::path& process) {
  struct stat its{};
  struct stat ours{};
  return ::stat((process / "root").c_str(), &its) == 0 && ::stat("/", &ours) == 0 && its.st_dev == ours.st_dev &&
         its.st_ino == ours.st_ino && link_target(process / "ns/mnt") == link_target("/proc/self/ns/mnt");
}

/// The socket as it is reached from outside of the process's directory and root.
std::string seen_from_here(const fs::path& process, const fs::path& socket) {
  if (!shares_our_paths(process)) return process / (socket.is_absolute() ? "root" : "cwd") / socket.relative_path();
  return (link_target(process / "cwd") / socket).lexically_normal();
}

bool is_mayfly(const fs::path& process) {
  std::string name = link_target(process / "exe").filename();
  // An update has replaced the file that it was started from.
  constexpr std::string_view kDeleted = " (deleted)";
  if (name.ends_with(kDeleted)) name.resize(name.size() - kDeleted.size());
  return name == "mayfly";
}

std::string list_of(const std::vector<RunningMachine>& running) {
  if (running.empty()) return "none that you may look at runs here";
  std::string list = "these run:";
  for (const RunningMachine& machine : running) list += ' ' + machine.id;
  return list;
}

/// None: it is no machine, or is gone. `process`: its directory in a procfs.
std::optional<RunningMachine> machine_in(const fs::path& process, pid_t pid) {
  struct stat status{};
  // The directory is of the process's effective user, whatever the process does about its files.
  if (!is_mayfly(process) || ::stat(process.c_str(), &status) != 0) return std::nullopt;
  const std::vector<std::string> words = words_of(process / "cmdline");
  if (words.empty() || (!is_on_terminal(words) && !is_serving(words))) return std::nullopt;
  RunningMachine machine{.pid = pid, .uid = status.st_uid};
  machine.id = option(words, "--id").value_or(is_on_terminal(words) ? kDefaultTerminalId : kDefaultMachineId);
  if (!is_machine_id(machine.id)) return std::nullopt;  // ours would not have started with it
  if (const auto socket = socket_in(words)) machine.socket = seen_from_here(process, *socket);
  return machine;
}

}  // namespace

std::vector<RunningMachine> running_machines(const std::string& proc) {
  std::vector<RunningMachine> found;
  std::error_code none;
  for (const fs::directory_entry& entry : fs::directory_iterator{proc, none}) {
    const std::string name = entry.path().filename();
    pid_t pid = 0;
    if (std::from_chars(name.data(), name.data() + name.size(), pid).ptr != name.data() + name.size()) continue;
    if (auto machine = machine_in(entry.path(), pid)) found.push_back(std::move(*machine));
  }
  std::ranges::sort(found, {}, &RunningMachine::pid);
  return found;
}

Result<RunningMachine> find_machine(const std::string& name, const std::vector<RunningMachine>& running) {
  struct stat status{};
  if (name.find('/') != std::string::npos || (::stat(name.c_str(), &status) == 0 && S_ISSOCK(status.st_mode)))
    return RunningMachine{.socket = name};
  std::vector<const RunningMachine*> matches;
  for (const RunningMachine& machine : running)
    if (machine.id == name || std::to_string(machine.pid) == name) matches.push_back(&machine);
  if (matches.empty())
    return fail(ErrorKind::NotFound, "no machine has the id {}; {} (mayfly ps)", name, list_of(running));
  if (matches.size() > 1) {
    std::string which;
    for (const RunningMachine* machine : matches)
      which += fmt::format("{}process {} of user {}", which.empty() ? "" : ", ", machine->pid, machine->uid);
    return fail(ErrorKind::InvalidArgument,
                "{} machines are called {}: {}; give one's process, or its socket's path "
                "(mayfly ps)",
                matches.size(), name, which);
  }
  if (matches.front()->socket.empty())
    return fail(ErrorKind::State, "machine {} has no API: it was started with --no-api, or without --api-sock", name);
  return *matches.front();
}

}  // namespace mayfly
