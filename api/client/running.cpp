#include "api/client/running.h"

#include <sys/stat.h>

#include <algorithm>
#include <charconv>
#include <filesystem>
#include <fstream>
#include <optional>
#include <string_view>

namespace mayfly {
namespace {

namespace fs = std::filesystem;

/// What `mayfly` without --id, and `mayfly run`, call their machine.
constexpr std::string_view kDefaultId = "anonymous-instance";
constexpr std::string_view kDefaultRunId = "mayfly-run";

/// Empty where we may not look.
fs::path link_target(const fs::path& link) {
  std::error_code none;
  return fs::read_symlink(link, none);
}

std::vector<std::string> words_of(const fs::path& command_line) {
  std::ifstream file{command_line, std::ios::binary};
  std::vector<std::string> words;
  for (std::string word; std::getline(file, word, '\0');) words.push_back(std::move(word));
  return words;
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

}  // namespace

std::vector<RunningMachine> running_machines(const std::string& proc) {
  std::vector<RunningMachine> found;
  std::error_code none;
  for (const fs::directory_entry& entry : fs::directory_iterator{proc, none}) {
    const std::string name = entry.path().filename();
    pid_t pid = 0;
    if (std::from_chars(name.data(), name.data() + name.size(), pid).ptr != name.data() + name.size()) continue;
    if (!is_mayfly(entry.path())) continue;
    const std::vector<std::string> words = words_of(entry.path() / "cmdline");
    if (words.empty()) continue;  // it is ending
    const bool on_terminal = words.size() > 1 && (words[1] == "run" || words[1] == "restore");
    const auto socket = option(words, "--api-sock");
    // What else it may be told to do, without a machine.
    if (!on_terminal && !socket && !option(words, "--config-file")) continue;
    found.push_back({.pid = pid,
                     .id = option(words, "--id").value_or(std::string{on_terminal ? kDefaultRunId : kDefaultId}),
                     .socket = socket ? seen_from_here(entry.path(), *socket) : ""});
  }
  std::ranges::sort(found, {}, &RunningMachine::pid);
  return found;
}

Result<std::string> socket_of(const std::string& name, const std::vector<RunningMachine>& running) {
  struct stat status{};
  if (name.find('/') != std::string::npos || (::stat(name.c_str(), &status) == 0 && S_ISSOCK(status.st_mode)))
    return name;
  std::vector<const RunningMachine*> matches;
  for (const RunningMachine& machine : running)
    if (machine.id == name) matches.push_back(&machine);
  if (matches.empty())
    return fail(ErrorKind::NotFound, "no machine has the id {}; {} (mayfly ps)", name, list_of(running));
  if (matches.size() > 1)
    return fail(ErrorKind::InvalidArgument, "{} machines have the id {}; give the path of one's socket (mayfly ps)",
                matches.size(), name);
  if (matches.front()->socket.empty())
    return fail(ErrorKind::State, "machine {} has no API: it was started without --api-sock", name);
  return matches.front()->socket;
}

}  // namespace mayfly
