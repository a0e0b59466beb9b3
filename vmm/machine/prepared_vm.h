#pragma once

#include "vmm/base/error.h"
#include "vmm/base/standby_thread.h"
#include "vmm/base/thread_kind.h"
#include "vmm/kvm/kvm.h"
#include "vmm/kvm/vcpu.h"
#include "vmm/kvm/vm.h"

#include <memory>

namespace mayfly {

/// The parts of a machine that do not depend on its configuration, made ahead of the start or load request: most of a
/// start's cost beside the guest's memory.
struct PreparedVm {
  Kvm kvm;
  std::unique_ptr<Vm> vm;
  Vcpu first_vcpu;
  StandbyThread first_thread;
  // By learn_cpuid(): not for restored machines, whose CPUID is the snapshot's.
  std::unique_ptr<kvm_abi::CpuidTable> cpuid{};
  bool tsc_deadline = false;

  /// The first vCPU's thread calls `enter_thread`; none may be given. Errors: no usable KVM on this host, no more
  /// threads.
  [[nodiscard]] static Result<PreparedVm> prepare(const ThreadEntry& enter_thread, KvmCalls& calls = KvmCalls::host());
  /// Once is enough. Errors: as prepare().
  [[nodiscard]] Status learn_cpuid();
};

}  // namespace mayfly
