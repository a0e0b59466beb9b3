// The controller's part that takes and loads snapshots.

#include "snapshot/file_pair.h"
#include "snapshot/leftovers.h"
#include "snapshot/memory_file.h"
#include "snapshot/page_server.h"
#include "snapshot/state_file.h"
#include "snapshot/working_set.h"
#include "vmm/base/clock.h"
#include "vmm/machine/controller.h"
#include "vmm/machine/snapshot_paths.h"

#include <algorithm>
#include <iterator>
#include <utility>

namespace mayfly {
namespace {

/// The devices of a snapshot, opened anew with what the request puts in their place.
Status open_devices(const Snapshot& snapshot, const SnapshotLoadParams& params, ConfiguredDevices& devices) {
  std::vector<DriveConfig> drives;
  std::vector<NetworkInterfaceConfig> interfaces;
  std::ranges::transform(snapshot.drives, std::back_inserter(drives), &DriveState::config);
  std::ranges::transform(snapshot.network_interfaces, std::back_inserter(interfaces), &NetworkInterfaceState::config);
  for (const DriveOverride& each : params.drive_overrides) {
    const auto found = std::ranges::find(drives, each.drive_id, &DriveConfig::drive_id);
    if (found == drives.end())
      return fail(ErrorKind::NotFound, "drive_overrides: the snapshot has no drive {}", each.drive_id);
    found->path_on_host = each.path_on_host;
  }
  for (const NetworkOverride& each : params.network_overrides) {
    const auto found = std::ranges::find(interfaces, each.iface_id, &NetworkInterfaceConfig::iface_id);
    if (found == interfaces.end())
      return fail(ErrorKind::NotFound, "network_overrides: the snapshot has no network interface {}", each.iface_id);
    found->host_dev_name = each.host_dev_name;
  }
  for (DriveConfig& drive : drives)
    if (auto put = devices.put(std::move(drive)); !put) return put;
  for (NetworkInterfaceConfig& interface : interfaces)
    if (auto put = devices.put(std::move(interface)); !put) return put;
  return {};
}

struct RestoredMemory {
  GuestMemory memory;
  OwnedFd userfault{};
  std::unique_ptr<WorkingSetRecorder> recorder{};
  std::vector<PageRange> needed_first{};
};

Status check_working_set(const Snapshot& snapshot, const SnapshotLoadParams& params) {
  if (snapshot.machine.huge_pages == HugePages::Explicit2M)
    return fail(ErrorKind::InvalidArgument,
                "working_set is for pages of 4 KiB, and huge_pages is 2M: leave one of them out");
  if (params.working_set->record && params.working_set->until_boot_timer && !snapshot.platform.has_boot_timer)
    return fail(ErrorKind::InvalidArgument,
                "working_set.until_boot_timer is true, and the snapshot's machine has no boot timer: take the snapshot "
                "of one that was started with --boot-timer, or leave it out");
  return {};
}

/// That a recording can be written, as far as can be known beforehand, and destroys nothing of the snapshot's.
Status check_recording_path(const SnapshotLoadParams& params) {
  const std::string& path = params.working_set->path;
  for (const std::string& file : {params.snapshot_path, params.backend_path})
    if (paths_clash(path, file))
      return fail(ErrorKind::InvalidArgument, "working_set.path {} is a file of the snapshot; give another path", path);
  return check_new_file(path, "working_set.path");
}

Result<RestoredMemory> restore_recorded(GuestMemory::Options options, OwnedFd file, Log& log,
                                        const ThreadEntry& enter_thread) {
  options.pages = HugePages::None;  // each page is to be seen
  auto memory = GuestMemory::create(options);
  if (!memory) return propagate(memory);
  const auto shared = std::make_shared<OwnedFd>(std::move(file));
  auto recorder = WorkingSetRecorder::start(*memory, shared, log, enter_thread);
  if (!recorder) return propagate(recorder);
  memory->set_served(shared);
  return RestoredMemory{.memory = std::move(*memory), .recorder = std::move(*recorder)};
}

Result<RestoredMemory> restore_memory(const Snapshot& snapshot, const SnapshotLoadParams& params, Log& log,
                                      const ThreadEntry& enter_thread) {
  const GuestMemory::Options options{.size_mib = snapshot.machine.mem_size_mib, .pages = snapshot.machine.huge_pages};
  if (params.backend == MemoryBackend::File) {
    auto file = open_memory_file(params.backend_path, snapshot.id, options.size_mib * kMiB);
    if (!file) return propagate(file);
    WorkingSet set;
    if (params.working_set) {
      if (auto checked = check_working_set(snapshot, params); !checked) return propagate(checked);
      if (params.working_set->record) return restore_recorded(options, std::move(*file), log, enter_thread);
      auto read = read_working_set(params.working_set->path, snapshot.id, options.size_mib * kMiB);
      if (!read) return propagate(read);
      set = std::move(*read);
    }
    auto memory = GuestMemory::map(options, std::move(*file));
    if (!memory) return propagate(memory);
    return RestoredMemory{.memory = std::move(*memory), .needed_first = std::move(set.ranges)};
  }
  auto memory = GuestMemory::create(options);
  if (!memory) return propagate(memory);
  auto userfault = hand_to_page_server(*memory, params.backend_path);
  if (!userfault) return propagate(userfault);
  memory->set_served();
  return RestoredMemory{.memory = std::move(*memory), .userfault = std::move(*userfault)};
}

/// Which pages the memory file of a snapshot gets.
struct Pages {
  PageRanges ranges;
  MemoryFileKind kind = MemoryFileKind::Full;
};

Result<Pages> pages_for(Microvm& machine, const GuestMemory& memory, bool diff) {
  // Looked at for a full snapshot as well: a diff that follows begins here.
  auto changes = machine.changes();
  if (!changes) return propagate(changes);
  if (!diff) {
    auto touched = touched_pages(memory);
    if (!touched) return propagate(touched);
    return Pages{std::move(*touched), MemoryFileKind::Full};
  }
  if (*changes) return Pages{std::move(**changes), MemoryFileKind::Diff};
  // Nobody kept track: what the guest has made its own since the start or the load is that, and perhaps more.
  auto own = private_pages(memory);
  if (!own) return propagate(own);
  return Pages{std::move(*own), MemoryFileKind::Diff};
}

/// The file that a diff is to be merged with, if mem_file_path names the diff's base.
Result<std::optional<OwnedFd>> base_at(const std::string& path, const MemoryFileContent& content,
                                       const GuestMemory& memory, bool may_be_diff) {
  if (content.kind != MemoryFileKind::Diff) return std::nullopt;
  auto base = open_diff_base(path, content.base_id, memory, may_be_diff);
  if (!base || *base) return base;
  // A killed monitor left it there, and its state is not the one that snapshot_path names, or it would have its name.
  auto left = open_diff_base(new_name(path), content.base_id, memory, may_be_diff);
  if (left && *left)
    return fail(ErrorKind::State,
                "mem_file_path {}: the diff's base is {}, as the monitor that wrote it was killed; give it its name by "
                "mayfly snapshot sweep {}, or give another path",
                path, new_name(path), directory_of(path));
  return std::nullopt;
}

}  // namespace

Status Controller::write_snapshot(Snapshot snapshot, GuestMemory& memory, const SnapshotCreateParams& params) {
  auto id = make_snapshot_id();
  if (!id) return propagate(id);
  snapshot.id = *id;
  snapshot.producer = MAYFLY_VERSION;
  snapshot.host = this_host_cpu();
  snapshot.machine = config_.machine;
  snapshot.cpu = config_.cpu;
  snapshot.boot_source = config_.boot_source;
  snapshot.mmds = config_.mmds;
  for (std::size_t i = 0; i < snapshot.drives.size(); ++i) snapshot.drives[i].config = devices_.drives()[i];
  for (std::size_t i = 0; i < snapshot.network_interfaces.size(); ++i)
    snapshot.network_interfaces[i].config = devices_.network_interfaces()[i];
  auto state = encode_loadable(snapshot);
  if (!state) return propagate(state);

  // A diff of nothing is everything.
  auto pages = pages_for(*microvm_, memory, params.diff && last_snapshot_.has_value());
  if (!pages) return propagate(pages);
  const MemoryFileContent content{.kind = pages->kind,
                                  .id = *id,
                                  .base_id = pages->kind == MemoryFileKind::Diff ? *last_snapshot_ : SnapshotId{},
                                  .pages = std::move(pages->ranges)};
  if (auto checked = check_new_file(params.mem_file_path, "mem_file_path"); !checked) return checked;
  if (auto settled = settle_pair(params.snapshot_path, params.mem_file_path); !settled) return settled;
  auto base = base_at(params.mem_file_path, content, memory, took_last_snapshot_);
  if (!base) return propagate(base);
  auto memory_file = NewFile::create(params.mem_file_path, "mem_file_path");
  if (!memory_file) return propagate(memory_file);
  auto state_file = NewFile::create(params.snapshot_path, "snapshot_path");
  if (!state_file) return propagate(state_file);
  auto written = *base ? write_merged_memory_file(loop_, *memory_file, memory, content, std::move(**base))
                       : write_memory_file(loop_, memory_file->fd(), params.mem_file_path, memory, content);
  if (!written) return written;
  if (auto done = state_file->write(*state); !done) return done;
  PairOutcome outcome = publish_pair(*memory_file, *state_file);
  if (outcome.counts) {
    microvm_->forget_changes();
    last_snapshot_ = *id;
    took_last_snapshot_ = true;
  }
  return std::move(outcome.status);
}

Result<Answer> Controller::apply(CreateSnapshot& command) {
  const SnapshotCreateParams& params = command.value;
  if (params.snapshot_path == params.mem_file_path)
    return fail(ErrorKind::InvalidArgument, "snapshot_path and mem_file_path are both {}; give each its own",
                params.snapshot_path);
  if (paths_clash(params.snapshot_path, params.mem_file_path))
    return fail(ErrorKind::InvalidArgument, "snapshot_path {} and mem_file_path {} name one file; give each its own",
                params.snapshot_path, params.mem_file_path);
  const std::uint64_t begin = monotonic_ns();
  auto taken = microvm_->snapshot(
      [&](Snapshot snapshot, GuestMemory& memory) { return write_snapshot(std::move(snapshot), memory, params); });
  if (!taken) return propagate(taken);
  Gauge& latency = params.diff ? metrics_.latency.diff_create_snapshot_us : metrics_.latency.full_create_snapshot_us;
  latency.set((monotonic_ns() - begin) / 1000);
  log_.info("snapshot {} taken to {} and {} in {} us", format_snapshot_id(*last_snapshot_), params.snapshot_path,
            params.mem_file_path, latency.value());
  return {};
}

Result<RestorePlan> Controller::plan_restore(const SnapshotLoadParams& params, ConfiguredDevices& devices) {
  auto snapshot = read_state_file(params.snapshot_path);
  if (!snapshot) return propagate(snapshot);
  if (auto fits = check_host_cpu(snapshot->host, this_host_cpu()); !fits)
    return propagate(fits, "snapshot_path " + params.snapshot_path);
  snapshot->machine.track_dirty_pages = params.track_dirty_pages;
  if (params.huge_pages) snapshot->machine.huge_pages = *params.huge_pages;
  auto beside = check_named_paths(*snapshot, params);
  if (!beside) return propagate(beside);
  if (auto opened = open_devices(*snapshot, params, devices); !opened) return propagate(opened);
  auto memory = restore_memory(*snapshot, params, log_, options_.enter_thread);
  if (!memory) return propagate(memory);
  if (auto made = need_shell(); !made) return propagate(made);
  RestorePlan plan{.shell = take_shell(),
                   .snapshot = std::move(*snapshot),
                   .memory = std::move(memory->memory),
                   .userfault = std::move(memory->userfault),
                   .recorder = std::move(memory->recorder),
                   .needed_first = std::move(memory->needed_first),
                   .devices = {},
                   .console = console_options(),
                   .clock_realtime = params.clock_realtime,
                   .allow_changed_drives = params.allow_changed_drives};
  if (auto lent = devices.lend(plan.devices); !lent) return propagate(lent);
  if (auto same = check_same_files(*beside, plan.devices.drives); !same) return propagate(same);
  plan.devices.mmds = plan.snapshot.mmds;
  return plan;
}

Result<Answer> Controller::apply(LoadSnapshot& command) {
  const SnapshotLoadParams& params = command.value;
  const std::uint64_t begin = monotonic_ns();
  // An MMDS configuration names interfaces, and metadata are the machine's to come.
  if (config_.boot_source || config_.cpu || machine_configured_ || !devices_.empty())
    return fail(ErrorKind::State,
                "a machine has been configured; a snapshot brings all of its own, but logger, metrics, serial and "
                "metadata: send PUT /snapshot/load to a fresh Mayfly");
  std::unique_ptr<LoopTimer> recording_timer;
  if (params.working_set && params.working_set->record) {
    if (auto checked = check_recording_path(params); !checked) return propagate(checked);
    auto timer = LoopTimer::create(loop_, [this] { end_recording(); });
    if (!timer) return propagate(timer);
    recording_timer = std::move(*timer);
  }
  ConfiguredDevices devices;
  auto plan = plan_restore(params, devices);
  if (!plan) return propagate(plan);
  const SnapshotId id = plan->snapshot.id;
  const MachineConfig machine_config = plan->snapshot.machine;
  auto cpu = plan->snapshot.cpu;
  auto boot_source = plan->snapshot.boot_source;
  auto mmds = plan->snapshot.mmds;
  auto machine = Microvm::restore(std::move(*plan), context());
  if (!machine) return propagate(machine);
  microvm_ = std::move(*machine);
  devices_ = std::move(devices);
  devices_.started();
  config_.machine = machine_config;
  config_.cpu = std::move(cpu);
  config_.boot_source = std::move(boot_source);
  config_.mmds = std::move(mmds);
  last_snapshot_ = id;
  if (params.resume_vm) microvm_->resume();
  go_live(params.resume_vm ? MachineState::Running : MachineState::Paused);
  microvm_->fetch_working_set();
  if (recording_timer) {
    recording_.emplace(params.working_set->path, id, params.working_set->until_boot_timer);
    recording_timer_ = std::move(recording_timer);
    recording_timer_->listen();
    if (params.working_set->for_ms) recording_timer_->arm(begin + *params.working_set->for_ms * 1'000'000);
  }
  metrics_.latency.load_snapshot_us.set((monotonic_ns() - begin) / 1000);
  log_.info("loaded snapshot {} with {} vCPUs and {} MiB in {} us", format_snapshot_id(id), config_.machine.vcpu_count,
            config_.machine.mem_size_mib, metrics_.latency.load_snapshot_us.value());
  return {};
}

// --- Working sets ----------------------------------------------------------------------------------------------------

Status Controller::finish_recording() {
  const std::vector<std::uint64_t> touched = microvm_->touched();
  const WorkingSet set{.snapshot = recording_->snapshot,
                       .memory_size = config_.machine.mem_size_mib * kMiB,
                       .ranges = ranges_in_order(touched)};
  auto file = NewFile::create(recording_->path, "working_set.path");
  if (!file) return propagate(file);
  if (auto written = file->write(encode_working_set(set)); !written) return written;
  if (auto synced = file->sync(); !synced) return synced;
  if (auto published = file->publish(); !file->published()) return published;
  microvm_->stop_recording();
  log_.info("working set recorded to {}: {} pages in {} ranges", recording_->path, touched.size(), set.ranges.size());
  recording_.reset();
  return {};
}

void Controller::end_recording() {
  if (!recording_) return;
  if (auto finished = finish_recording(); !finished)
    log_.error("the working set is not written: {}", finished.error().message);
}

Result<Answer> Controller::apply(FinishWorkingSet&) {
  if (!recording_)
    return fail(ErrorKind::State,
                "no working set is being recorded: load a snapshot with working_set, whose mode is Record, first");
  if (auto finished = finish_recording(); !finished) return propagate(finished);
  return {};
}

}  // namespace mayfly
