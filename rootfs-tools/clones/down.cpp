#include "api/client/deadline.h"
#include "rootfs-tools/agent/host/agent_client.h"
#include "rootfs-tools/agent/host/place.h"
#include "rootfs-tools/clones/removal.h"
#include "rootfs-tools/clones/starting_mark.h"
#include "rootfs-tools/clones/up.h"
#include "vmm/base/process_fd.h"
#include "vmm/base/try.h"

#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <csignal>

namespace mayfly::clones {
namespace {

/// Of the whole time, for a monitor to end its machine by itself.
constexpr std::chrono::milliseconds kMonitorTime{2000};
/// Of the guest's time, for what comes after its program: all other processes, and file systems.
constexpr std::chrono::milliseconds kFarewell{1000};

/// Whether the guest was asked, and its monitor has ended.
bool ends_by_itself(Deadline deadline, const ClonePlace& place) {
  const auto time = time_left(deadline);
  const agent::AgentClient agent{place.directory / agent::kAgentSocket, {.patience = time, .process = place.process}};
  return agent.power_off(std::chrono::round<std::chrono::seconds>(time - kFarewell)) &&
         is_ready_by(deadline, place.pidfd.get(), POLLIN);
}

/// A monitor that was taken over, or is suspended, does not end because it is asked.
Status end_machine(const DownOptions& options, const ClonePlace& place) {
  const std::chrono::milliseconds time = std::chrono::seconds{options.timeout_s};
  const Deadline deadline = Deadline::clock::now() + time;
  if (!options.now && ends_by_itself(deadline - std::min(kMonitorTime, time / 2), place)) return {};
  if (!signal_process(place.pidfd, SIGTERM) && errno != ESRCH)
    return fail_errno(ErrorKind::Permission, "cannot end the monitor of {}, process {}", options.id, place.process);
  if (is_ready_by(deadline, place.pidfd.get(), POLLIN)) return {};
  return kill_machine(options.id, place);
}

}  // namespace

Status take_down(const DownOptions& options) {
  const auto jailer = jailer_beside({});
  clear_half_made(run_directory(options.bases), jailer);
  const auto place = TRY(find_clone(options.id, options.bases));
  if (place.process != 0) TRY(end_machine(options, place));
  return remove_clone(options.id, place, jailer);
}

}  // namespace mayfly::clones
