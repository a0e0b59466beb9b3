// The controller's children: processes that go on from where the machine is, and the beginning of one.

#include "vmm/base/clock.h"
#include "vmm/base/files.h"
#include "vmm/base/try.h"
#include "vmm/machine/controller.h"

#include <unistd.h>

#include <algorithm>
#include <set>
#include <string>
#include <utility>

namespace mayfly {
namespace {

bool listens(const ConfiguredChannels& channels, std::uint16_t port) {
  const auto found = std::ranges::find(channels.all(), port, &ChannelConfig::port);
  return found != channels.all().end() && found->listen;
}

/// A child shares what its parent's channels connect to, and listens at sockets of its own.
Status check_channels(const ConfiguredChannels& channels, const BranchChild& child) {
  for (const ChannelOverride& each : child.channel_overrides)
    if (std::ranges::find(channels.all(), each.port, &ChannelConfig::port) == channels.all().end())
      return fail(ErrorKind::NotFound, "child {}: channel_overrides: there is no channel {}", child.id, each.port);
  for (const ChannelConfig& channel : channels.all())
    if (channel.listen && std::ranges::find(child.channel_overrides, channel.port, &ChannelOverride::port) ==
                              child.channel_overrides.end())
      return fail(ErrorKind::InvalidArgument,
                  "child {}: channel_overrides: channel {}, which listens, is missing; give the child a socket of its "
                  "own",
                  child.id, channel.port);
  return {};
}

/// What can be known beforehand of where a child's files are to be made.
Status check_places_of(const BranchChild& child) {
  for (const DriveOverride& each : child.drive_overrides)
    TRY(check_new_file(each.path_on_host,
                       fmt::format("child {}: drive_overrides: drive {}:", child.id, each.drive_id)));
  return check_new_file(child.api_socket, fmt::format("child {}: api_socket", child.id));
}

/// A child that cannot come up says why by itself. Where none can, nothing is to be frozen for them.
Status check_places(const std::vector<BranchChild>& children) {
  Status first{};
  for (const BranchChild& child : children) {
    Status good = check_places_of(child);
    if (good) return {};
    if (first) first = std::move(good);
  }
  return first;
}

}  // namespace

// --- The parent ------------------------------------------------------------------------------------------------------

Status Controller::check_branch(const BranchParams& params) const {
  if (options_.brancher == nullptr)
    return fail(
        ErrorKind::State,
        "this Mayfly was started without --branches, as children take a thread with a wider system call filter: "
        "give it that option");
  if (::getpid() == 1)
    return fail(ErrorKind::Unsupported,
                "this Mayfly is the first process of its PID namespace, with which its children would end: start it "
                "without --new-pid-ns");
  TRY(check_can_branch(machine_->memory()));
  const auto& drives = configured_.devices.drives();
  for (const FrozenDrive& each : params.frozen_drives)
    if (std::ranges::find(drives, each.drive_id, &DriveConfig::drive_id) == drives.end())
      return fail(ErrorKind::NotFound, "frozen_drives: there is no drive {}", each.drive_id);
  for (const DriveConfig& drive : drives) {
    if (drive.is_read_only) continue;
    if (drive.base_paths.empty())
      return fail(ErrorKind::State,
                  "drive {} is written to in place, and several machines cannot write to one image: give the drive an "
                  "overlay over its image (base_path), or make it read-only",
                  drive.drive_id);
    if (std::ranges::find(params.frozen_drives, drive.drive_id, &FrozenDrive::drive_id) == params.frozen_drives.end())
      return fail(
          ErrorKind::InvalidArgument,
          "frozen_drives: drive {} is missing; say where its overlay is to be kept as it is, for the children's "
          "to lie over it",
          drive.drive_id);
  }
  std::set<std::string> overlays;
  std::set<std::string> taps;
  std::set<std::string> sockets;
  for (const FrozenDrive& each : params.frozen_drives) overlays.insert(each.path_on_host);
  for (const BranchChild& child : params.children) {
    TRY(check_child(child));
    for (const DriveOverride& each : child.drive_overrides)
      if (!overlays.insert(each.path_on_host).second)
        return fail(ErrorKind::InvalidArgument, "child {}: drive_overrides: {} is given to another drive as well",
                    child.id, each.path_on_host);
    for (const NetworkOverride& each : child.network_overrides)
      if (!taps.insert(each.host_dev_name).second)
        return fail(ErrorKind::InvalidArgument, "child {}: network_overrides: {} is given to another interface as well",
                    child.id, each.host_dev_name);
    for (const ChannelOverride& each : child.channel_overrides)
      if (listens(configured_.channels, each.port) && !sockets.insert(each.uds_path).second)
        return fail(ErrorKind::InvalidArgument, "child {}: channel_overrides: {} is given to another channel as well",
                    child.id, each.uds_path);
  }
  return check_places(params.children);
}

Status Controller::check_child(const BranchChild& child) const {
  for (const DriveOverride& each : child.drive_overrides) {
    if (std::ranges::find(configured_.devices.drives(), each.drive_id, &DriveConfig::drive_id) ==
        configured_.devices.drives().end())
      return fail(ErrorKind::NotFound, "child {}: drive_overrides: there is no drive {}", child.id, each.drive_id);
    TRY(check_new_overlay(each));
  }
  for (const NetworkOverride& each : child.network_overrides)
    if (std::ranges::find(configured_.devices.network_interfaces(), each.iface_id, &NetworkInterfaceConfig::iface_id) ==
        configured_.devices.network_interfaces().end())
      return fail(ErrorKind::NotFound, "child {}: network_overrides: there is no network interface {}", child.id,
                  each.iface_id);
  for (const DriveConfig& drive : configured_.devices.drives()) {
    const bool named = std::ranges::find(child.drive_overrides, drive.drive_id, &DriveOverride::drive_id) !=
                       child.drive_overrides.end();
    if (!drive.is_read_only && !named)
      return fail(ErrorKind::InvalidArgument,
                  "child {}: drive_overrides: drive {} is missing; say where the child's own overlay is to be made",
                  child.id, drive.drive_id);
    if (drive.is_read_only && named)
      return fail(ErrorKind::InvalidArgument,
                  "child {}: drive_overrides: drive {} is only read, and shared: leave it out", child.id,
                  drive.drive_id);
  }
  for (const NetworkInterfaceConfig& each : configured_.devices.network_interfaces())
    if (!each.host_dev_name.empty() && std::ranges::find(child.network_overrides, each.iface_id,
                                                         &NetworkOverride::iface_id) == child.network_overrides.end())
      return fail(ErrorKind::InvalidArgument,
                  "child {}: network_overrides: network interface {} is missing; give the child a TAP of its own",
                  child.id, each.iface_id);
  return check_channels(configured_.channels, child);
}

void Controller::begin(BranchVm& command, Reply reply) {
  if (auto can = check_not_writing(); !can) return std::move(reply).give(propagate(can));
  if (auto can = check_branch(command.value); !can) return std::move(reply).give(propagate(can));
  auto hold = std::make_shared<Hold>(Hold{.params = {.frozen_drives = std::move(command.value.frozen_drives)},
                                          .begun_ns = monotonic_ns(),
                                          .children = std::move(command.value.children),
                                          .not_done = "no child was made"});
  enter(Transition::Pausing, "the vCPUs, one of which waits for a device", std::move(reply));
  if (state_ == MachineState::Paused) return drain_to_hold(hold);
  pause_for([this, hold] { drain_to_hold(hold); });
}

void Controller::make_children(const std::shared_ptr<Hold>& hold) {
  BranchOrder order{.memory = machine_->memory(),
                    .snapshot = std::make_shared<Snapshot>(std::move(hold->snapshot)),
                    .children = std::move(*hold->children),
                    .logger = configured_.config.logger.value_or(LoggerConfig{}),
                    .max_console_bytes = configured_.config.serial.value_or(SerialConfig{}).max_bytes,
                    .resumes = state_ == MachineState::Running,
                    .begun_ns = hold->begun_ns};
  auto begun = options_.brancher->begin(
      std::move(order), [this, hold](std::vector<BranchedChild> children) { branched(*hold, std::move(children)); });
  if (!begun) return refuse_hold(hold, propagate(begun));
  hold->frozen_copies = end_freezes(hold->params, true);
  options_.brancher->let_go();
  machine_->undrain();
  if (state_ == MachineState::Running) machine_->resume();
  metrics_.latency.branch_pause_us.set(us_since(hold->begun_ns));
  advance_to(Transition::Branching, "the machine's children to come up");
}

void Controller::branched(const Hold& hold, std::vector<BranchedChild> children) {
  if (transition_ != Transition::Branching) return;  // the machine has ended meanwhile
  std::size_t up = 0;
  for (const BranchedChild& child : children) {
    if (child.error.empty()) {
      ++up;
      log_.info("branched off {} (process {}, API {})", child.id, child.pid, child.api_socket);
    } else {
      log_.error("the child {} did not come up: {}", child.id, child.error);
    }
  }
  if (up == 0) {
    for (const std::string& copy : hold.frozen_copies) (void)::unlink(copy.c_str());
    const std::string layers = kept_layers(hold.params, hold.frozen_copies);
    for (BranchedChild& child : children) child.error += layers;
  }
  metrics_.branch.made_count.add(up);
  metrics_.branch.fails.add(children.size() - up);
  metrics_.latency.branch_us.set(us_since(hold.begun_ns));
  leave(Branched{std::move(children)});
}

/// Whose pages are whose is counted first, where there may be others.
void Controller::begin(const GetPrometheusMetrics&, Reply reply) {
  metrics_asked_.push_back(std::move(reply));
  if (machine_ == nullptr || options_.brancher == nullptr || !knows_own_pages_) return give_metrics();
  if (metrics_asked_.size() > 1) return;  // who came first has had them counted
  options_.brancher->count_pages(machine_->memory(), [this](PageSharing sharing) {
    metrics_.branch.own_pages.set(sharing.own / kGuestPageSize);
    metrics_.branch.shared_pages.set(sharing.shared / kGuestPageSize);
    give_metrics();
  });
}

void Controller::give_metrics() {
  metrics_file_.note_missed_log_lines();
  for (Reply& each : std::exchange(metrics_asked_, {})) std::move(each).give(PrometheusText{prometheus_text(metrics_)});
}

// --- The child -------------------------------------------------------------------------------------------------------

namespace {

/// Not of a child in a jail, which has a mount of its parent's directory in /proc.
bool proc_self_is_ours() {
  const auto stat = read_file("/proc/self/stat", "/proc/self/stat", 4096);
  return stat && stat->starts_with(std::to_string(::getpid()) + ' ');
}

}  // namespace

Status Controller::branch_off(BranchOrder& order, std::size_t index) {
  if (end_) return has_ended();
  BranchChild& child = order.children[index];
  (void)need_prepared_vm();  // it is made meanwhile
  knows_own_pages_ = proc_self_is_ours();
  if (child.metadata) TRY(configured_.metadata.put(std::move(*child.metadata)));
  if (child.serial_out_path)
    TRY(configured_.put(SerialConfig{.serial_out_path = child.serial_out_path, .max_bytes = order.max_console_bytes}));
  auto load = TRY(begin_branch(order.snapshot, child, order.resumes));
  TRY(finish_load(std::move(load), RestoredMemory{.memory = std::move(order.memory)}, order.begun_ns));
  metrics_.latency.branch_us.set(us_since(order.begun_ns));
  log_.info("branched off as {} in {} us", options_.id, metrics_.latency.branch_us.value());
  return {};
}

}  // namespace mayfly
