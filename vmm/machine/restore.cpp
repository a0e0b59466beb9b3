#include "vmm/machine/restore.h"

#include "vmm/base/clock.h"
#include "vmm/base/try.h"
#include "vmm/boot/identity_page.h"
#include "vmm/boot/layout.h"
#include "vmm/kvm/arch_capabilities.h"
#include "vmm/kvm/cpu_features.h"
#include "vmm/kvm/vcpu_snapshot.h"

#include <algorithm>
#include <ctime>
#include <optional>
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

/// `is_first_shown`: the first has its CPUID already.
Status restore_vcpus(const Snapshot& snapshot, const std::vector<Vcpu>& vcpus, std::uint64_t elapsed,
                     bool is_first_shown) {
  for (const Vcpu& vcpu : vcpus) {
    const VcpuState& state = snapshot.vcpus[vcpu.index()];
    if (vcpu.index() != 0 || !is_first_shown) TRY(vcpu.set_cpuid(state.cpuid));
    TRY(restore_vcpu(vcpu, state, cycles_in(elapsed, state.tsc_khz)));
  }
  return {};
}

Status revert_vcpus(const RevertPoint& point, const std::vector<Vcpu>& vcpus, std::uint64_t elapsed) {
  for (const Vcpu& vcpu : vcpus) {
    const VcpuState& state = point.snapshot->vcpus[vcpu.index()];
    TRY(revert_vcpu(vcpu, state, point.left_out[vcpu.index()], cycles_in(elapsed, state.tsc_khz)));
  }
  return {};
}

/// After the vCPUs, from whose counters the clock is computed.
Status restore_clock(const Board& board, const Snapshot& snapshot, const std::vector<Vcpu>& vcpus,
                     std::uint64_t elapsed) {
  kvm_clock_data clock{};
  clock.clock = snapshot.clock.guest_ns + elapsed;
  TRY(board.vm->set_clock(clock));
  for (const Vcpu& vcpu : vcpus) vcpu.notify_paused();
  return {};
}

/// `kvm_has_interrupt`: KVM holds the undelivered interrupt already.
void restore_platform(Board& board, const PlatformState& state, bool kvm_has_interrupt = false) {
  board.ioapic.restore(state.ioapic);
  board.pic.restore(state.pic);
  board.pit.restore(state.pit);
  board.console.serial().restore(state.serial);
  board.i8042.restore(state.i8042);
  board.sleep_ports.restore(state.sleep_ports);
  board.vcpus->restore_undelivered_interrupt(state.undelivered_interrupt, kvm_has_interrupt);
}

/// The guest learns that it is a clone by this interrupt, before its first instruction.
void tell_of_identity(Board& board) { InterruptLine{board.wiring, layout::kEventGsi}.pulse(); }

/// Before the vCPUs run.
Result<RevertPoint> note_revert_point(const Board& board, std::shared_ptr<const Snapshot> snapshot,
                                      const std::vector<Vcpu>& vcpus) {
  RevertPoint point{.snapshot = std::move(snapshot)};
  const auto indices = TRY(board.kvm.msr_indices());
  const KeptMsrs kept = kept_msrs(indices, board.own_msrs);
  for (const Vcpu& vcpu : vcpus) {
    auto left_out = TRY(msrs_left_out(vcpu, kept, point.snapshot->vcpus[vcpu.index()]));
    point.left_out.push_back(std::move(left_out));
  }
  return point;
}

/// Whether KVM holds an interrupt of the PIC's for the first vCPU, which it gives to the guest and to nobody else. Error:
/// another one than the snapshot's.
Result<bool> check_interrupt(const Board& board, const std::optional<std::uint8_t>& saved) {
  if (!board.vcpus->kvm_may_have_interrupt()) return false;
  const VcpuState state = TRY(save_interrupt_state(board.vcpus->vcpus().front()));
  const auto held = board.vcpus->undelivered_interrupt(state);
  if (!held) return false;
  if (held == saved) return true;
  return fail(
      ErrorKind::State,
      "KVM has an interrupt of the PIC (vector {:#x}) for vCPU 0 that only the guest can take: resume the machine "
      "until it has, or load the snapshot into a fresh Mayfly",
      *held);
}

/// From the first change on.
Result<std::uint64_t> revert_checked(Board& board, bool clock_realtime, bool kvm_has_interrupt) {
  const RevertPoint& point = *board.revert_point;
  const Snapshot& snapshot = *point.snapshot;
  // Memory first: KVM writes to it as vCPUs are set.
  const std::uint64_t dropped = TRY(drop_private_pages(board.memory));
  TRY(board.virtio.revert(snapshot));
  TRY(renew_identity(board.memory));
  const std::uint64_t elapsed = time_since(snapshot.clock, clock_realtime);
  TRY(revert_vcpus(point, board.vcpus->vcpus(), elapsed));
  TRY(restore_clock(board, snapshot, board.vcpus->vcpus(), elapsed));
  restore_platform(board, snapshot.platform, kvm_has_interrupt);
  board.boot_timer.forget();
  board.virtio.interrupt_unacknowledged();
  board.console.offer_again();
  tell_of_identity(board);
  return dropped;
}

