#include "vmm/machine/save.h"

#include "snapshot/host_cpu.h"
#include "snapshot/leftovers.h"
#include "snapshot/memory_file.h"
#include "snapshot/pages.h"
#include "snapshot/state_file.h"
#include "vmm/base/clock.h"
#include "vmm/base/files.h"
#include "vmm/base/try.h"
#include "vmm/boot/layout.h"
#include "vmm/kvm/vcpu_snapshot.h"
#include "vmm/machine/freezes.h"

#include <algorithm>
#include <ctime>
#include <utility>

namespace mayfly {
namespace {

// The label replaces memory that the guest's map calls reserved, and in which nothing of ours lies.
static_assert(kLabel.offset >= layout::kReservedLow.value + layout::kMpTableRoom &&
              kLabel.end() <= layout::kVmClock.value);

PlatformState platform_of(Board& board, const VcpuState& first_vcpu) {
  return {.ioapic = board.ioapic.state(),
          .pic = board.pic.state(),
          .pit = board.pit.state(),
          .serial = board.console.serial().state(),
          .i8042 = board.i8042.state(),
          .sleep_ports = board.sleep_ports.state(),
          .has_boot_timer = board.has_boot_timer,
          .boot_timer = board.boot_timer.state(),
          .undelivered_interrupt = board.vcpus->undelivered_interrupt(first_vcpu)};
}

/// Which pages the memory file of a snapshot gets, and of what it is a diff.
Result<MemoryFileContent> content_of(SnapshotOrder& order, const SnapshotId& id) {
  const GuestMemory& memory = order.machine.memory();
  MemoryFileContent content{.kind = MemoryFileKind::Full, .id = id, .base_id = {}, .pages = {}};
  const auto still = order.held ? MemoryIs::WrittenTo : MemoryIs::Still;
  if (!order.base) {
    const PageRanges touched = TRY(touched_pages(memory, still));
    content.pages = pages_in_file(touched, memory.size());
    return content;
  }
  content.kind = MemoryFileKind::Diff;
  content.base_id = order.base->id;
  // Without tracking: the pages that became private since the start or load, which may be more than the changes. What a
  // booted guest has only read is private, too: pages of zeros, which count where the base has data.
  PageRanges changed;
  if (order.changes) {
    changed = std::move(*order.changes);
  } else {
    changed = TRY(private_pages(memory, order.base->data.get(), still));
  }
  content.pages = pages_in_file(changed, memory.size());
  return content;
}

/// DiffBase::data of a snapshot with these pages, joined over small gaps where they are many.
std::shared_ptr<const PageRanges> data_with(const SnapshotOrder& order, const PageRanges& pages) {
  if (!order.base) return std::make_shared<const PageRanges>(pages);
  if (!order.base->data) return nullptr;
  std::vector<PageRange> all = *order.base->data;
  all.insert(all.end(), pages.begin(), pages.end());
  return std::make_shared<const PageRanges>(pages_in_file(merged(std::move(all)), order.machine.memory().size()));
}

/// Whether a diff is worth nothing without the file.
bool is_needed(const std::string& path, const DiffBase& of, const GuestMemory& memory) {
  if (of.rests_on_loaded && is_mapped_from(memory, path)) return true;
  const auto file = open_for_reading(path);
  if (!file) return false;
  const auto footer = read_footer(file->get(), path, memory.size());
  return footer && std::ranges::find(of.needs, footer->id) != of.needs.end();
}

/// The file that a diff is to be merged with, if mem_file_path names the diff's base.
Result<std::optional<OwnedFd>> base_at(const std::string& path, const std::optional<DiffBase>& of,
                                       const GuestMemory& memory) {
  if (!of) return std::nullopt;
  auto base = open_diff_base(path, of->id, memory, of->may_be_diff);
  if (!base || *base) return base;
  for (const std::string& name : {path, new_name(path)})
    if (is_needed(name, *of, memory))
      return fail(ErrorKind::InvalidArgument,
                  "mem_file_path {}: the diff lies over what is in {}, and is worth nothing without it; give another "
                  "path, or take a full snapshot",
                  path, name);
  // A killed monitor left it there. If its state were the one that snapshot_path names, it would have its name already.
  auto left = open_diff_base(new_name(path), of->id, memory, of->may_be_diff);
  if (left && *left)
    return fail(ErrorKind::State,
                "mem_file_path {}: the diff's base is {}, as the monitor that wrote it was killed; give it its name by "
                "mayfly snapshot sweep {}, or give another path",
                path, new_name(path), directory_of(path));
  return std::nullopt;
}

/// What was written, beside the files.
struct WrittenPair {
  bool merged;  ///< With the base.
  std::shared_ptr<const PageRanges> data;
};

/// Writes both files, whole, under their new names; publish_pair() gives them theirs.
Result<WrittenPair> write_pair(SnapshotOrder& order, const SnapshotId& id, const std::stop_token& stop) {
  const SnapshotCreateParams& params = order.params;
  const GuestMemory& memory = order.machine.memory();
  order.snapshot.id = id;
  auto state = TRY(encode_loadable(order.snapshot));
  const MemoryFileContent content = TRY(content_of(order, id));
  if (!order.places) {
    auto taken = TRY(take_places(params, order.base, memory));
    order.places.emplace(std::move(taken));
  }
  auto& [memory_file, state_file, base] = *order.places;
  order.progress->total = bytes_in(content.pages);
  const PageWriting pages{.loop = order.loop,
                          .memory = memory,
                          .stop = stop,
                          .held = order.held,
                          .progress = order.progress,
                          .bound = order.bound};
  const bool merged = base.has_value();
  if (base)
    TRY(write_merged_memory_file(pages, memory_file, content, std::move(*base)));
  else
    TRY(write_memory_file(pages, memory_file.fd(), params.mem_file_path, content));
  if (!params.frozen_drives.empty() && !order.held) {
    TRY(memory_file.sync());
    if (stop.stop_requested()) return fail(ErrorKind::State, "the snapshot was stopped");
    TRY(settle_freezes(order.machine, params, order.snapshot));
    state = TRY(encode_loadable(order.snapshot));
  }
  TRY(state_file.write(state));
  return WrittenPair{.merged = merged, .data = data_with(order, content.pages)};
}

/// A snapshot whose memory somebody else keeps: the state alone.
SnapshotOutcome write_state(SnapshotOrder& order, const SnapshotId& id, const std::stop_token& stop) {
  const auto write = [&]() -> Result<NewFile> {
    TRY(settle_freezes(order.machine, order.params, order.snapshot));
    order.snapshot.id = id;
    const auto state = TRY(encode_loadable(order.snapshot));
    auto file = TRY(NewFile::create(order.params.snapshot_path, "snapshot_path"));
    TRY(file.write(state));
    TRY(file.sync());
    if (stop.stop_requested()) return fail(ErrorKind::State, "the snapshot was stopped");
    return file;
  };
  auto file = write();
  if (!file) return {.status = propagate(file)};
  Status published = file->publish();
  return {.counts = file->published() ? std::optional{id} : std::nullopt, .status = std::move(published)};
}

SnapshotOutcome write_files(SnapshotOrder& order, const std::stop_token& stop) {
  const auto id = make_snapshot_id(order.base ? std::optional{order.base->id} : std::nullopt);
  if (!id) return {.status = std::unexpected(id.error())};
  // Writes that the guest saw complete are on the disk before the snapshot counts. Of a machine that goes on, what is frozen
  // and overlays are already; memory is held for no disk of a drive's.
  if (!order.held)
    if (auto synced = order.machine.sync_drives(order.snapshot); !synced) return {.status = std::move(synced)};
  if (order.params.mem_file_path.empty()) return write_state(order, *id, stop);
  auto written = write_pair(order, *id, stop);
  // Also after a failure: pieces that a dead disk keeps in flight must not keep the process.
  if (order.held) order.held->let_go();
  if (!written) return {.status = propagate(written)};
  if (order.held)
    if (auto synced = order.machine.sync_drives(order.snapshot, DriveSync::Plain); !synced)
      return {.status = std::move(synced)};
  if (stop.stop_requested()) return {.status = fail(ErrorKind::State, "the snapshot was stopped")};
  PairOutcome outcome = publish_pair(order.places->memory, order.places->state);
  return {.counts = outcome.counts ? std::optional{*id} : std::nullopt,
          .merged = written->merged,
          .data = std::move(written->data),
          .status = std::move(outcome.status)};
}

}  // namespace

Result<Snapshot> save(Board& board) {
  Snapshot snapshot;
  const auto indices = TRY(board.kvm.msr_indices());
  const KeptMsrs kept = kept_msrs(indices, board.own_msrs);
  for (const Vcpu& vcpu : board.vcpus->vcpus()) {
    auto state = TRY(save_vcpu(vcpu, kept));
    snapshot.vcpus.push_back(std::move(state));
  }
  const kvm_clock_data clock = TRY(board.vm->clock());
  // KVM reads both clocks at one moment where it can.
  const bool together = (clock.flags & KVM_CLOCK_REALTIME) != 0;
  snapshot.clock = {.guest_ns = clock.clock, .realtime_ns = together ? clock.realtime : clock_ns(CLOCK_REALTIME)};
  snapshot.platform = platform_of(board, snapshot.vcpus.front());
  board.virtio.save(snapshot);
  return snapshot;
}

Result<PairPlaces> take_places(const SnapshotCreateParams& params, const std::optional<DiffBase>& base,
                               const GuestMemory& memory) {
  TRY(check_new_file(params.mem_file_path, "mem_file_path"));
  TRY(finish_interrupted_pair(params.snapshot_path, params.mem_file_path));
  auto merged_with = TRY(base_at(params.mem_file_path, base, memory));
  auto memory_file = TRY(NewFile::create(params.mem_file_path, "mem_file_path"));
  auto state_file = TRY(NewFile::create(params.snapshot_path, "snapshot_path"));
  return PairPlaces{.memory = std::move(memory_file), .state = std::move(state_file), .base = std::move(merged_with)};
}

Status check_paths(const SnapshotCreateParams& params, const std::vector<DriveConfig>& drives) {
  if (params.max_copied_mib && !params.live)
    return fail(ErrorKind::InvalidArgument, "max_copied_mib is for a live snapshot: set live to true, or leave it out");
  if (params.mem_file_path.empty()) {
    if (params.diff)
      return fail(
          ErrorKind::InvalidArgument,
          "mem_file_path is absent, and a Diff is one of the memory: name a file for it, or leave snapshot_type "
          "out and read the memory (GET /memory/mappings)");
    if (params.live)
      return fail(ErrorKind::InvalidArgument,
                  "mem_file_path is absent, and a live snapshot's machine goes on while its memory is written: name a "
                  "file for it, or pause the machine and leave live out");
    return check_freezes(params, drives);
  }
  if (params.snapshot_path == params.mem_file_path)
    return fail(ErrorKind::InvalidArgument, "snapshot_path and mem_file_path are both {}; give each its own",
                params.snapshot_path);
  if (paths_clash(params.snapshot_path, params.mem_file_path))
    return fail(ErrorKind::InvalidArgument, "snapshot_path {} and mem_file_path {} name one file; give each its own",
                params.snapshot_path, params.mem_file_path);
  return check_freezes(params, drives);
}

SnapshotOutcome write_snapshot(SnapshotOrder order, const std::stop_token& stop) {
  SnapshotOutcome outcome = write_files(order, stop);
  if (outcome.counts || order.held) return outcome;
  if (auto dropped = drop_freezes(order.machine, order.params); !dropped)
    outcome.status =
        fail(outcome.status.error().kind, "{}; {}", outcome.status.error().message, dropped.error().message);
  return outcome;
}

}  // namespace mayfly
