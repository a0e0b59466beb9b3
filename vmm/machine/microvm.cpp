#include "vmm/machine/microvm.h"

#include "vmm/base/clock.h"
#include "vmm/machine/restore.h"
#include "vmm/machine/save.h"

#include <utility>

namespace mayfly {
namespace {

/// How long a finished machine waits for the reader of its console.
constexpr std::uint64_t kConsoleDeadlineNs = 200'000'000;

}  // namespace

Microvm::Microvm(std::unique_ptr<Board> board) : board_(std::move(board)) {
  board_->on_parked = [this] { on_parked(); };
  board_->virtio.freeze();
}

Microvm::~Microvm() { board_->on_parked = nullptr; }

void Microvm::pause(Done paused) {
  paused_ = std::move(paused);
  board_->vcpus->request_pause();
  // Parked as they are, nobody would tell.
  if (board_->vcpus->parked()) board_->context.loop.post([this] { on_parked(); });
}

void Microvm::on_parked() {
  // The last one may have parked and been resumed before this call.
  if (!paused_ || !board_->vcpus->parked()) return;
  if (!std::exchange(frozen_, true)) {
    for (const Vcpu& vcpu : board_->vcpus->vcpus()) vcpu.notify_paused();
    board_->virtio.freeze();
  }
  std::exchange(paused_, nullptr)();
}

void Microvm::resume() {
  paused_ = nullptr;
  frozen_ = false;
  board_->virtio.thaw();
  board_->vcpus->resume();
}

void Microvm::hold_back(bool on) {
  board_->vcpus->hold_back(on);
  if (on) board_->context.metrics.snapshot.held_back_count.add();
}

void Microvm::drain(Done drained) {
  board_->virtio.drain([this, drained = std::move(drained)] {
    if (board_->recorder) board_->recorder->ignore(true);  // what a snapshot reads is not what the guest needs
    drained();
  });
}

void Microvm::undrain() {
  if (board_->recorder) board_->recorder->ignore(false);
  board_->virtio.undrain();
}

std::string Microvm::undrained() const { return board_->virtio.undrained(); }

Result<Snapshot> Microvm::save() { return mayfly::save(*board_); }

Status Microvm::sync_drives(Snapshot& snapshot, DriveSync which) { return board_->virtio.sync(snapshot, which); }

bool Microvm::writes_to_drives() const { return board_->virtio.writes_to_drives(); }

Status Microvm::note_sync_point() { return board_->virtio.note_sync_point(); }

Result<std::shared_ptr<HeldMemory>> Microvm::hold_memory() { return HeldMemory::hold(board_->memory); }

Result<std::optional<PageRanges>> Microvm::changes() {
  if (!board_->tracks_changes) return std::nullopt;
  if (auto taken = take_changes(); !taken) return propagate(taken);
  return pages_of(board_->memory, changed_);
}

Status Microvm::take_changes() {
  // Both logs are kept until the snapshot has succeeded, also if one of them cannot be read: KVM and the devices have
  // forgotten them.
  const std::vector<std::uint64_t> written = board_->memory.take_written();
  changed_.resize(written.size());
  for (std::size_t i = 0; i < written.size(); ++i) changed_[i] |= written[i];
  const auto take = [&vm = *board_->vm](std::uint32_t region, std::span<std::uint64_t> bitmap) {
    return vm.take_dirty_log(region, bitmap);
  };
  return add_dirty_log(board_->memory, take, changed_);
}

void Microvm::end_snapshot(SnapshotEnd end) {
  if (end == SnapshotEnd::Whole) changed_.clear();
  board_->virtio.end_snapshot(end != SnapshotEnd::None);
}

Status Microvm::check_revert() const { return mayfly::check_revert(*board_); }

RevertOutcome Microvm::revert(bool clock_realtime) {
  // Before pages are dropped: what is written from here on, by KVM as well, differs from the snapshot.
  if (board_->tracks_changes)
    if (auto taken = take_changes(); !taken) return {.status = std::move(taken)};
  RevertOutcome outcome = mayfly::revert(*board_, clock_realtime);
  if (outcome.status) changed_.clear();
  return outcome;
}

void Microvm::fetch_working_set() {
  if (board_->replay) board_->replay->begin();
}

std::vector<std::uint64_t> Microvm::touched() const { return board_->recorder->touched(); }

void Microvm::stop_recording() { board_->recorder->stop(); }

Status Microvm::press_ctrl_alt_del() {
  if (board_->i8042.press_ctrl_alt_del()) return {};
  return fail(ErrorKind::State,
              "the guest does not listen to its keyboard: its kernel has no i8042 driver, or has not started it yet");
}

BlockDevice& Microvm::drive(std::string_view id) { return board_->virtio.drive(id); }

NetDevice& Microvm::network_interface(std::string_view id) { return board_->virtio.network_interface(id); }

void Microvm::drain_console(Done written) {
  console_written_ = std::move(written);
  const auto finish = [this] {
    if (console_written_) std::exchange(console_written_, nullptr)();
  };
  auto timer = LoopTimer::create(board_->context.loop, finish);
  if (!timer) return finish();
  console_timer_ = std::move(*timer);
  console_timer_->listen();
  console_timer_->arm(monotonic_ns() + kConsoleDeadlineNs);
  board_->console.when_drained(finish);
}

}  // namespace mayfly
