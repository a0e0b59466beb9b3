#include "jailer/cgroups.h"
#include "jailer/directories.h"
#include "jailer/launch.h"
#include "jailer/root.h"
#include "vmm/base/files.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <charconv>
#include <filesystem>
#include <optional>

namespace mayfly::jailer {
namespace {

bool is_number(const std::string& text) {
  return !text.empty() && text.find_first_not_of("0123456789") == std::string::npos;
}

std::optional<struct stat> look_at(int directory, const std::string& path, int flags = 0) {
  struct stat status{};
  if (::fstatat(directory, path.c_str(), &status, flags) != 0) return std::nullopt;
  return status;
}

bool is_same(const std::optional<struct stat>& one, const std::optional<struct stat>& other) {
  return one && other && is_same_file(*one, *other);
}

/// What identifies a jail's processes, as far as it is still there.
struct Traces {
  std::optional<struct stat> root;
  std::optional<struct stat> program;
};

std::string process_path(const std::string& process) { return "/proc/" + process; }

/// By its root directory or, since a monitor that was taken over may have found another, by what it executes.
bool is_inhabitant(const std::string& process, const Traces& jail) {
  const std::string path = process_path(process);
  return is_same(look_at(AT_FDCWD, path + "/root"), jail.root) ||
         is_same(look_at(AT_FDCWD, path + "/exe"), jail.program);
}

std::optional<std::string> find_inhabitant(const Traces& jail) {
  std::error_code error;
  for (std::filesystem::directory_iterator at{"/proc", error}, end; !error && at != end; at.increment(error))
    if (std::string name = at->path().filename(); is_number(name) && is_inhabitant(name, jail)) return name;
  return std::nullopt;
}

/// Cgroups are PARENT/ID whatever the base directory is, so this one's may be that of a jail of the same name and id in
/// another: it executes what is in its root under that name. (Not behind a link, which could lead anywhere.)
bool is_of_another_jail(const std::string& process, const Traces& jail, const std::string& exec_name) {
  const std::string path = process_path(process);
  return !is_inhabitant(process, jail) &&
         is_same(look_at(AT_FDCWD, path + "/exe"), look_at(AT_FDCWD, path + "/root/" + exec_name, AT_SYMLINK_NOFOLLOW));
}

Status remove_jail(int folder, const CleanupArguments& jail, const std::string& path) {
  auto directory = open_directory(folder, jail.id, path);
  if (!directory) return propagate(directory);
  const Traces traces{.root = look_at(directory->get(), "root", AT_SYMLINK_NOFOLLOW),
                      .program = look_at(directory->get(), "root/" + jail.exec_name, AT_SYMLINK_NOFOLLOW)};
  if (const auto process = find_inhabitant(traces))
    return fail(ErrorKind::State, "the jail {} is not left: the process {} runs in it; stop it first", path, *process);
  // The directory last: while it is there, a cleanup that failed can be repeated.
  auto hierarchies = read_hierarchies();
  if (!hierarchies) return propagate(hierarchies);
  const auto is_foreign = [&](const std::string& process) {
    return is_of_another_jail(process, traces, jail.exec_name);
  };
  if (auto removed = remove_cgroups(*hierarchies, jail.parent_cgroup.value_or(jail.exec_name), jail.id, is_foreign);
      !removed)
    return removed;
  // The root first: it is what can fail, on a mount, and what takes long. What stands beside it says whose the jail is.
  if (auto removed = remove_tree(directory->get(), "root", path + "/root"); !removed) return removed;
  return remove_tree(folder, jail.id, path);
}

}  // namespace

Status clean_up(const CleanupArguments& jail) {
  const std::string shared_path = folder_path(jail.base, jail.exec_name);
  const std::string path = shared_path + "/" + jail.id;
  const auto there_is_none = [&] {
    return fail_errno(ErrorKind::NotFound, "there is no jail {} to remove (see --exec-file and --chroot-base-dir)",
                      path);
  };
  const auto base = open_trusted("--chroot-base-dir", jail.base);
  if (!base) return std::unexpected(base.error());
  struct stat ignored{};
  if (::fstatat(base->get(), jail.exec_name.c_str(), &ignored, AT_SYMLINK_NOFOLLOW) != 0) return there_is_none();
  const auto folder = open_directory(base->get(), jail.exec_name, shared_path);
  if (!folder) return std::unexpected(folder.error());
  const auto lock = lock_id(folder->get(), shared_path, jail.id);
  if (!lock) return std::unexpected(lock.error());
  if (::fstatat(folder->get(), jail.id.c_str(), &ignored, AT_SYMLINK_NOFOLLOW) != 0) return there_is_none();
  return remove_jail(folder->get(), jail, path);
}

}  // namespace mayfly::jailer
