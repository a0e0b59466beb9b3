#include "api/client/running.h"

#include "api/client/command_line.h"
#include "vmm/base/memory_holder.h"
#include "vmm/base/text.h"

#include <sys/stat.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <optional>
#include <string_view>

#include <fmt/format.h>

namespace mayfly {
namespace {

namespace fs = std::filesystem;

/// Empty where we may not look.
fs::path link_target(const fs::path& link) {
  std::error_code none;
  return fs::read_symlink(link, none);
}

/// Empty where the process is ending.
std::string text_of(const fs::path& command_line) {
  std::ifstream file{command_line, std::ios::binary};
  std::string text(kLongestCommandLine + 1, '\0');
  file.read(text.data(), static_cast<std::streamsize>(text.size()));
  text.resize(static_cast<std::size_t>(file.gcount()));
  return text;
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

/// A child of a machine, which has its executable and its command line.
bool is_memory_holder(const fs::path& process) {
  std::string name;
  std::getline(std::ifstream{process / "comm"}, name);
  return name == kMemoryHolderName;
}

bool is_mayfly(const fs::path& process) {
  std::string name = link_target(process / "exe").filename();
  // An update has replaced the file that it was started from.
  constexpr std::string_view kDeleted = " (deleted)";
  if (name.ends_with(kDeleted)) name.resize(name.size() - kDeleted.size());
  return name == "mayfly";
}

std::string list_of(const std::vector<RunningMachine>& running) {
  if (running.empty()) return "this user can see none";
  std::string list = "these run:";
  for (const RunningMachine& machine : running) list += ' ' + machine.id;
  return list;
}

/// None: it is no machine, or is gone. `process`: its directory in a procfs.
std::optional<RunningMachine> machine_in(const fs::path& process, pid_t pid) {
  struct stat status{};
  // The directory is of the process's effective user, whatever the process does about its files.
  if (!is_mayfly(process) || is_memory_holder(process) || ::stat(process.c_str(), &status) != 0) return std::nullopt;
  auto started = parse_command_line(text_of(process / "cmdline"));
  if (!started) return std::nullopt;
  RunningMachine machine{.pid = pid, .uid = status.st_uid, .id = std::move(started->id)};
  if (started->socket) machine.socket = seen_from_here(process, *started->socket);
  return machine;
}

}  // namespace

std::vector<RunningMachine> running_machines(const std::string& proc) {
  std::vector<RunningMachine> found;
  std::error_code none;
  for (const fs::directory_entry& entry : fs::directory_iterator{proc, none}) {
    const auto pid = whole_number<pid_t>(entry.path().filename().native());
    if (!pid) continue;
    if (auto machine = machine_in(entry.path(), *pid)) found.push_back(std::move(*machine));
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
