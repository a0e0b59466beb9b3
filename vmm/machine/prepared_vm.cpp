#include "vmm/machine/prepared_vm.h"

#include "vmm/base/try.h"
#include "vmm/machine/vcpu_set.h"

#include <optional>
#include <semaphore>
#include <utility>

namespace mayfly {

struct PreparedVm::Making {
  Making(Kvm host, std::span<const kvm_cpuid_entry2> shown) noexcept : kvm(std::move(host)), cpuid(shown) {}

  void make() {
    vm_outcome = make_vm();
    vm_made.release();
    vcpu_outcome = vm_outcome ? make_vcpu() : vm_outcome;
    vcpu_made.release();
  }

  Status make_vm() {
    vm = TRY(Vm::create(kvm));
    return {};
  }

  Status make_vcpu() {
    first_vcpu = TRY(Vcpu::create(kvm.run_size(), *vm, 0));
    if (!cpuid.empty()) TRY(first_vcpu->set_cpuid(cpuid));
    return {};
  }

  Kvm kvm;
  const std::span<const kvm_cpuid_entry2> cpuid;
  // The thread's, until it has released what follows them.
  std::unique_ptr<Vm> vm{};
  Status vm_outcome{};
  std::binary_semaphore vm_made{0};
  std::optional<Vcpu> first_vcpu{};
  Status vcpu_outcome{};
  std::binary_semaphore vcpu_made{0};
};

Result<PreparedVm> PreparedVm::begin(const ThreadEntry& enter_thread, std::span<const kvm_cpuid_entry2> cpuid,
                                     KvmCalls& calls) {
  auto kvm = TRY(Kvm::open(calls));
  auto making = std::make_shared<Making>(std::move(kvm), cpuid);
  auto thread = TRY(VcpuSet::start_thread(0, enter_thread, [making] { making->make(); }));
  return PreparedVm{std::move(making), std::move(thread)};
}

Status PreparedVm::learn_cpuid() {
  if (cpuid_) return {};
  cpuid_ = TRY(making_->kvm.supported_cpuid());
  tsc_deadline_ = making_->kvm.check_extension(KVM_CAP_TSC_DEADLINE_TIMER) > 0;
  return {};
}

Result<std::optional<std::uint64_t>> PreparedVm::feature_msr(std::uint32_t index) const {
  return making_->kvm.feature_msr(index);
}

Result<Vm*> PreparedVm::vm() {
  if (!std::exchange(has_vm_, true)) making_->vm_made.acquire();
  // A copy: the thread reads it as well.
  if (!making_->vm_outcome) return std::unexpected(making_->vm_outcome.error());
  return making_->vm.get();
}

Result<PreparedVm::Parts> PreparedVm::take() && {
  making_->vcpu_made.acquire();
  if (!making_->vcpu_outcome) return propagate(making_->vcpu_outcome);
  return Parts{.kvm = std::move(making_->kvm),
               .vm = std::move(making_->vm),
               .first_vcpu = std::move(*making_->first_vcpu),
               .first_thread = std::move(thread_),
               .has_cpuid = !making_->cpuid.empty()};
}

}  // namespace mayfly
