#include "api/client/running.h"

#include "api/client/command_line.h"
#include "vmm/base/branch_mark.h"
#include "vmm/base/files.h"
#include "vmm/base/machine_id.h"
#include "vmm/base/memory_holder.h"
#include "vmm/base/text.h"
#include "vmm/base/unix_socket.h"

#include <sys/stat.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <optional>
#include <ranges>
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
  return is_same_file((process / "root").native(), "/") &&
         link_target(process / "ns/mnt") == link_target("/proc/self/ns/mnt");
}

/// The socket as it is reached from outside of the process's directory and root.
std::string seen_from_here(const fs::path& process, const fs::path& socket) {
  const fs::path by_process = process / (socket.is_absolute() ? "root" : "cwd") / socket.relative_path();
  if (!shares_our_paths(process)) return by_process;
  std::string usual = (link_target(process / "cwd") / socket).lexically_normal();
  // The process has bound a short name in a directory whose own path may be any length.
  return usual.size() > kLongestSocketPath && socket.is_relative() ? by_process.native() : usual;
}

/// A child of a machine, which has its executable and its command line, and is none or not one yet.
bool is_no_machine(const fs::path& process) {
  std::string name;
  std::getline(std::ifstream{process / "comm"}, name);
  return name == kMemoryHolderName || name == kBrancherName;
}

/// As it was branched off; none: it was started.
std::optional<StartedMachine> branched_machine(const fs::path& process) {
  std::error_code none;
  for (const fs::directory_entry& entry : fs::directory_iterator{process / "fd", none}) {
    auto mark = parse_branch_mark(link_target(entry.path()).native());
    if (mark && is_machine_id(mark->id))
      return StartedMachine{.id = std::move(mark->id), .socket = std::move(mark->socket)};
  }
  return std::nullopt;
}

/// proc_pid_stat(5): behind the name, which may have any characters, and the state.
pid_t parent_of(const fs::path& process) {
  std::string line;
  std::getline(std::ifstream{process / "stat"}, line);
  const std::size_t name_end = line.rfind(')');
  if (name_end == std::string::npos || line.size() < name_end + 4) return 0;
  const std::string_view parent = std::string_view{line}.substr(name_end + 4);
  return whole_number<pid_t>(parent.substr(0, parent.find(' '))).value_or(0);
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
  if (!is_mayfly(process) || is_no_machine(process) || ::stat(process.c_str(), &status) != 0) return std::nullopt;
  auto started = parse_command_line(text_of(process / "cmdline"));
  if (!started) return std::nullopt;
  if (auto branched = branched_machine(process)) started = std::move(branched);
  RunningMachine machine{.pid = pid, .uid = status.st_uid, .id = std::move(started->id), .parent = parent_of(process)};
  if (!started->socket) return machine;
  machine.socket = seen_from_here(process, *started->socket);
  machine.own_socket = std::move(*started->socket);
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

std::vector<std::pair<std::size_t, RunningMachine>> as_tree(const std::vector<RunningMachine>& running) {
  std::vector<std::pair<std::size_t, RunningMachine>> tree;
  // The last is the next; a parent's number may be larger than its child's, since numbers come round.
  std::vector<std::pair<std::size_t, const RunningMachine*>> left;
  const auto add = [&](std::size_t depth, const auto& belongs) {
    for (const RunningMachine& machine : running | std::views::reverse)
      if (belongs(machine)) left.emplace_back(depth, &machine);
  };
  add(0, [&](const RunningMachine& machine) {
    return std::ranges::find(running, machine.parent, &RunningMachine::pid) == running.end();
  });
  while (!left.empty()) {
    const auto [depth, machine] = left.back();
    left.pop_back();
    tree.emplace_back(depth, *machine);
    add(depth + 1, [parent = machine->pid](const RunningMachine& child) { return child.parent == parent; });
  }
  return tree;
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
