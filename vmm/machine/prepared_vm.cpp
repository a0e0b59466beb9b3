#include "vmm/machine/prepared_vm.h"

#include "vmm/base/try.h"
#include "vmm/machine/vcpu_set.h"

#include <utility>

namespace mayfly {

Result<PreparedVm> PreparedVm::prepare(const ThreadEntry& enter_thread) {
  auto kvm = Kvm::open();
  if (!kvm) return propagate(kvm);
  auto vm = Vm::create(*kvm);
  if (!vm) return propagate(vm);
  auto vcpu = Vcpu::create(kvm->run_size(), **vm, 0);
  if (!vcpu) return propagate(vcpu);
  auto thread = VcpuSet::start_thread(0, enter_thread);
  if (!thread) return propagate(thread);
  return PreparedVm{.vm = std::move(*vm),
                    .run_size = kvm->run_size(),
                    .first_vcpu = std::move(*vcpu),
                    .first_thread = std::move(*thread)};
}

Status PreparedVm::learn_cpuid() {
  if (cpuid) return {};
  auto kvm = Kvm::open();
  if (!kvm) return propagate(kvm);
  auto supported = kvm->supported_cpuid();
  if (!supported) return propagate(supported);
  cpuid = std::move(*supported);
  tsc_deadline = kvm->check_extension(KVM_CAP_TSC_DEADLINE_TIMER) > 0;
  return {};
}

}  // namespace mayfly
