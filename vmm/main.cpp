#include "api/client/remote.h"
#include "api/client/top/top.h"
#include "rootfs-tools/agent/host/copy.h"
#include "rootfs-tools/agent/host/exec_client.h"
#include "rootfs-tools/agent/host/place.h"
#include "rootfs-tools/clones/up.h"
#include "vmm/base/machine_id.h"
#include "vmm/cli/completion.h"
#include "vmm/cli/cpu_tools.h"
#include "vmm/cli/drive_tools.h"
#include "vmm/cli/exit_codes.h"
#include "vmm/cli/options.h"
#include "vmm/cli/snapshot_tools.h"
#include "vmm/config/mac_address.h"
#include "vmm/doctor/doctor.h"
#include "vmm/monitor/run_machine.h"
#if defined(MAYFLY_BACK_DOOR)  // a binary for tests, never the product
#include "tests/attacks/back_door.h"
#endif

#include <fcntl.h>
#include <malloc.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <cstdio>
#include <exception>
#include <utility>
#include <variant>

namespace mayfly {
namespace {

/// Standard descriptors that are closed would be taken over by the first files that we open.
void fill_standard_descriptors() {
  int fd = -1;
  do {
    fd = ::open("/dev/null", O_RDWR);  // without O_CLOEXEC: as standard descriptors are
  } while (fd >= 0 && fd <= STDERR_FILENO);
  if (fd > STDERR_FILENO) ::close(fd);
}

/// One heap for all threads: vCPUs allocate nothing, and the API's thread would pay for one of its own at its first
/// request.
void share_one_heap() { ::mallopt(M_ARENA_MAX, 1); }  // NOLINT(concurrency-mt-unsafe): no other thread exists yet

Status ask(const RemoteOptions& options) {
  switch (options.verb) {
    case RemoteOptions::Verb::List:
      return list_machines(stdout);
    case RemoteOptions::Verb::Pause:
      return pause_machine(options.machine);
    case RemoteOptions::Verb::Resume:
      return resume_machine(options.machine);
    case RemoteOptions::Verb::Revert:
      return revert_machine(
          {.machine = options.machine, .paused = options.paused, .clock_realtime = options.clock_realtime});
    case RemoteOptions::Verb::Branch: {
      RemoteBranch branch{.machine = options.machine, .children = options.children, .name = options.name};
      for (const NetworkOverride& each : options.taps)
        branch.taps.push_back({.interface = each.iface_id,
                               .tap = each.host_dev_name,
                               .mac = each.guest_mac.transform(format_mac_address).value_or("")});
      return branch_machine(branch, stdout);
    }
    case RemoteOptions::Verb::Snapshot: {
      RemoteSnapshot snapshot{.machine = options.machine,
                              .state = options.state,
                              .memory = options.memory,
                              .diff = options.diff,
                              .live = options.live,
                              .max_copied_mib = options.max_copied_mib};
      for (const FrozenDrive& each : options.frozen_drives)
        snapshot.frozen.push_back({.drive = each.drive_id, .file = each.path_on_host});
      return snapshot_machine(snapshot);
    }
    case RemoteOptions::Verb::Stop:
      return stop_machine({.machine = options.machine, .now = options.now, .timeout_s = options.timeout_s});
    case RemoteOptions::Verb::Config:
      return print_config(options.machine, stdout);
    case RemoteOptions::Verb::Metrics:
      break;
  }
  return print_metrics(options.machine, stdout);
}

int top(const TopOptions& options) {
  const auto interval = std::chrono::duration<double>{options.interval_s};
  const auto code =
      run_top({.once = options.once, .interval = std::chrono::round<std::chrono::milliseconds>(interval)});
  return code ? *code : report(code.error(), kExitError);
}

clones::Bases bases_of(const CloneBases& bases) { return {.jails = bases.jail_base, .run = bases.run_directory}; }

/// A clone of mayfly up is found by its place: another machine may have the same id.
Result<agent::AgentPlace> find_agent(const std::string& machine, const std::string& agent_socket,
                                     const clones::Bases& bases) {
  if (!agent_socket.empty() || !is_machine_id(machine)) return agent::find_agent(machine, agent_socket);
  auto clone = clones::find_clone(machine, bases);
  if (clone && clone->is_left) return agent::find_agent(machine, agent_socket);
  if (clone && clone->process != 0)
    return agent::AgentPlace{.socket = clone->directory / agent::kAgentSocket, .process = clone->process};
  if (clone && ::geteuid() != 0 && !clone->jail_base.empty())
    return fail(ErrorKind::State, "{} has ended, or runs in its jail as another user: be that user, or root", machine);
  if (clone)
    return fail(ErrorKind::State, "{} has ended: see mayfly logs {}, and remove it by mayfly down {}", machine, machine,
                machine);
  if (clone.error().kind != ErrorKind::NotFound) return propagate(clone);
  return agent::find_agent(machine, agent_socket);
}

int exec(const ExecOptions& options) {
  const auto place = find_agent(options.machine, options.agent_socket, bases_of(options.bases));
  if (!place) return report(place.error(), agent::kExitNoAgent);
  const agent::ExecRequest request{.command = options.command,
                                   .environment = options.environment,
                                   .directory = options.directory,
                                   .user = options.user,
                                   .tty = options.tty};
  const agent::AgentClient client{place->socket, {.process = place->process}};
  const auto code = agent::run_in_guest(client, request, options.interactive);
  return code ? *code : report(code.error().error, code.error().code);
}

int copy(const CopyOptions& options) {
  const auto copied = agent::copy_files({.source = options.source,
                                         .destination = options.destination,
                                         .agent_socket = options.agent_socket,
                                         .find = [&options](const auto& machine, const auto& socket) {
                                           return find_agent(machine, socket, bases_of(options.bases));
                                         }});
  return copied ? 0 : report(copied.error(), kExitError);
}

int up(const UpOptions& options) {
  const auto id = clones::bring_up({.directory = options.directory,
                                    .id = options.id,
                                    .jail = options.no_jail ? std::optional{false} : std::nullopt,
                                    .bases = bases_of(options.bases),
                                    .user = options.user,
                                    .metadata = options.metadata,
                                    .jailer_words = options.jailer_words,
                                    .parent_cgroup = options.parent_cgroup,
                                    .max_output_bytes = std::uint64_t{options.max_output_kib} << 10,
                                    .patience_s = options.patience_s,
                                    .announce = [](const std::string& name) -> Status {
                                      if (print(name + '\n', stdout) == 0) return {};
                                      return fail_errno(ErrorKind::System, "standard output cannot be written to");
                                    }});
  return id ? 0 : report(id.error(), kExitError);
}

int down(const DownOptions& options) {
  const auto done = clones::take_down(
      {.id = options.machine, .now = options.now, .timeout_s = options.timeout_s, .bases = bases_of(options.bases)});
  return done ? 0 : report(done.error(), kExitError);
}

int logs(const LogsOptions& options) {
  const auto done =
      clones::print_logs({.id = options.machine, .follow = options.follow, .bases = bases_of(options.bases)});
  return done ? 0 : report(done.error(), kExitError);
}

struct Start {
  int operator()(const ServeOptions& options) const { return run_machine(options); }
  int operator()(RunOptions& options) const { return run_machine(std::move(options)); }
  int operator()(const DoctorOptions& options) const {
    return options.cpu ? run_doctor_cpu(options.cpu_files, stdout) : run_doctor(options.json, stdout);
  }
  int operator()(const DescribeOptions& options) const {
    return options.memory.empty() ? run_describe(options.state, stdout)
                                  : run_describe(options.state, options.memory, stdout);
  }
  int operator()(const MergeOptions& options) const { return run_merge(options.base, options.diffs, options.output); }
  int operator()(const VerifyOptions& options) const { return run_verify(options.state, options.memory, stdout); }
  int operator()(const SweepOptions& options) const { return run_sweep(options.directories, options.dry_run, stdout); }
  int operator()(const DriveInfoOptions& options) const {
    return run_drive_info(options.overlays, options.json, stdout);
  }
  int operator()(const DriveExportOptions& options) const {
    return run_drive_export(options.bases, options.overlay, options.output);
  }
  int operator()(const DriveCommitOptions& options) const { return run_drive_commit(options.bases, options.overlay); }
  int operator()(const RemoteOptions& options) const {
    const auto done = ask(options);
    return done ? 0 : report(done.error(), kExitError);
  }
  int operator()(const ExecOptions& options) const { return exec(options); }
  int operator()(const CopyOptions& options) const { return copy(options); }
  int operator()(const UpOptions& options) const { return up(options); }
  int operator()(const DownOptions& options) const { return down(options); }
  int operator()(const LogsOptions& options) const { return logs(options); }
  int operator()(const TopOptions& options) const { return top(options); }
  int operator()(const CompletionOptions& options) const {
    return print(completion_script(options.shell, options.commands), stdout);
  }
  int operator()(const ExitNow& exit) const { return exit.code; }
};

}  // namespace
}  // namespace mayfly

int main(int argc, char** argv) {
  mayfly::fill_standard_descriptors();
  std::signal(SIGCHLD, SIG_DFL);  // ignored, as some callers leave it, nobody would tell how children end
  mayfly::share_one_heap();
#if defined(MAYFLY_BACK_DOOR)
  mayfly::back_door::take_attack(argc, argv);
#endif
  try {
    auto invocation = mayfly::parse_options(argc, argv);
    return std::visit(mayfly::Start{}, invocation);
  } catch (const std::exception& failure) {  // no memory, no threads: nothing of ours throws
    std::fprintf(stderr, "mayfly: %s\n", failure.what());
    return mayfly::kExitError;
  }
}
