#pragma once

#include "vmm/base/error.h"
#include "vmm/base/mapping.h"
#include "vmm/base/owned_fd.h"
#include "vmm/kvm/vm.h"

#include <cstdint>
#include <span>

/// One KVM virtual CPU: its descriptor, its kvm_run area, its registers.
namespace mayfly {

/// A model-specific register to set. An optional one is skipped where KVM does not have it.
struct MsrValue {
  std::uint32_t index = 0;
  std::uint64_t value = 0;
  bool optional = false;
};

/// Used by one thread at a time, except request_exit().
class Vcpu {
 public:
  /// KVM_CREATE_VCPU; run_size is Kvm::run_size().
  [[nodiscard]] static Result<Vcpu> create(std::size_t run_size, const Vm& vm, unsigned index);

  /// KVM_SET_CPUID2. Before any MSR that CPUID announces.
  [[nodiscard]] Status set_cpuid(const kvm_abi::CpuidTable& table) const;
  /// KVM_SET_MSRS for all of them in as few calls as KVM allows.
  [[nodiscard]] Status set_msrs(std::span<const MsrValue> values) const;
  /// KVM_GET_MSRS of one register.
  [[nodiscard]] Result<std::uint64_t> msr(std::uint32_t index) const;
  [[nodiscard]] Result<kvm_regs> regs() const;
  [[nodiscard]] Status set_regs(const kvm_regs& regs) const;
  [[nodiscard]] Result<kvm_sregs> sregs() const;
  [[nodiscard]] Status set_sregs(const kvm_sregs& sregs) const;
  /// KVM_GET_TSC_KHZ; 0 where the host cannot tell.
  [[nodiscard]] std::uint32_t tsc_khz() const noexcept;
  /// KVM_TRANSLATE: the guest-physical address behind a linear one, by the vCPU's present page tables.
  [[nodiscard]] std::optional<GuestAddress> translate(std::uint64_t linear) const noexcept;
  /// KVM_KVMCLOCK_CTRL: tells the guest's watchdogs that it was paused. Guests without a KVM clock refuse it: ignored.
  void notify_paused() const noexcept;

  /// KVM_RUN once: 0, or the errno. The reason of the exit is in run_area().
  [[nodiscard]] int run() const noexcept;
  [[nodiscard]] kvm_run& run_area() const noexcept { return *static_cast<kvm_run*>(run_.address()); }
  /// Makes the next (or, with a signal, the present) run() return EINTR as soon as a pending access is complete.
  void request_exit(bool wanted) const noexcept {
    __atomic_store_n(&run_area().immediate_exit, wanted, __ATOMIC_RELEASE);
  }
  [[nodiscard]] unsigned index() const noexcept { return index_; }

 private:
  Vcpu(OwnedFd fd, Mapping run, unsigned index) noexcept : fd_(std::move(fd)), run_(std::move(run)), index_(index) {}

  OwnedFd fd_;
  Mapping run_;
  unsigned index_;
};

}  // namespace mayfly
