#include "rootfs-tools/clones/removal.h"

#include "api/client/api_client.h"
#include "api/client/deadline.h"
#include "vmm/base/files.h"
#include "vmm/base/printable.h"
#include "vmm/base/process_fd.h"
#include "vmm/base/run_program.h"
#include "vmm/base/try.h"

#include <poll.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <csignal>
#include <utility>
#include <vector>

namespace mayfly::clones {
namespace {

namespace fs = std::filesystem;

/// A process that was killed ends in no time, but for one that waits for a device.
constexpr std::chrono::seconds kKillPatience{5};
constexpr std::chrono::seconds kConnectPatience{2};
constexpr std::size_t kLongestCgroup = 4096;
constexpr std::size_t kShownSpeech = 500;

Status remove_jail(const std::string& id, const fs::path& base, const fs::path& jailer) {
  std::vector<std::string> words{jailer, "cleanup", id, "--chroot-base-dir", base};
  if (const auto parent = read_file(jail_directory(base, id) / kParentCgroup, "the parent cgroup", kLongestCgroup))
    words.insert(words.end(), {"--parent-cgroup", *parent});
  auto end = TRY(run_program(std::move(words)));
  if (end.succeeded()) return {};
  while (end.said.ends_with('\n')) end.said.pop_back();
  return fail(ErrorKind::System, "{} has ended, and its jail is still there: {}", id,
              printable(end.said, kShownSpeech));
}

/// The log last: find_clone() knows a clone by it, so a removal that was killed or has failed can be repeated.
std::error_code remove_files(const fs::path& directory) {
  std::error_code error;
  // A link that its user has put there goes, and what it leads to stays.
  if (!fs::is_directory(fs::symlink_status(directory, error))) {
    fs::remove(directory, error);
    return error;
  }
  fs::directory_iterator at{directory, error};
  while (!error && at != fs::directory_iterator{}) {
    if (at->path().filename() != kLog) fs::remove_all(at->path(), error);
    if (!error) at.increment(error);
  }
  if (!error) fs::remove_all(directory, error);
  return error;
}

/// A process that hides its name or its id has not been ended. It could not be reached without its socket.
Status check_nobody_listens(const std::string& id, const fs::path& directory) {
  const std::string socket = directory / kApiSocket;
  const auto process = ApiClient{socket, {.patience = kConnectPatience}}.process();
  if (!process && process.error().kind != ErrorKind::System) return {};
  return fail(ErrorKind::State,
              "a process that is not called {}, or not {}, still listens at {}: end it first (ss -xlp shows it)",
              kMonitorName, id, socket);
}

}  // namespace

fs::path jailer_beside(const std::string& monitor) {
  std::error_code none;
  const fs::path program = monitor.empty() ? fs::read_symlink("/proc/self/exe", none) : fs::path{monitor};
  return program.parent_path() / "mayfly-jailer";
}

Status kill_machine(const std::string& id, const ClonePlace& place) {
  if (place.process == 0) return {};
  if (!signal_process(place.pidfd, SIGKILL) && errno != ESRCH)
    return fail_errno(ErrorKind::Permission, "cannot end the monitor of {}, process {}", id, place.process);
  if (is_ready_by(Deadline::clock::now() + kKillPatience, place.pidfd.get(), POLLIN)) return {};
  return fail(ErrorKind::State, "{} has not ended: its process {} was killed, and waits for a device", id,
              place.process);
}

Status remove_clone(const std::string& id, const ClonePlace& place, const fs::path& jailer) {
  std::error_code error;
  const fs::path whole = place.jail_base.empty() ? place.directory : jail_directory(place.jail_base, id);
  if (!fs::exists(fs::symlink_status(whole, error))) return {};
  if (!place.jail_base.empty()) return remove_jail(id, place.jail_base, jailer);
  TRY(check_nobody_listens(id, whole));
  if (error = remove_files(whole); error)
    return fail(ErrorKind::System, "cannot remove {}: {}", whole.native(), error.message());
  return {};
}

}  // namespace mayfly::clones
