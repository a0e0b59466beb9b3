#include "vmm/machine/boot.h"

#include "vmm/base/try.h"
#include "vmm/boot/boot.h"
#include "vmm/kvm/arch_capabilities.h"
#include "vmm/kvm/boot_msrs.h"
#include "vmm/kvm/cpu_features.h"
#include "vmm/kvm/cpu_template.h"
#include "vmm/kvm/cpuid.h"

#include <span>
#include <utility>

#include <fmt/ranges.h>

namespace mayfly {
namespace {

/// A new vCPU has what KVM offers.
Status check_capabilities_shown(std::uint64_t shown, std::uint64_t offered) {
  const auto lacking = capabilities_lacking(shown, offered);
  if (lacking.empty()) return {};
  return fail(
      ErrorKind::Unsupported,
      "cpu-config tells the guest {} by MSR {:#x}, and this host does not have that; give it a cpu-config of what "
      "all hosts have (mayfly doctor --cpu)",
      fmt::join(lacking, ", "), kMsrArchCapabilities);
}

/// The edits of MSRs, made of what this host's KVM has there.
Result<std::vector<MsrValue>> edited_msrs(const Vcpu& vcpu, std::span<const MsrEdit> edits) {
  std::vector<MsrValue> values;
  for (const MsrEdit& edit : edits) {
    auto present = vcpu.msr(edit.address);
    if (!present) return propagate(present, "cpu-config");
    const std::uint64_t value = edit.bits.apply(*present);
    if (edit.address == kMsrArchCapabilities) TRY(check_capabilities_shown(value, *present));
    values.push_back({.index = edit.address, .value = value});
  }
  return values;
}

Status check_capabilities(const Vm& vm, std::span<const KvmCapabilityEdit> capabilities) {
  for (const KvmCapabilityEdit& capability : capabilities)
    if (!capability.removed && vm.check_extension(static_cast<int>(capability.number)) <= 0)
      return fail(ErrorKind::Unsupported, "cpu-config: this host's KVM lacks capability {}", capability.number);
  return {};
}

/// Makes of what KVM offers what the guest sees.
Status show_cpu(kvm_abi::CpuidTable& cpuid, const CpuIdentity& identity, const BootPlan& plan) {
  const CpuTemplate wanted = plan.machine.cpu_template;
  if (wanted == CpuTemplate::None && plan.cpu.cpuid.empty()) return prepare_cpuid(cpuid, identity, {});
  const std::vector<kvm_cpuid_entry2> offered{cpuid.entries.begin(), cpuid.entries.begin() + cpuid.count};
  TRY(check_template_host(cpuid, wanted));
  apply_cpu_template(cpuid, wanted);
  // Before a leaf that this host does not have is refused by its number.
  TRY(check_shown(with_edits(std::span{cpuid.entries}.first(cpuid.count), plan.cpu.cpuid), offered));
  return prepare_cpuid(cpuid, identity, plan.cpu.cpuid);
}

/// CPUID and MSRs of all vCPUs.
Status set_vcpus_up(const std::vector<Vcpu>& vcpus, BootPlan& plan) {
  const CpuIdentity identity{.vcpu_count = plan.machine.vcpu_count,
                             .smt = plan.machine.smt,
                             .tsc_deadline = plan.prepared.tsc_deadline(),
                             .tsc_khz = vcpus.front().tsc_khz()};
  const std::unique_ptr<kvm_abi::CpuidTable> table = plan.prepared.take_cpuid();
  kvm_abi::CpuidTable& cpuid = *table;
  const auto of_template = template_msrs(plan.machine.cpu_template);
  std::vector<MsrEdit> msrs{of_template.begin(), of_template.end()};
  msrs.insert(msrs.end(), plan.cpu.msrs.begin(), plan.cpu.msrs.end());
  TRY(show_cpu(cpuid, identity, plan));
  for (const Vcpu& vcpu : vcpus) {
    set_apic_id(cpuid, vcpu.index(), identity);
    TRY(vcpu.set_cpuid(cpuid));
    TRY(vcpu.set_msrs(kBootMsrs));
    if (msrs.empty()) continue;
    const auto edited = TRY(edited_msrs(vcpu, msrs));
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
