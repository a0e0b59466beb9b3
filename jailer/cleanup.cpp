#include "jailer/cgroups.h"
#include "jailer/directories.h"
#include "jailer/launch.h"
#include "jailer/root.h"

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

/// A process whose root directory is this one.
std::optional<std::string> find_inhabitant(const struct stat& root) {
  std::error_code error;
  for (std::filesystem::directory_iterator at{"/proc", error}, end; !error && at != end; at.increment(error)) {
    struct stat status{};
    if (is_number(at->path().filename()) && ::stat((at->path() / "root").c_str(), &status) == 0 &&
        status.st_dev == root.st_dev && status.st_ino == root.st_ino)
      return at->path().filename();
  }
  return std::nullopt;
}

Status remove_jail(int folder, const CleanupArguments& jail, const std::string& path) {
  auto directory = open_directory(folder, jail.id, path);
  if (!directory) return propagate(directory);
  if (auto locked = lock_jail(directory->get(), jail.id); !locked) return locked;
  struct stat root{};
  if (::fstatat(directory->get(), "root", &root, AT_SYMLINK_NOFOLLOW) == 0)
    if (const auto process = find_inhabitant(root))
      return fail(ErrorKind::State, "the jail {} is not left: the process {} runs in it; stop it first", path,
                  *process);
  // The directory last: while it is there, a cleanup that failed can be repeated.
  auto hierarchies = read_hierarchies();
  if (!hierarchies) return propagate(hierarchies);
  if (auto removed = remove_cgroups(*hierarchies, jail.parent_cgroup.value_or(jail.exec_name), jail.id); !removed)
    return removed;
  return remove_tree(folder, jail.id, path);
}

}  // namespace

Status clean_up(const CleanupArguments& jail) {
  const std::string shared_path = folder_path(jail.base, jail.exec_name);
  const std::string path = shared_path + "/" + jail.id;
  const auto base = open_trusted("--chroot-base-dir", jail.base);
  if (!base) return std::unexpected(base.error());
  struct stat ignored{};
  if (::fstatat(base->get(), (jail.exec_name + "/" + jail.id).c_str(), &ignored, AT_SYMLINK_NOFOLLOW) != 0)
    return fail_errno(ErrorKind::NotFound, "there is no jail {} to remove (see --exec-file and --chroot-base-dir)",
                      path);
  const auto folder = open_directory(base->get(), jail.exec_name, shared_path);
  if (!folder) return std::unexpected(folder.error());
  return remove_jail(folder->get(), jail, path);
}

}  // namespace mayfly::jailer
