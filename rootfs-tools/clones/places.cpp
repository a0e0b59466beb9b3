#include "rootfs-tools/clones/places.h"

#include "api/client/running.h"
#include "vmm/base/machine_id.h"
#include "vmm/base/printable.h"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>

#include <fmt/format.h>

namespace mayfly::clones {
namespace {

namespace fs = std::filesystem;

bool has_files(const fs::path& directory) {
  std::error_code none;
  return fs::exists(fs::symlink_status(directory / kConsole, none)) ||
         fs::exists(fs::symlink_status(directory / kLog, none));
}

}  // namespace

fs::path run_directory() {
  if (::geteuid() == 0) return "/run/mayfly";
  // NOLINTNEXTLINE(concurrency-mt-unsafe): nobody sets variables
  if (const char* const own = std::getenv("XDG_RUNTIME_DIR"); own != nullptr && *own == '/')
    return fs::path{own} / "mayfly";
  return fmt::format("/tmp/mayfly-{}", ::geteuid());
}

Status make_run_directory() {
  const fs::path directory = run_directory();
  struct stat status{};
  if (::mkdir(directory.c_str(), 0755) != 0 && errno != EEXIST)
    return fail_errno(ErrorKind::System, "cannot make {}", directory.native());
  if (::lstat(directory.c_str(), &status) != 0) return fail_errno(ErrorKind::System, "{}", directory.native());
  if (S_ISDIR(status.st_mode) && status.st_uid == ::geteuid() && (status.st_mode & 022) == 0) return {};
  return fail(ErrorKind::Permission, "{} must be a directory of this user, to which nobody else may write: remove it",
              directory.native());
}

fs::path jail_directory(const fs::path& base, const std::string& id) { return base / kMonitorName / id; }

Result<ClonePlace> find_clone(const std::string& id, const fs::path& jail_base) {
  if (!is_machine_id(id))
    return fail(ErrorKind::InvalidArgument, "'{}' is no machine's id, which has 1 to 64 letters, digits and hyphens",
                printable(id, kLongestShownName));
  const auto running = running_machines();
  const auto machine = std::ranges::find(running, id, &RunningMachine::id);
  ClonePlace place{.directory = run_directory() / id, .process = machine == running.end() ? 0 : machine->pid};
  if (has_files(place.directory)) return place;
  place.directory = jail_directory(jail_base, id) / "root";
  place.jail_base = jail_base;
  if (has_files(place.directory)) return place;
  return fail(ErrorKind::NotFound, "mayfly up has left nothing of {} in {} or in jails below {}{}", id,
              run_directory().native(), jail_base.native(),
              place.process == 0 ? "; see mayfly ps"
                                 : ": it runs, and was started otherwise, or in jails elsewhere "
                                   "(--jail-base)");
}

}  // namespace mayfly::clones
