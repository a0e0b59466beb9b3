#include "vmm/machine/boot.h"

#include "vmm/base/try.h"
#include "vmm/boot/boot.h"
#include "vmm/kvm/boot_msrs.h"
#include "vmm/kvm/cpu_template.h"
#include "vmm/kvm/cpuid.h"

#include <utility>

namespace mayfly {
namespace {

/// The user's MSR edits, made of what this host's KVM has there.
Result<std::vector<MsrValue>> edited_msrs(const Vcpu& vcpu, std::span<const MsrEdit> edits) {
  std::vector<MsrValue> values;
  for (const MsrEdit& edit : edits) {
    auto present = vcpu.msr(edit.address);
    if (!present) return propagate(present, "cpu-config");
    values.push_back({.index = edit.address, .value = edit.bits.apply(*present)});
  }
  return values;
}

Status check_capabilities(const Vm& vm, std::span<const KvmCapabilityEdit> capabilities) {
  for (const KvmCapabilityEdit& capability : capabilities)
    if (!capability.removed && vm.check_extension(static_cast<int>(capability.number)) <= 0)
      return fail(ErrorKind::Unsupported, "cpu-config: this host's KVM lacks capability {}", capability.number);
  return {};
}

/// CPUID and MSRs of all vCPUs.
Status set_vcpus_up(const std::vector<Vcpu>& vcpus, BootPlan& plan) {
  const CpuIdentity identity{.vcpu_count = plan.machine.vcpu_count,
                             .smt = plan.machine.smt,
                             .tsc_deadline = plan.prepared.tsc_deadline(),
                             .tsc_khz = vcpus.front().tsc_khz()};
  const std::unique_ptr<kvm_abi::CpuidTable> table = plan.prepared.take_cpuid();
  kvm_abi::CpuidTable& cpuid = *table;
  apply_cpu_template(cpuid, plan.machine.cpu_template);
  TRY(prepare_cpuid(cpuid, identity, plan.cpu.cpuid));
  for (const Vcpu& vcpu : vcpus) {
    set_apic_id(cpuid, vcpu.index(), identity);
    TRY(vcpu.set_cpuid(cpuid));
    TRY(vcpu.set_msrs(kBootMsrs));
    if (plan.cpu.msrs.empty()) continue;
    const auto edited = TRY(edited_msrs(vcpu, plan.cpu.msrs));
    if (auto set = vcpu.set_msrs(edited); !set) return propagate(set, "cpu-config");
  }
  return {};
}

/// The boot processor's registers at its first instruction; the others wait for it.
Status enter_boot_processor(const Vcpu& vcpu, const BootEntry& entry) {
  kvm_sregs special = TRY(vcpu.sregs());
  kvm_regs general{};
  set_entry_registers(entry, special, general);
  TRY(vcpu.set_sregs(special));
  return vcpu.set_regs(general);
}

}  // namespace

Result<std::unique_ptr<Board>> boot(BootPlan plan, MachineContext context) {
  auto memory = TRY(GuestMemory::create({.size_mib = plan.machine.mem_size_mib, .pages = plan.machine.huge_pages}));
  const BootEntry entry = TRY(prepare_boot(memory, {.kernel_fd = plan.kernel_fd,
                                                    .kernel_path = plan.kernel_path,
                                                    .initrd_fd = plan.initrd_fd,
                                                    .initrd_path = plan.initrd_path,
                                                    .command_line = plan.command_line,
                                                    .vcpu_count = plan.machine.vcpu_count,
                                                    .windows = virtio_windows(plan.devices.count())}));
  PreparedVm::Parts prepared = TRY(std::move(plan.prepared).take());
  // Slots before anything on KVM's I/O bus: the other order waits for grace periods.
  TRY(prepared.vm->map_memory(memory, plan.machine.track_dirty_pages));
  if (plan.machine.track_dirty_pages) memory.track_writes();
  auto board = std::make_unique<Board>(std::move(context), std::move(prepared.kvm), std::move(prepared.vm),
                                       std::move(memory), std::move(plan.console));
  board->tracks_changes = plan.machine.track_dirty_pages;
  board->own_msrs = own_msr_indices(plan.cpu.msrs);
  TRY(board->attach_devices(plan.boot_timer));
  TRY(board->plug(std::move(plan.devices)));
  auto vcpus = TRY(make_vcpus(*board, std::move(prepared.first_vcpu), plan.machine.vcpu_count));
  TRY(check_capabilities(*board->vm, plan.cpu.capabilities));
  TRY(set_vcpus_up(vcpus, plan));
  TRY(enter_boot_processor(vcpus.front(), entry));
  TRY(board->make_timers());
  // The last step that can fail: its threads post to the loop that they have parked.
  TRY(board->start_vcpus(std::move(vcpus), std::move(prepared.first_thread)));
  board->start();
  return board;
}

}  // namespace mayfly
