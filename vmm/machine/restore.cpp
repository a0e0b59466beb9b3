#include "vmm/machine/restore.h"

#include "vmm/base/clock.h"
#include "vmm/base/try.h"
#include "vmm/boot/generation_id.h"
#include "vmm/boot/layout.h"
#include "vmm/kvm/vcpu_snapshot.h"

#include <ctime>
#include <utility>

namespace mayfly {
namespace {

/// Cycles of a counter of `khz` in `ns`.
std::uint64_t cycles_in(std::uint64_t ns, std::uint32_t khz) {
  return static_cast<std::uint64_t>(static_cast<__uint128_t>(ns) * khz / 1'000'000);
}

/// By how much the guest's clocks go ahead.
std::uint64_t time_since(const ClockState& clock, bool wanted) {
  const std::uint64_t now = clock_ns(CLOCK_REALTIME);
  return wanted && now > clock.realtime_ns ? now - clock.realtime_ns : 0;
}

/// vCPUs, and then the clock that is computed from their counters.
Status restore_time_and_vcpus(const Board& board, const Snapshot& snapshot, const std::vector<Vcpu>& vcpus,
                              std::uint64_t elapsed) {
  for (const Vcpu& vcpu : vcpus) {
    const VcpuState& state = snapshot.vcpus[vcpu.index()];
    TRY(restore_vcpu(vcpu, state, cycles_in(elapsed, state.tsc_khz)));
  }
  kvm_clock_data clock{};
  clock.clock = snapshot.clock.guest_ns + elapsed;
  TRY(board.vm->set_clock(clock));
  for (const Vcpu& vcpu : vcpus) vcpu.notify_paused();
  return {};
}

void restore_platform(Board& board, const PlatformState& state) {
  board.ioapic.restore(state.ioapic);
  board.pic.restore(state.pic);
  board.pit.restore(state.pit);
  board.console.serial().restore(state.serial);
  board.i8042.restore(state.i8042);
  board.sleep_ports.restore(state.sleep_ports);
  board.vcpus->restore_undelivered_interrupt(state.undelivered_interrupt);
}

}  // namespace

Result<std::unique_ptr<Board>> restore(RestorePlan plan, MachineContext context) {
  const Snapshot& snapshot = *plan.snapshot;
  PreparedVm::Parts prepared = TRY(std::move(plan.prepared).take());
  GuestMemory& memory = plan.memory.memory;
  // Slots before anything on KVM's I/O bus: the other order waits for grace periods.
  TRY(prepared.vm->map_memory(memory, snapshot.machine.track_dirty_pages));
  if (snapshot.machine.track_dirty_pages) memory.track_writes();
  auto board = std::make_unique<Board>(std::move(context), std::move(prepared.kvm), std::move(prepared.vm),
                                       std::move(memory), std::move(plan.console));
  board->tracks_changes = snapshot.machine.track_dirty_pages;
  board->userfault = std::move(plan.memory.userfault);
  board->recorder = std::move(plan.memory.recorder);
  board->own_msrs =
      own_msr_indices(snapshot.cpu ? std::span<const MsrEdit>{snapshot.cpu->msrs} : std::span<const MsrEdit>{});
  if (!plan.memory.needed_first.empty())
    board->replay.emplace(board->context.loop, board->memory, plan.memory.needed_first);
  TRY(board->attach_devices(snapshot.platform.has_boot_timer));
  TRY(board->plug(std::move(plan.devices)));
  TRY(board->virtio.restore(snapshot, plan.allow_changed_drives));
  TRY(renew_generation_id(board->memory));
  auto vcpus = TRY(make_vcpus(*board, std::move(prepared.first_vcpu), snapshot.vcpus.size()));
  TRY(restore_time_and_vcpus(*board, snapshot, vcpus, time_since(snapshot.clock, plan.clock_realtime)));
  TRY(board->make_timers());
  // The last step that can fail: its threads post to the loop that they have parked.
  TRY(board->start_vcpus(std::move(vcpus), std::move(prepared.first_thread)));
  board->pit_timer->listen();
  restore_platform(*board, snapshot.platform);
  board->start();
  // The guest learns of the new id by this interrupt, before its first instruction.
  InterruptLine{board->wiring, layout::kEventGsi}.pulse();
  return board;
}

}  // namespace mayfly
