#pragma once

#include "vmm/base/error.h"
#include "vmm/base/standby_thread.h"
#include "vmm/base/thread_kind.h"
#include "vmm/kvm/kvm.h"
#include "vmm/kvm/vcpu.h"
#include "vmm/kvm/vm.h"

#include <linux/kvm.h>

#include <memory>
#include <optional>
#include <span>

namespace mayfly {

/// The parts of a machine that do not depend on its configuration, made ahead of the start or load request: most of a
/// start's cost beside the guest's memory.
///
///   auto prepared = PreparedVm::begin(enter_thread);
///   ...                                                // files, guest memory
///   auto parts = std::move(*prepared).take();          // waits, if it must
///
/// The first vCPU's thread makes VM and vCPU, as KVM_CREATE_VM may sleep: up to Linux 6.12 it makes a kernel thread that
/// joins its creator's cgroups, which waits for a grace period of RCU. That is 10 ms where nothing has waited for one
/// lately.
class PreparedVm {
 public:
  struct Parts {
    Kvm kvm;
    std::unique_ptr<Vm> vm;
    Vcpu first_vcpu;
    StandbyThread first_thread;
    bool has_cpuid = false;  ///< The first vCPU was shown its CPUID.
  };

  /// The thread calls `enter_thread` when it has made both; none may be given. `cpuid`: what the first vCPU is shown, where
  /// that is known already; it is there until take(). Errors: no usable KVM on this host, no more threads.
  [[nodiscard]] static Result<PreparedVm> begin(const ThreadEntry& enter_thread,
                                                std::span<const kvm_cpuid_entry2> cpuid = {},
                                                KvmCalls& calls = KvmCalls::host());

  /// What KVM offers guests: a machine that boots is shown it, and one of another host must find in it what it was shown.
  /// Asked once, by the caller, while the thread is at work. Errors: KVM's.
  [[nodiscard]] Status learn_cpuid();
  /// After learn_cpuid().
  [[nodiscard]] std::unique_ptr<kvm_abi::CpuidTable> take_cpuid() noexcept { return std::move(cpuid_); }
  /// Kvm::feature_msr(). Asked each time.
  [[nodiscard]] Result<std::optional<std::uint64_t>> feature_msr(std::uint32_t index) const;
  [[nodiscard]] bool tsc_deadline() const noexcept { return tsc_deadline_; }

  /// Waits until the VM is made; the thread goes on with the vCPU. Errors: KVM refused it.
  [[nodiscard]] Result<Vm*> vm();
  /// Waits until both are made. Errors: KVM refused one.
  [[nodiscard]] Result<Parts> take() &&;

 private:
  struct Making;
  PreparedVm(std::shared_ptr<Making> making, StandbyThread thread) noexcept
      : making_(std::move(making)), thread_(std::move(thread)) {}

  std::shared_ptr<Making> making_;  // the thread's as well
  StandbyThread thread_;
  std::unique_ptr<kvm_abi::CpuidTable> cpuid_;
  bool tsc_deadline_ = false;
  bool has_vm_ = false;  // the thread has said so
};

}  // namespace mayfly
