#include "rootfs-tools/clones/places.h"

#include "api/client/running.h"
#include "vmm/base/files.h"
#include "vmm/base/machine_id.h"
#include "vmm/base/printable.h"
#include "vmm/base/process_fd.h"
#include "vmm/base/text.h"
#include "vmm/base/try.h"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdlib>
#include <optional>
#include <utility>

#include <fmt/format.h>

namespace mayfly::clones {
namespace {

namespace fs = std::filesystem;

std::string pid_name() { return fmt::format("{}.pid", kMonitorName); }

/// Whether mayfly up has made it. No clone in a jail can write there.
bool is_of_up(const fs::path& place) {
  std::error_code none;
  return fs::exists(fs::symlink_status(place / kLog, none));
}

/// Whether it may be what a removal of a clone has left that was killed: the log goes last, and a jail's root first.
bool is_left(const fs::path& place) {
  std::error_code error;
  if (!fs::is_directory(fs::symlink_status(place, error))) return false;
  const std::array<std::string, 2> last{kParentCgroup, pid_name()};
  for (fs::directory_iterator at{place, error}, end; !error && at != end; at.increment(error))
    if (std::ranges::find(last, at->path().filename().native()) == last.end()) return false;
  return !error;
}

/// Its number is in a file that only root can write, and may be another process's by now. Its root says whose: what is in that
/// directory says nothing, since the monitor can replace its program by a link to any.
void find_process_in_jail(const fs::path& jail, ClonePlace& place) {
  const auto text = read_file(jail / pid_name(), "the jail's process", 64);
  const auto number = text ? whole_number<pid_t>(trimmed(*text)) : std::nullopt;
  if (!number || *number <= 0) return;
  OwnedFd process = open_process(*number);
  if (!process || !is_same_file(fmt::format("/proc/{}/root", *number), place.directory)) return;
  place.process = *number;
  place.pidfd = std::move(process);
}

/// By its socket, too: this user may have another machine with that id, such as a clone in another run directory.
void find_process_of_ours(const std::string& id, ClonePlace& place) {
  const auto running = running_machines();
  const auto machine = std::ranges::find_if(running, [&](const RunningMachine& each) {
    const fs::path socket = each.own_socket;
    return each.id == id && each.uid == ::geteuid() &&
           (socket == place.directory / kApiSocket || is_same_file(socket.parent_path(), place.directory));
  });
  if (machine == running.end()) return;
  place.pidfd = open_process(machine->pid);
  if (place.pidfd) place.process = machine->pid;
}

}  // namespace

fs::path run_directory(const Bases& bases) {
  if (!bases.run.empty()) return fs::absolute(bases.run).lexically_normal();
  if (::geteuid() == 0) return "/run/mayfly";
  // NOLINTNEXTLINE(concurrency-mt-unsafe): nobody sets variables
  if (const char* const own = std::getenv("XDG_RUNTIME_DIR"); own != nullptr && *own == '/')
    return fs::path{own} / "mayfly";
  return fmt::format("/tmp/mayfly-{}", ::geteuid());
}

Status make_run_directory(const fs::path& directory) {
  if (::mkdir(directory.c_str(), 0755) != 0 && errno != EEXIST)
    return fail_errno(ErrorKind::System, "cannot make {}", directory.native());
  return check_run_directory(directory);
}

Status check_run_directory(const fs::path& directory) {
  struct stat status{};
  if (::lstat(directory.c_str(), &status) != 0) return fail_errno(ErrorKind::System, "{}", directory.native());
  if (S_ISDIR(status.st_mode) && status.st_uid == ::geteuid() && (status.st_mode & 022) == 0) return {};
  return fail(ErrorKind::Permission,
              "{} must be a directory of this user, to which nobody else may write: remove it, or give another "
              "--run-dir",
              directory.native());
}

fs::path jail_directory(const fs::path& base, const std::string& id) { return base / kMonitorName / id; }

ClonePlace place_of(const std::string& id, const Bases& bases, bool jailed) {
  ClonePlace place{.directory = run_directory(bases) / id};
  if (!jailed) {
    find_process_of_ours(id, place);
    return place;
  }
  const fs::path jail = jail_directory(bases.jails, id);
  place.directory = jail / "root";
  place.jail_base = bases.jails;
  find_process_in_jail(jail, place);
  return place;
}

Result<ClonePlace> find_clone(const std::string& id, const Bases& bases) {
  if (!is_machine_id(id))
    return fail(ErrorKind::InvalidArgument, "'{}' is no machine's id, which has 1 to 64 letters, digits and hyphens",
                printable(id, kLongestShownName));
  const fs::path run = run_directory(bases);
  const auto of_up = [&](const fs::path& place, bool jailed) -> Result<std::optional<ClonePlace>> {
    const bool made = is_of_up(place);
    if (!made && !is_left(place)) return std::nullopt;
    if (!jailed) TRY(check_run_directory(run));
    ClonePlace found = place_of(id, bases, jailed);
    found.is_left = !made;
    // A directory without a log says nothing of a machine that runs.
    if (found.is_left && found.process != 0) return std::nullopt;
    return found;
  };
  std::optional<ClonePlace> left;
  for (const bool jailed : {false, true}) {
    auto found = TRY(of_up(jailed ? jail_directory(bases.jails, id) : run / id, jailed));
    if (found && !found->is_left) return std::move(*found);
    if (found && !left) left = std::move(found);
  }
  if (left) return std::move(*left);
  const auto running = running_machines();
  const bool runs = std::ranges::find(running, id, &RunningMachine::id) != running.end();
  return fail(ErrorKind::NotFound, "mayfly up has left nothing of {} in {} or in jails below {}{}", id, run.native(),
              bases.jails,
              runs ? ": it runs, and was started otherwise, or elsewhere (--run-dir, --jail-base)" : "; see mayfly ps");
}

}  // namespace mayfly::clones
