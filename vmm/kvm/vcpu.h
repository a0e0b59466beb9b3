#pragma once

#include "vmm/base/error.h"
#include "vmm/base/mapping.h"
#include "vmm/kvm/vm.h"

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

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
  [[nodiscard]] Status set_cpuid(std::span<const kvm_cpuid_entry2> entries) const;
  /// KVM_GET_CPUID2
  [[nodiscard]] Result<std::vector<kvm_cpuid_entry2>> cpuid() const;
  /// KVM_SET_MSRS for all of them in as few calls as KVM allows.
  [[nodiscard]] Status set_msrs(std::span<const MsrValue> values) const;
  /// KVM_GET_MSRS of one register.
  [[nodiscard]] Result<std::uint64_t> msr(std::uint32_t index) const;
  /// The same of many; those that this vCPU does not have are left out.
  [[nodiscard]] Result<std::vector<kvm_msr_entry>> msrs(std::span<const std::uint32_t> indices) const;
  [[nodiscard]] Result<kvm_regs> regs() const;
  [[nodiscard]] Status set_regs(const kvm_regs& regs) const;
  [[nodiscard]] Result<kvm_sregs> sregs() const;
  [[nodiscard]] Status set_sregs(const kvm_sregs& sregs) const;
  /// KVM_GET_XSAVE2, or KVM_GET_XSAVE where the host has nothing larger: at least 4096 bytes.
  [[nodiscard]] Result<std::vector<std::byte>> xsave() const;
  /// KVM_SET_XSAVE. Error: another size than this host's.
  [[nodiscard]] Status set_xsave(std::span<const std::byte> area) const;
  /// KVM_SET_TSC_KHZ: for a guest that came from a host whose counter runs at another rate.
  [[nodiscard]] Status set_tsc_khz(std::uint32_t khz) const;
  /// Any other ioctl with a fixed-size structure; `name` is for the error.
  [[nodiscard]] Status control(unsigned long request, void* argument, std::string_view name) const;
  /// KVM_GET_TSC_KHZ; 0 where the host cannot tell.
  [[nodiscard]] std::uint32_t tsc_khz() const noexcept;
  /// KVM_TRANSLATE: the guest-physical address behind a linear one, by the vCPU's present page tables.
  [[nodiscard]] std::optional<GuestAddress> translate(std::uint64_t linear) const noexcept;
  /// KVM_KVMCLOCK_CTRL: tells the guest's watchdogs that it was paused. Guests without a KVM clock refuse it: ignored.
  void notify_paused() const noexcept;

  /// KVM_INTERRUPT: the vector of an interrupt by LINT0, which KVM delivers when the vCPU takes interrupts. Only while
  /// it has none: kvm_run's ready_for_interrupt_injection says so, and a vCPU that has not run has none.
  void interrupt(std::uint8_t vector) const noexcept;

  /// KVM_RUN once: 0, or the errno. The reason of the exit is in run_area().
  [[nodiscard]] int run() const noexcept;
  [[nodiscard]] kvm_run& run_area() const noexcept { return *static_cast<kvm_run*>(run_.address()); }
  /// Makes the next (or, with a signal, the present) run() return EINTR as soon as a pending access is complete.
  void request_exit(bool wanted) const noexcept {
    __atomic_store_n(&run_area().immediate_exit, wanted, __ATOMIC_RELEASE);
  }
  [[nodiscard]] bool exit_requested() const noexcept {
    return __atomic_load_n(&run_area().immediate_exit, __ATOMIC_ACQUIRE) != 0;
  }
  [[nodiscard]] unsigned index() const noexcept { return index_; }

 private:
  Vcpu(KvmFd fd, Mapping run, unsigned index, std::size_t xsave_size) noexcept
      : fd_(std::move(fd)), run_(std::move(run)), index_(index), xsave_size_(xsave_size) {}

  KvmFd fd_;
  Mapping run_;
  unsigned index_;
  std::size_t xsave_size_;
};

}  // namespace mayfly
