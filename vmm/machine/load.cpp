#include "vmm/machine/load.h"

#include "snapshot/file_pair.h"
#include "snapshot/host_cpu.h"
#include "snapshot/memory_chain.h"
#include "snapshot/page_server.h"
#include "snapshot/state_file.h"
#include "snapshot/working_set.h"
#include "vmm/base/try.h"
#include "vmm/machine/snapshot_paths.h"

#include <sys/stat.h>

#include <algorithm>
#include <iterator>
#include <span>
#include <utility>

namespace mayfly {
namespace {

/// The devices of a snapshot, opened with the request's overrides.
Status open_devices(const Snapshot& snapshot, const SnapshotLoadParams& params, std::span<const FoundFile> beside,
                    ConfiguredDevices& devices) {
  std::vector<DriveConfig> drives;
  std::vector<NetworkInterfaceConfig> interfaces;
  std::ranges::transform(snapshot.drives, std::back_inserter(drives), &DriveState::config);
  std::ranges::transform(snapshot.network_interfaces, std::back_inserter(interfaces), &NetworkInterfaceState::config);
  for (const DriveOverride& each : params.drive_overrides) {
    const auto found = std::ranges::find(drives, each.drive_id, &DriveConfig::drive_id);
    if (found == drives.end())
      return fail(ErrorKind::NotFound, "drive_overrides: the snapshot has no drive {}", each.drive_id);
    if (!each.base_paths.empty())
      found->base_paths = each.base_paths;
    else if (adds_layer(*found, each))
      found->base_paths.push_back(found->path_on_host);
    found->path_on_host = each.path_on_host;
  }
  for (const NetworkOverride& each : params.network_overrides) {
    const auto found = std::ranges::find(interfaces, each.iface_id, &NetworkInterfaceConfig::iface_id);
    if (found == interfaces.end())
      return fail(ErrorKind::NotFound, "network_overrides: the snapshot has no network interface {}", each.iface_id);
    found->host_dev_name = each.host_dev_name;
    if (each.guest_mac) found->guest_mac = each.guest_mac;
  }
  for (DriveConfig& drive : drives)
    if (auto put = devices.put(std::move(drive), beside); !put) return put;
  for (NetworkInterfaceConfig& interface : interfaces)
    if (auto put = devices.put(std::move(interface)); !put) return put;
  return {};
}

Status check_working_set(const Snapshot& snapshot, const SnapshotLoadParams& params) {
  if (snapshot.machine.huge_pages == HugePages::Explicit2M)
    return fail(ErrorKind::InvalidArgument,
                "working_set is for pages of 4 KiB, and huge_pages is 2M: leave one of them out");
  if (params.working_set->record && params.revertible)
    return fail(
        ErrorKind::InvalidArgument,
        "revertible is for memory that is mapped from its files, and a recording of a working set gives it page "
        "by page: leave one of them out");
  if (params.working_set->record && params.working_set->until_boot_timer && !snapshot.platform.has_boot_timer)
    return fail(ErrorKind::InvalidArgument,
                "working_set.until_boot_timer is true, and the snapshot's machine has no boot timer: take the snapshot "
                "of one that was started with --boot-timer, or leave it out");
  return {};
}

Result<RestoredMemory> restore_recorded(GuestMemory::Options options, const MemoryLayers& layers, Log& log,
                                        const ThreadEntry& enter_thread) {
  options.pages = HugePages::None;  // each page is to be seen
  auto memory = GuestMemory::create(options);
  if (!memory) return propagate(memory);
  auto recorder = WorkingSetRecorder::start(*memory, layers, log, enter_thread);
  if (!recorder) return propagate(recorder);
  memory->set_served(layers);
  return RestoredMemory{.memory = std::move(*memory), .recorder = std::move(*recorder)};
}

/// What is not a file's page cannot be made one again.
Status check_can_be_dropped(const GuestMemory& memory) {
  if (memory.is_all_mapped()) return {};
  return fail(
      ErrorKind::InvalidArgument,
      "revertible is for memory that is mapped from its files, and these diffs have more parts than the {} that "
      "are mapped: merge them first (mayfly snapshot merge)",
      kMostMappedParts);
}

GuestMemory::Options memory_options(const Snapshot& snapshot) {
  return {.size_mib = snapshot.machine.mem_size_mib, .pages = snapshot.machine.huge_pages};
}

}  // namespace

Result<Load> begin_load(SnapshotLoadParams params) {
  auto read = TRY(read_state_file(params.snapshot_path));
  auto snapshot = std::make_shared<Snapshot>(std::move(read));
  if (auto fits = check_host_cpu(snapshot->host, this_host_cpu()); !fits)
    return propagate(fits, "snapshot_path " + params.snapshot_path);
  snapshot->machine.track_dirty_pages = params.track_dirty_pages;
  if (params.huge_pages) snapshot->machine.huge_pages = *params.huge_pages;
  const std::vector<FoundFile> beside = TRY(check_named_paths(*snapshot, params));
  ConfiguredDevices devices{ConfiguredDevices::Made::GoesUnlessStarted};
  TRY(open_devices(*snapshot, params, beside, devices));
  ConfiguredChannels channels;
  TRY(channels.load(snapshot->channels, params.channel_overrides));
  return Load{.params = std::move(params),
              .snapshot = std::move(snapshot),
              .devices = std::move(devices),
              .channels = std::move(channels)};
}

Status check_new_overlay(const DriveOverride& drive) {
  struct stat status{};
  if (::lstat(drive.path_on_host.c_str(), &status) != 0) return {};
  return fail(ErrorKind::InvalidArgument,
              "drive_overrides: drive {}: {} is there already; name a file that is not, for the child's own overlay",
              drive.drive_id, drive.path_on_host);
}

Result<Load> begin_branch(std::shared_ptr<const Snapshot> snapshot, const BranchChild& child, bool resume_vm) {
  for (const DriveOverride& each : child.drive_overrides) TRY(check_new_overlay(each));  // nobody has made it since
  Load load{.params = {.resume_vm = resume_vm,
                       .clock_realtime = true,  // as its parent's clock does
                       .network_overrides = child.network_overrides,
                       .drive_overrides = child.drive_overrides,
                       .channel_overrides = child.channel_overrides},
            .snapshot = std::move(snapshot),
            .devices = ConfiguredDevices{ConfiguredDevices::Made::GoesUnlessStarted},
            .channels = {},
            .is_branch = true};
  TRY(open_devices(*load.snapshot, load.params, {}, load.devices));
  TRY(load.channels.load(load.snapshot->channels, load.params.channel_overrides));
  return load;
}

bool reads_memory(const Load& load) {
  return load.snapshot->machine.huge_pages == HugePages::Explicit2M || load.params.backend_paths.size() > 1;
}

Result<RestoredMemory> memory_of_file(const Load& load, Log& log, const ThreadEntry& enter_thread,
                                      const std::stop_token& stop) {
  GuestMemory::Options options = memory_options(*load.snapshot);
  options.stop = stop;
  auto chain = TRY(open_memory_chain(load.params.backend_paths,
                                     {.top = load.snapshot->id, .memory_size = options.size_mib * kMiB, .stop = stop}));
  const MemoryLayers layers = layers_of(std::move(chain));
  if (load.params.revertible && options.pages == HugePages::Explicit2M)
    return fail(
        ErrorKind::InvalidArgument,
        "revertible is for memory that is mapped from its files, and huge_pages 2M reads them: set one of the two "
        "to another value");
  WorkingSet set;
  if (load.params.working_set) {
    TRY(check_working_set(*load.snapshot, load.params));
    if (load.params.working_set->record) return restore_recorded(options, layers, log, enter_thread);
    set = TRY(read_working_set(load.params.working_set->path, load.snapshot->id, options.size_mib * kMiB));
  }
  auto memory = TRY(GuestMemory::map(options, layers));
  if (load.params.revertible) TRY(check_can_be_dropped(memory));
  return RestoredMemory{.memory = std::move(memory), .needed_first = std::move(set)};
}

Result<RestoredMemory> memory_of_page_server(const Load& load, const std::stop_token& stop) {
  auto memory = TRY(GuestMemory::create(memory_options(*load.snapshot)));
  auto served = TRY(hand_to_page_server(memory, load.params.backend_paths.front(), stop));
  memory.set_served();
  return RestoredMemory{.memory = std::move(memory),
                        .userfault = std::move(served.userfault),
                        .page_server = std::move(served.connection)};
}

Status check_recording_path(const SnapshotLoadParams& params) {
  const std::string& path = params.working_set->path;
  std::vector<std::string> files = params.backend_paths;
  files.push_back(params.snapshot_path);
  if (std::ranges::any_of(files, [&](const std::string& file) { return paths_clash(path, file); }))
    return fail(ErrorKind::InvalidArgument, "working_set.path {} is a file of the snapshot; give another path", path);
  return check_new_file(path, "working_set.path");
}

}  // namespace mayfly
