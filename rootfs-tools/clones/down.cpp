#include "api/client/deadline.h"
#include "rootfs-tools/agent/host/agent_client.h"
#include "rootfs-tools/agent/host/place.h"
#include "rootfs-tools/clones/up.h"
#include "vmm/base/try.h"

#include <poll.h>
#include <spawn.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <chrono>
#include <csignal>

extern char** environ;  // NOLINT(readability-redundant-declaration): POSIX leaves it to the program

namespace mayfly::clones {
namespace {

namespace fs = std::filesystem;

constexpr std::chrono::seconds kMonitorPatience{5};

/// Whether the guest was asked, and its monitor has ended.
bool ends_by_itself(const DownOptions& options, const ClonePlace& place) {
  const Deadline deadline = Deadline::clock::now() + std::chrono::seconds{options.timeout_s};
  const agent::AgentClient agent{place.directory / agent::kAgentSocket,
                                 {.patience = time_left(deadline), .process = place.process}};
  return agent.power_off() && is_ready_by(deadline, place.pidfd.get(), POLLIN);
}

/// A monitor that was taken over, or is suspended, does not end because it is asked.
Status end_machine(const DownOptions& options, const ClonePlace& place) {
  if (!options.now && ends_by_itself(options, place)) return {};
  for (const int signal : {SIGTERM, SIGKILL}) {
    if (::syscall(SYS_pidfd_send_signal, place.pidfd.get(), signal, nullptr, 0) != 0 && errno != ESRCH)
      return fail_errno(ErrorKind::Permission, "cannot end the monitor of {}, process {}", options.id, place.process);
    if (is_ready_by(Deadline::clock::now() + kMonitorPatience, place.pidfd.get(), POLLIN)) return {};
  }
  return fail(ErrorKind::State, "{} has not ended: its process {} was killed, and waits for a device", options.id,
              place.process);
}

/// By mayfly-jailer, which knows what a jail has elsewhere, such as cgroups.
Status clean_jail(const DownOptions& options, const fs::path& base) {
  std::error_code none;
  const std::string jailer = fs::read_symlink("/proc/self/exe", none).parent_path() / "mayfly-jailer";
  std::array<std::string, 5> words{jailer, "cleanup", options.id, "--chroot-base-dir", base.native()};
  std::array<char*, words.size() + 1> argv{};
  for (std::size_t i = 0; i < words.size(); ++i) argv[i] = words[i].data();
  pid_t child = -1;
  errno = ::posix_spawn(&child, jailer.c_str(), nullptr, nullptr, argv.data(), environ);
  if (errno != 0) return fail_errno(ErrorKind::System, "cannot run {}", jailer);
  int status = 0;
  while (::waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  if (WIFEXITED(status) && WEXITSTATUS(status) == 0) return {};
  return fail(ErrorKind::System, "{} has ended, and its jail is still there: see what mayfly-jailer says above",
              options.id);
}

}  // namespace

Status take_down(const DownOptions& options) {
  const auto place = TRY(find_clone(options.id, options.jail_base));
  if (place.process != 0) TRY(end_machine(options, place));
  if (!place.jail_base.empty()) return clean_jail(options, place.jail_base);
  std::error_code error;
  fs::remove_all(place.directory, error);
  if (error) return fail(ErrorKind::System, "cannot remove {}: {}", place.directory.native(), error.message());
  return {};
}

}  // namespace mayfly::clones
