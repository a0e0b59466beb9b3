// The controller's transitions that take, load and record.

#include "snapshot/file_pair.h"
#include "snapshot/host_cpu.h"
#include "snapshot/working_set.h"
#include "vmm/base/clock.h"
#include "vmm/base/try.h"
#include "vmm/machine/controller.h"
#include "vmm/machine/freezes.h"

#include <unistd.h>

#include <algorithm>
#include <utility>

namespace mayfly {

// --- A snapshot: drained, saved, written -----------------------------------------------------------------------------

void Controller::begin(CreateSnapshot& command, Reply reply) {
  const SnapshotCreateParams& params = command.value;
  if (auto can = check_can_save(); !can) return std::move(reply).give(propagate(can));
  if (auto checked = check_paths(params, configured_.devices.drives()); !checked)
    return std::move(reply).give(propagate(checked));
  const std::uint64_t begun = monotonic_ns();
  enter(Transition::Draining, "the devices' requests to come back", std::move(reply));
  if (auto armed = arm_patience([this] {
        const std::string undrained = machine_->undrained();
        machine_->undrain();
        leave(fail(
            ErrorKind::System,
            "no snapshot was taken: the requests of {} did not come back in {} s; the machine is paused as before: "
            "look at its storage",
            undrained, options_.patience_ns / 1'000'000'000));
      });
      !armed)
    return leave(propagate(armed));
  machine_->drain([this, params, begun] { save_drained(params, begun); });
}

void Controller::save_drained(const SnapshotCreateParams& params, std::uint64_t begun_ns) {
  advance_to(Transition::Saving, "the snapshot's files to be written");
  const auto refuse = [this, &params](std::unexpected<Error> error) {
    (void)end_freezes(params, false);
    machine_->undrain();
    leave(std::move(error));
  };
  auto snapshot = machine_->save();
  if (!snapshot) return refuse(propagate(snapshot));
  configured_.describe(*snapshot);
  if (auto prepared = prepare_freezes(*machine_, params, *snapshot); !prepared) return refuse(propagate(prepared));
  // Looked at for a full snapshot as well: a diff that follows begins here.
  auto changes = machine_->changes();
  if (!changes) return refuse(propagate(changes));
  snapshot->producer = MAYFLY_VERSION;
  snapshot->host = this_host_cpu();
  struct Job {
    SnapshotOrder order;
    SnapshotOutcome outcome{};
  };
  // A diff of nothing is everything.
  writing_.emplace(Writing{.params = params, .progress = std::make_shared<WritingProgress>()});
  const auto job = std::make_shared<Job>(SnapshotOrder{.params = params,
                                                       .snapshot = std::move(*snapshot),
                                                       .base = params.diff ? last_snapshot_ : std::nullopt,
                                                       .changes = std::move(*changes),
                                                       .machine = *machine_,
                                                       .loop = loop_,
                                                       .progress = writing_->progress});
  auto begun = makers_.worker->begin(
      [job](const std::stop_token& stop) { job->outcome = write_snapshot(std::move(job->order), stop); },
      [this, job, begun_ns] { saved(begun_ns, std::move(job->outcome)); });
  if (begun) return;
  writing_.reset();
  refuse(propagate(begun));
}

std::vector<std::string> Controller::end_freezes(const SnapshotCreateParams& params, bool counts) {
  std::vector<std::string> copies;
  for (const FrozenDrive& each : params.frozen_drives)
    if (machine_->drive(each.drive_id).end_freeze(counts))
      configured_.devices.add_layer(each.drive_id, each.path_on_host);
    else if (counts)
      copies.push_back(each.path_on_host);
  return copies;
}

std::string Controller::kept_layers(const SnapshotCreateParams& params, const std::vector<std::string>& copies) {
  std::string sentence;
  for (const FrozenDrive& each : params.frozen_drives)
    if (std::ranges::find(copies, each.path_on_host) == copies.end())
      sentence +=
          fmt::format("; keep {}: it is a layer of the machine's drive {} now", each.path_on_host, each.drive_id);
  return sentence;
}

void Controller::saved(std::uint64_t begun_ns, SnapshotOutcome outcome) {
  (void)end_freezes(writing_->params, outcome.counts.has_value());
  if (outcome.counts && writing_->params.mem_file_path.empty() && !end_)
    stays_drained_ = true;
  else
    machine_->undrain();
  Status status = conclude(begun_ns, std::move(outcome));
  leave(answer_of(std::move(status)));
}

Status Controller::conclude(std::uint64_t begun_ns, SnapshotOutcome outcome) {
  Writing written = std::move(*writing_);
  writing_.reset();
  machine_->end_snapshot(!outcome.counts                        ? SnapshotEnd::None
                         : written.params.mem_file_path.empty() ? SnapshotEnd::StateAlone
                                                                : SnapshotEnd::Whole);
  if (!outcome.counts) {
    for (const std::string& copy : written.frozen_copies) (void)::unlink(copy.c_str());
    if (written.params.live)
      outcome.status = fail(outcome.status.error().kind, "{}{}", outcome.status.error().message,
                            kept_layers(written.params, written.frozen_copies));
  }
  for (Reply& cancel : written.cancels)
    std::move(cancel).give(
        outcome.counts
            ? Result<Answer>{fail(ErrorKind::State, "the snapshot was complete before it could be cancelled")}
            : Result<Answer>{});
  if (!written.cancels.empty() && !outcome.counts)
    return propagate(outcome.status, "the snapshot was cancelled (DELETE /snapshot)");
  const SnapshotCreateParams& params = written.params;
  // Without its memory it is no base of a diff.
  if (outcome.counts && !params.mem_file_path.empty()) {
    const bool is_diff = params.diff && last_snapshot_;
    DiffBase taken{.id = *outcome.counts, .may_be_diff = true, .data = std::move(outcome.data)};
    if (is_diff) {
      taken.rests_on_loaded = last_snapshot_->rests_on_loaded;
      taken.needs = std::move(last_snapshot_->needs);
      if (!outcome.merged) taken.needs.push_back(last_snapshot_->id);
    }
    last_snapshot_ = std::move(taken);
  }
  if (!outcome.status) return std::move(outcome.status);
  Gauge& latency = params.diff ? metrics_.latency.diff_create_snapshot_us : metrics_.latency.full_create_snapshot_us;
  latency.set(us_since(begun_ns));
  log_.info("snapshot {} taken to {} and {} in {} us", format_snapshot_id(*outcome.counts), params.snapshot_path,
            params.mem_file_path.empty() ? "no memory file" : params.mem_file_path, latency.value());
  return {};
}

void Controller::stay_drained_no_more() {
  if (std::exchange(stays_drained_, false)) machine_->undrain();
}

// --- A load ----------------------------------------------------------------------------------------------------------

void Controller::begin(LoadSnapshot& command, Reply reply) {
  const std::uint64_t begun = monotonic_ns();
  if (!configured_.empty())
    return std::move(reply).give(
        fail(ErrorKind::State,
             "a machine has been configured; a snapshot brings all of its own, but logger, metrics, serial and "
             "metadata: send PUT /snapshot/load to a fresh Mayfly"));
  if (command.value.working_set && command.value.working_set->record)
    if (auto checked = check_recording_path(command.value); !checked) return std::move(reply).give(propagate(checked));
  (void)need_prepared_vm();  // it is made meanwhile; finish_load() tells what is wrong with it
  auto load = begin_load(std::move(command.value));
  if (!load) return std::move(reply).give(propagate(load));
  const bool served = load->params.backend == MemoryBackend::Uffd;
  if (!served && !reads_memory(*load)) {
    auto memory = memory_of_file(*load, log_, options_.enter_thread);
    // Before the answer: a failed load closes its images, and removes overlays that it has made.
    Status loaded = finish_load(std::move(*load), std::move(memory), begun);
    return std::move(reply).give(answer_of(std::move(loaded)));
  }
  struct Job {
    Load load;
    std::optional<Result<RestoredMemory>> memory{};
  };
  const auto job = std::make_shared<Job>(std::move(*load));
  enter(Transition::Loading, served ? "the page server to give the first page" : "the memory file to be read",
        std::move(reply));
  auto started = makers_.worker->begin(
      [this, job, served](const std::stop_token& stop) {
        job->memory.emplace(served ? memory_of_page_server(job->load, stop)
                                   : memory_of_file(job->load, log_, options_.enter_thread, stop));
      },
      [this, job, begun] {
        if (end_) return leave(has_ended());
        // Before leave(): the failed load closes its images, which the next load may open.
        Status loaded = finish_load(std::move(job->load), std::move(*job->memory), begun);
        leave(answer_of(std::move(loaded)));
      });
  if (!started) leave(propagate(started));
}

Status Controller::finish_load(Load load, Result<RestoredMemory> memory, std::uint64_t begun_ns) {
  const SnapshotLoadParams& params = load.params;
  const Snapshot& snapshot = *load.snapshot;
  RestoredMemory restored = TRY(std::move(memory));
  TRY(need_prepared_vm());
  DevicePlans lent;
  TRY(load.devices.lend(lent));
  lent.mmds = snapshot.mmds;
  lent.channels = load.channels.plans();
  std::unique_ptr<LoopTimer> recording_timer;
  const bool records = params.working_set && params.working_set->record;
  if (records) recording_timer = TRY(LoopTimer::create(loop_, [this] { end_recording(); }));
  RestorePlan plan{.prepared = std::move(*prepared_),
                   .snapshot = load.snapshot,
                   .memory = std::move(restored),
                   .devices = std::move(lent),
                   .console = configured_.console(),
                   .clock_realtime = params.clock_realtime,
                   .allow_changed_drives = params.allow_changed_drives,
                   .revertible = params.revertible,
                   .is_branch = load.is_branch};
  prepared_.reset();
  machine_ = TRY(makers_.restore(std::move(plan), context()));
  configured_.take_over(snapshot, std::move(load.devices), std::move(load.channels));
  if (!load.is_branch)
    last_snapshot_ =
        DiffBase{.id = snapshot.id, .may_be_diff = params.backend_paths.size() > 1, .rests_on_loaded = true};
  loaded_ = true;
  if (params.revertible) reverts_to_ = last_snapshot_;
  if (params.resume_vm) machine_->resume();
  go_live(params.resume_vm ? MachineState::Running : MachineState::Paused);
  machine_->fetch_working_set();
  if (records) {
    recording_.emplace(params.working_set->path, snapshot.id, params.working_set->until_boot_timer);
    recording_timer_ = std::move(recording_timer);
    recording_timer_->listen();
    if (params.working_set->for_ms) recording_timer_->arm(begun_ns + *params.working_set->for_ms * kNsPerMs);
  }
  if (load.is_branch) return {};
  metrics_.latency.load_snapshot_us.set(us_since(begun_ns));
  log_.info("loaded snapshot {} with {} vCPUs and {} MiB in {} us", format_snapshot_id(snapshot.id),
            snapshot.vcpus.size(), snapshot.machine.mem_size_mib, metrics_.latency.load_snapshot_us.value());
  return {};
}

// --- Back to the snapshot: paused, drained, reverted -----------------------------------------------------------------

Status Controller::check_revert() const {
  if (!loaded_)
    return fail(
        ErrorKind::State,
        "the machine was booted, and has no snapshot to go back to: take one, and load it into a fresh Mayfly with "
        "revertible set to true");
  return machine_->check_revert();
}

void Controller::begin(const RevertSnapshot& command, Reply reply) {
  if (auto can = check_not_writing(); !can) return std::move(reply).give(propagate(can));
  if (auto can = check_revert(); !can) return std::move(reply).give(propagate(can));
  const std::uint64_t begun = monotonic_ns();
  const SnapshotRevertParams params = command.value;
  enter(Transition::Pausing, "the vCPUs, one of which waits for a device", std::move(reply));
  if (state_ == MachineState::Paused) return drain_to_revert(params, begun);
  pause_for([this, params, begun] { drain_to_revert(params, begun); });
}

void Controller::drain_or_go_on(const char* not_done, std::function<void()> drained) {
  advance_to(Transition::Draining, "the devices' requests to come back");
  if (auto armed = arm_patience([this, not_done] {
        const std::string undrained = machine_->undrained();
        go_on_as_before(fail(ErrorKind::System,
                             "{}: the requests of {} did not come back in {} s; the machine goes on as before: look at "
                             "its storage",
                             not_done, undrained, options_.patience_ns / 1'000'000'000));
      });
      !armed)
    return go_on_as_before(propagate(armed));
  machine_->drain(std::move(drained));
}

void Controller::go_on_as_before(std::unexpected<Error> error) {
  machine_->undrain();
  if (state_ == MachineState::Running) machine_->resume();
  leave(std::move(error));
}

void Controller::drain_to_revert(const SnapshotRevertParams& params, std::uint64_t begun_ns) {
  drain_or_go_on("the machine was not reverted", [this, params, begun_ns] { revert_drained(params, begun_ns); });
}

void Controller::revert_drained(const SnapshotRevertParams& params, std::uint64_t begun_ns) {
  advance_to(Transition::Reverting, "the machine to be reverted");
  RevertOutcome outcome = machine_->revert(params.clock_realtime);
  if (!outcome.status && !outcome.is_half_done) return go_on_as_before(propagate(outcome.status));
  if (!outcome.status) {
    // Neither what it was nor what it is to be.
    auto error = propagate(outcome.status, "the machine was half reverted, and has ended");
    finish({EndReason::HalfReverted, error.error().message});
    return leave(std::move(error));
  }
  last_snapshot_ = reverts_to_;
  state_ = params.resume_vm ? MachineState::Running : MachineState::Paused;
  if (params.resume_vm) machine_->resume();
  metrics_.snapshot.revert_count.add();
  metrics_.snapshot.reverted_bytes.add(outcome.dropped);
  metrics_.latency.revert_snapshot_us.set(us_since(begun_ns));
  log_.info("reverted to snapshot {} in {} us; {} KiB of memory had changed", format_snapshot_id(last_snapshot_->id),
            metrics_.latency.revert_snapshot_us.value(), outcome.dropped >> 10);
  leave({});
}

// --- Working sets ----------------------------------------------------------------------------------------------------

Status Controller::write_recording(std::function<void(Status)> written) {
  struct Job {
    std::string path;
    const GuestMemory& memory;
    std::vector<std::uint64_t> touched;
    WorkingSet set;
    Status status{};
  };
  const auto job = std::make_shared<Job>(
      recording_->path, machine_->memory(), machine_->touched(),
      WorkingSet{.snapshot = recording_->snapshot, .memory_size = configured_.config.machine.mem_size_mib * kMiB});
  return makers_.worker->begin(
      [job](const std::stop_token& stop) {
        job->set.ranges = ranges_in_order(job->touched);
        job->set.written = changed_pages(job->memory, job->touched, stop);
        job->status = write_working_set(job->path, job->set);
      },
      [this, job, written = std::move(written)] {
        if (job->status) {
          machine_->stop_recording();
          log_.info("working set recorded to {}: {} pages in {} ranges, {} of them changed", job->path,
                    job->touched.size(), job->set.ranges.size(), bytes_in(job->set.written) / kGuestPageSize);
          recording_.reset();
        }
        written(std::move(job->status));
      });
}

void Controller::begin(const FinishWorkingSet&, Reply reply) {
  if (!recording_)
    return std::move(reply).give(
        fail(ErrorKind::State,
             "no working set is being recorded: load a snapshot with working_set, whose mode is Record, first"));
  enter(Transition::Recording, "the working set to be written", std::move(reply));
  auto begun = write_recording([this](Status written) { leave(answer_of(std::move(written))); });
  if (!begun) leave(propagate(begun));
}

void Controller::end_recording() {
  if (!recording_ || end_) return;
  if (transition_ != Transition::None) {
    recording_is_over_ = true;
    return;
  }
  begin(FinishWorkingSet{}, Reply{[this](const Result<Answer>& answer) {
          if (!answer) log_.error("the working set is not written: {}", answer.error().message);
        }});
}

}  // namespace mayfly
