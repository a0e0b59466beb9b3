#pragma once

#include "vmm/devices/dual_pic.h"
#include "vmm/kvm/vcpu.h"
#include "vmm/kvm/vcpu_state.h"

#include <cstdint>
#include <optional>

namespace mayfly {

/// The PIC's way into the first vCPU: "virtual wire", LINT0 as ExtINT, which is what KVM resets that vCPU's LAPIC to.
///
///   external.offer(vcpu);     // before each KVM_RUN of the first vCPU
///   vcpu.run();
///
/// With a split interrupt controller KVM takes the vector of such an interrupt by KVM_INTERRUPT, when kvm_run says that
/// the vCPU is ready for one: interrupts are on, nothing is half delivered, LINT0 is ExtINT and not masked. When it is
/// not, request_interrupt_window has KVM_RUN return as soon as it is. A vCPU that halts wakes up for the vector. So the
/// PIC is acknowledged at the last moment: what the guest masks before is not delivered.
///
/// A restored vCPU that halts does not wake up for the window alone, and before its first KVM_RUN kvm_run says nothing:
/// so KVM_RUN is left once at once (EINTR), as for a kick.
///
/// Guests that do not use the PIC pay for the look at two flags, and for the PIC's lock at each interrupt of a line
/// that it has. Members are for the vCPU's thread, or while it is parked.
class ExternalInterrupts {
 public:
  explicit ExternalInterrupts(DualPic& pic) noexcept : pic_(pic) {}

  void offer(const Vcpu& vcpu) noexcept {
    if (pic_.requests() || busy_) offer_now(vcpu);
  }

  /// The vector that KVM has taken and not delivered, which KVM shows in no state: KVM_RUN has returned at once after
  /// offer(). `state` is the vCPU's.
  [[nodiscard]] std::optional<std::uint8_t> undelivered(const Vcpu& vcpu, const VcpuState& state) const noexcept;
  /// Whether KVM may have a vector that it has not delivered: undelivered() knows.
  [[nodiscard]] bool kvm_may_have_one() const noexcept { return given_.has_value(); }
  /// Gives a vCPU that has not run, or was set back, what undelivered() told. `kvm_has_it`: it need not be given.
  void restore(const Vcpu& vcpu, std::optional<std::uint8_t> vector, bool kvm_has_it = false) noexcept;

 private:
  void offer_now(const Vcpu& vcpu) noexcept;
  void inject(const Vcpu& vcpu, std::uint8_t vector) noexcept;

  DualPic& pic_;
  bool knows_ = false;                      // KVM_RUN has said whether the vCPU is ready
  bool busy_ = false;                       // one of the two below, or a window is asked for
  std::optional<std::uint8_t> restored_{};  // to be given to KVM
  std::optional<std::uint8_t> given_{};     // until KVM is ready for the next one
};

}  // namespace mayfly
