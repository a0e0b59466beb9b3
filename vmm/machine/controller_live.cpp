// The controller's live snapshots: the machine stands still while its state is read and its memory is held, and goes on
// while a worker writes what was held. Status, and ends, of snapshots that are being written.

#include "snapshot/host_cpu.h"
#include "vmm/base/clock.h"
#include "vmm/base/try.h"
#include "vmm/machine/controller.h"
#include "vmm/machine/freezes.h"

#include <utility>

namespace mayfly {

Status Controller::check_not_writing() const {
  if (!writing_) return {};
  return fail(
      ErrorKind::State,
      "a live snapshot is being written to {}: wait for its end (GET /snapshot), or cancel it (DELETE /snapshot)",
      writing_->params.snapshot_path);
}

Status Controller::check_can_save() const {
  if (knows_own_pages_) return check_not_writing();
  return fail(
      ErrorKind::Unsupported,
      "this machine is a child in its parent's jail, whose /proc/self is the parent's and tells of other memory: no "
      "snapshot can be taken of it; take one of the parent, or branch outside of a jail");
}

Status Controller::check_live() const {
  if (!options_.live_snapshots)
    return fail(
        ErrorKind::State,
        "this Mayfly was started without --live-snapshots, as they take a wider system call filter: give it that "
        "option, or pause the machine and leave live out");
  for (const DriveConfig& drive : configured_.devices.drives())
    if (machine_->drive(drive.drive_id).changes_unseen())
      return fail(
          ErrorKind::Unsupported,
          "drive {}: the guest writes to {}, a block device, which would go on changing, and no load could "
          "tell: give the drive an overlay over it (base_path), or set is_read_only, or pause the machine, leave "
          "live out, and copy the device before the machine goes on",
          drive.drive_id, drive.path_on_host);
  return HeldMemory::check(machine_->memory());
}

// --- The pause -------------------------------------------------------------------------------------------------------

void Controller::begin(CreateLiveSnapshot& command, Reply reply) {
  if (auto can = check_can_save(); !can) return std::move(reply).give(propagate(can));
  if (auto can = check_live(); !can) return std::move(reply).give(propagate(can));
  if (auto checked = check_paths(command.value, configured_.devices.drives()); !checked)
    return std::move(reply).give(propagate(checked));
  auto hold = std::make_shared<Hold>(Hold{.params = std::move(command.value), .begun_ns = monotonic_ns()});
  enter(Transition::Pausing, "the vCPUs, one of which waits for a device", std::move(reply));
  if (state_ == MachineState::Paused) return drain_to_hold(hold);
  pause_for([this, hold] { drain_to_hold(hold); });
}

void Controller::drain_to_hold(const std::shared_ptr<Hold>& hold) {
  drain_or_go_on(hold->not_done, [this, hold] { hold_drained(hold); });
}

void Controller::hold_drained(const std::shared_ptr<Hold>& hold) {
  advance_to(Transition::Saving, "the drives' overlays to be on stable storage");
  if (!hold->children)
    writing_.emplace(Writing{.params = hold->params, .progress = std::make_shared<WritingProgress>()});
  auto snapshot = machine_->save();
  if (!snapshot) return refuse_hold(hold, propagate(snapshot));
  hold->snapshot = std::move(*snapshot);
  hold->snapshot.host = this_host_cpu();
  configured_.describe(hold->snapshot);
  if (auto prepared = prepare_freezes(*machine_, hold->params, hold->snapshot); !prepared)
    return refuse_hold(hold, propagate(prepared));
  // Every overlay of a branch is frozen.
  const bool syncs = !hold->params.frozen_drives.empty() || (!hold->children && machine_->writes_to_drives());
  if (!syncs) return hold->children ? make_children(hold) : hold_memory(hold);
  auto begun = makers_.worker->begin([this, hold, base = hold->params.diff ? last_snapshot_ : std::nullopt](
                                         const std::stop_token&) { hold->synced = sync_and_settle(*hold, base); },
                                     [this, hold] {
                                       if (end_) return refuse_hold(hold, has_ended());
                                       if (writing_ && !writing_->cancels.empty())
                                         return refuse_hold(hold, fail(ErrorKind::State, "it was stopped"));
                                       if (!hold->synced) return refuse_hold(hold, propagate(hold->synced));
                                       hold->children ? make_children(hold) : hold_memory(hold);
                                     });
  if (!begun) refuse_hold(hold, propagate(begun));
}

Status Controller::sync_and_settle(Hold& hold, const std::optional<DiffBase>& base) {
  TRY(machine_->sync_drives(hold.snapshot, DriveSync::Layered));
  // A path that cannot be had costs no layer.
  if (!hold.children) {
    auto places = TRY(take_places(hold.params, base, machine_->memory()));
    hold.places.emplace(std::move(places));
    TRY(machine_->note_sync_point());
  }
  hold.settled = true;
  return settle_freezes(*machine_, hold.params, hold.snapshot);
}

void Controller::refuse_hold(const std::shared_ptr<Hold>& hold, std::unexpected<Error> error) {
  if (!hold->settled && !hold->places) return undo_hold(*hold, std::move(error));
  // New files go, and names are given back, by a worker, as they were made: that waits for the disk.
  auto begun = makers_.worker->begin(
      [this, hold](const std::stop_token&) {
        hold->places.reset();
        hold->synced = hold->settled ? drop_freezes(*machine_, hold->params) : Status{};
      },
      [this, hold, error]() mutable {
        if (!hold->synced)
          error = fail(error.error().kind, "{}; {}", error.error().message, hold->synced.error().message);
        undo_hold(*hold, std::move(error));
      });
  if (begun) return;
  hold->places.reset();
  for (const FrozenDrive& each : hold->params.frozen_drives)
    error.error().message +=
        fmt::format("; drive {} may be at {} now: look there before you try again", each.drive_id, each.path_on_host);
  undo_hold(*hold, std::move(error));
}

void Controller::undo_hold(const Hold& hold, std::unexpected<Error> error) {
  (void)end_freezes(hold.params, false);
  machine_->end_snapshot(SnapshotEnd::None);
  std::vector<Reply> cancels;
  if (writing_) cancels = std::move(writing_->cancels);
  writing_.reset();
  for (Reply& cancel : cancels) std::move(cancel).give({});
  if (!cancels.empty()) error.error().message.insert(0, "the snapshot was cancelled (DELETE /snapshot): ");
  go_on_as_before(std::move(error));
}

Result<std::shared_ptr<CopyBound>> Controller::make_bound(const SnapshotCreateParams& params) {
  if (!params.max_copied_mib) return nullptr;
  auto bound = CopyBound::create(machine_->memory(), *params.max_copied_mib << 20,
                                 [this](bool on) { loop_.post([this, on] { machine_->hold_back(on); }); });
  if (!bound) return propagate(bound);
  return std::make_shared<CopyBound>(std::move(*bound));
}

void Controller::hold_memory(const std::shared_ptr<Hold>& hold) {
  auto changes = machine_->changes();
  if (!changes) return refuse_hold(hold, propagate(changes));
  auto bound = make_bound(hold->params);
  if (!bound) return refuse_hold(hold, propagate(bound));
  auto held = machine_->hold_memory();
  if (!held) return refuse_hold(hold, propagate(held));
  writing_->frozen_copies = end_freezes(hold->params, true);
  machine_->undrain();
  if (state_ == MachineState::Running) machine_->resume();
  metrics_.latency.live_snapshot_pause_us.set(us_since(hold->begun_ns));
  hold->snapshot.producer = MAYFLY_VERSION;
  struct Job {
    SnapshotOrder order;
    SnapshotOutcome outcome{};
  };
  const auto job = std::make_shared<Job>(SnapshotOrder{.params = hold->params,
                                                       .snapshot = std::move(hold->snapshot),
                                                       .base = hold->params.diff ? last_snapshot_ : std::nullopt,
                                                       .changes = std::move(*changes),
                                                       .machine = *machine_,
                                                       .loop = loop_,
                                                       .held = std::move(*held),
                                                       .progress = writing_->progress,
                                                       .bound = std::move(*bound),
                                                       .places = std::move(hold->places)});
  auto begun = makers_.worker->begin(
      [job](const std::stop_token& stop) { job->outcome = write_snapshot(std::move(job->order), stop); },
      [this, job, begun_ns = hold->begun_ns] { live_saved(begun_ns, std::move(job->outcome)); });
  if (!begun) {
    job->order.places.reset();
    return leave(answer_of(conclude(hold->begun_ns, {.status = propagate(begun)})));
  }
  writing_->reply.emplace(leave_unanswered());
  go_on();
}

void Controller::live_saved(std::uint64_t begun_ns, SnapshotOutcome outcome) {
  machine_->hold_back(false);
  Reply reply = std::move(*writing_->reply);
  Status status = conclude(begun_ns, std::move(outcome));
  std::move(reply).give(answer_of(std::move(status)));
  if (end_ && transition_ == Transition::None) end_vcpus();
}

// --- Meanwhile -------------------------------------------------------------------------------------------------------

Result<Answer> Controller::apply(const GetSnapshot&) {
  if (!writing_) return SnapshotStatus{};
  return SnapshotStatus{.is_written = true,
                        .snapshot_path = writing_->params.snapshot_path,
                        .mem_file_path = writing_->params.mem_file_path,
                        .live = writing_->params.live,
                        .done_bytes = writing_->progress->done,
                        .total_bytes = writing_->progress->total};
}

void Controller::begin(const CancelSnapshot&, Reply reply) {
  if (!writing_)
    return std::move(reply).give(
        fail(ErrorKind::State, "no snapshot is being written, so there is none to cancel (GET /snapshot)"));
  writing_->cancels.push_back(std::move(reply));
  makers_.worker->stop();
}

}  // namespace mayfly
