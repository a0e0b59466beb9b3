#include "vmm/machine/prepared_vm.h"

#include "vmm/base/try.h"
#include "vmm/machine/vcpu_set.h"

#include <optional>
#include <semaphore>
#include <utility>

namespace mayfly {

struct PreparedVm::Making {
  explicit Making(Kvm host) noexcept : kvm(std::move(host)) {}

  Status make() {
    vm = TRY(Vm::create(kvm));
    first_vcpu = TRY(Vcpu::create(kvm.run_size(), *vm, 0));
    return {};
  }

  Kvm kvm;
  // The thread's, until it has released `made`.
  std::unique_ptr<Vm> vm{};
  std::optional<Vcpu> first_vcpu{};
  Status outcome{};
  std::binary_semaphore made{0};
};

Result<PreparedVm> PreparedVm::begin(const ThreadEntry& enter_thread, KvmCalls& calls) {
  auto kvm = TRY(Kvm::open(calls));
  auto making = std::make_shared<Making>(std::move(kvm));
  auto thread = TRY(VcpuSet::start_thread(0, enter_thread, [making] {
    making->outcome = making->make();
    making->made.release();
  }));
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

Result<PreparedVm::Parts> PreparedVm::take() && {
  making_->made.acquire();
  if (!making_->outcome) return propagate(making_->outcome);
  return Parts{.kvm = std::move(making_->kvm),
               .vm = std::move(making_->vm),
               .first_vcpu = std::move(*making_->first_vcpu),
               .first_thread = std::move(thread_)};
}

}  // namespace mayfly