/// IA32_ARCH_CAPABILITIES as the guest was shown it; empty where it has seen none.
std::optional<std::uint64_t> shown_capabilities(const VcpuState& vcpu) {
  if (!shows_capabilities(vcpu.cpuid)) return std::nullopt;
  const auto found = std::ranges::find(vcpu.msrs, kMsrArchCapabilities, &kvm_msr_entry::index);
  return found == vcpu.msrs.end() ? std::nullopt : std::optional<std::uint64_t>{found->data};
}

/// Asks KVM only where the processor's word is not enough: where the host is itself a guest, that takes as long as the rest of a
/// load.
Status check_host_features(PreparedVm& prepared, const Snapshot& snapshot) {
  const HostCpu& saved = snapshot.host;
  const VcpuState& vcpu = snapshot.vcpus.front();  // all have the same features
  CpuView shown{.cpuid = vcpu.cpuid, .capabilities = shown_capabilities(vcpu)};
  CpuView offered;
  std::unique_ptr<kvm_abi::CpuidTable> table;
  if (is_same_host_kind(saved, this_host_cpu()) && processor_has(shown.cpuid)) {
    shown.cpuid = {};  // nothing of it is lacking
  } else {
    TRY(prepared.learn_cpuid());
    table = prepared.take_cpuid();
    offered.cpuid = std::span{table->entries}.first(table->count);
  }
  if (shown.capabilities) {
    const auto capabilities = TRY(prepared.feature_msr(kMsrArchCapabilities));
    offered.capabilities = capabilities;
  }
  return check_features(shown, fmt::format("{}, family {:#x}, model {:#x}", saved.vendor, saved.family, saved.model),
                        offered);
}

}  // namespace

Result<std::unique_ptr<Board>> restore(RestorePlan plan, MachineContext context) {
  const Snapshot& snapshot = *plan.snapshot;
  if (!plan.is_branch) TRY(check_host_features(plan.prepared, snapshot));
  GuestMemory& memory = plan.memory.memory;
  // Slots before anything on KVM's I/O bus: the other order waits for grace periods. The first vCPU is made meanwhile.
  Vm* const vm = TRY(plan.prepared.vm());
  TRY(vm->map_memory(memory, snapshot.machine.track_dirty_pages));
  PreparedVm::Parts prepared = TRY(std::move(plan.prepared).take());
  if (snapshot.machine.track_dirty_pages) memory.track_writes();
  auto board = std::make_unique<Board>(std::move(context), std::move(prepared.kvm), std::move(prepared.vm),
                                       std::move(memory), std::move(plan.console));
  board->tracks_changes = snapshot.machine.track_dirty_pages;
  board->userfault = std::move(plan.memory.userfault);
  board->page_server = std::move(plan.memory.page_server);
  board->recorder = std::move(plan.memory.recorder);
  board->own_msrs =
      own_msr_indices(snapshot.cpu ? std::span<const MsrEdit>{snapshot.cpu->msrs} : std::span<const MsrEdit>{});
  if (!plan.memory.needed_first.ranges.empty())
    board->replay.emplace(board->context.loop, board->memory, plan.memory.needed_first);
  TRY(board->attach_devices(snapshot.platform.has_boot_timer));
  TRY(board->plug(std::move(plan.devices)));
  TRY(board->virtio.restore(snapshot, plan.allow_changed_drives));
  TRY(renew_identity(board->memory));
  auto vcpus = TRY(make_vcpus(*board, std::move(prepared.first_vcpu), snapshot.vcpus.size()));
  const std::uint64_t elapsed = time_since(snapshot.clock, plan.clock_realtime);
  TRY(restore_vcpus(snapshot, vcpus, elapsed, prepared.has_cpuid));
  TRY(restore_clock(*board, snapshot, vcpus, elapsed));
  if (plan.revertible) {
    board->virtio.note_revert_point();
    TRY(board->virtio.can_revert());
    board->revert_point = TRY(note_revert_point(*board, plan.snapshot, vcpus));
  }
  TRY(board->make_timers());
  // The last step that can fail: its threads post to the loop that they have parked.
  TRY(board->start_vcpus(std::move(vcpus), std::move(prepared.first_thread)));
  board->pit_timer->listen();
  restore_platform(*board, snapshot.platform);
  board->start();
  tell_of_identity(*board);
  return board;
}

Status check_revert(const Board& board) {
  if (!board.revert_point)
    return fail(ErrorKind::State,
                "the machine keeps nothing to go back to: load the snapshot with revertible set to true");
  return board.virtio.can_revert();
}

RevertOutcome revert(Board& board, bool clock_realtime) {
  if (auto can = check_revert(board); !can) return {.status = std::move(can)};
  auto kvm_has_interrupt = check_interrupt(board, board.revert_point->snapshot->platform.undelivered_interrupt);
  if (!kvm_has_interrupt) return {.status = propagate(kvm_has_interrupt)};
  for (const Vcpu& vcpu : board.vcpus->vcpus()) {
    const RevertPoint& point = *board.revert_point;
    auto can = check_can_go_back(vcpu, point.snapshot->vcpus[vcpu.index()], point.left_out[vcpu.index()]);
    if (!can) return {.status = std::move(can)};
  }
  auto done = revert_checked(board, clock_realtime, *kvm_has_interrupt);
  if (!done) return {.status = propagate(done), .is_half_done = true};
  return {.dropped = *done};
}

}  // namespace mayfly
