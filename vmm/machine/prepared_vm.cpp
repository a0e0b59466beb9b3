#include "vmm/machine/prepared_vm.h"

#include "vmm/base/try.h"
#include "vmm/machine/vcpu_set.h"

#include <utility>

namespace mayfly {

Result<PreparedVm> PreparedVm::prepare(const ThreadEntry& enter_thread, KvmCalls& calls) {
  auto kvm = TRY(Kvm::open(calls));
  auto vm = TRY(Vm::create(kvm));
  auto vcpu = TRY(Vcpu::create(kvm.run_size(), *vm, 0));
  auto thread = TRY(VcpuSet::start_thread(0, enter_thread));
  return PreparedVm{
      .kvm = std::move(kvm), .vm = std::move(vm), .first_vcpu = std::move(vcpu), .first_thread = std::move(thread)};
}

Status PreparedVm::learn_cpuid() {
  if (cpuid) return {};
  cpuid = TRY(kvm.supported_cpuid());
  tsc_deadline = kvm.check_extension(KVM_CAP_TSC_DEADLINE_TIMER) > 0;
  return {};
}

}  // namespace mayfly
