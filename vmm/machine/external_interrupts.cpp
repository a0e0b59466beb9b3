#include "vmm/machine/external_interrupts.h"

#include <cstring>
#include <utility>

namespace mayfly {
namespace {

// Intel SDM volume 3: IA32_APIC_BASE, and the local vector table's entry of LINT0.
constexpr std::uint64_t kApicEnabled = 1U << 11;
constexpr std::size_t kLint0 = 0x350;
constexpr std::uint32_t kMasked = 1U << 16;
constexpr std::uint32_t kDeliveryModeBits = 7U << 8;
constexpr std::uint32_t kExtInt = 7U << 8;

/// As KVM decides it (kvm_apic_accept_pic_intr).
bool accepts(const VcpuState& state) noexcept {
  if ((state.sregs.apic_base & kApicEnabled) == 0) return true;
  std::uint32_t lint0 = 0;
  std::memcpy(&lint0, state.lapic.regs + kLint0, sizeof lint0);
  return (lint0 & kMasked) == 0 && (lint0 & kDeliveryModeBits) == kExtInt;
}

}  // namespace

void ExternalInterrupts::offer_now(const Vcpu& vcpu) noexcept {
  kvm_run& run = vcpu.run_area();
  const bool ready = run.ready_for_interrupt_injection != 0;
  if (ready) given_.reset();
  if (restored_)
    inject(vcpu, *std::exchange(restored_, std::nullopt));  // KVM keeps it until the guest takes it
  else if (!ready && !std::exchange(knows_, true))
    return vcpu.request_exit(true);  // KVM_RUN then does nothing but say whether it is ready
  else if (ready && pic_.requests())
    inject(vcpu, pic_.acknowledge());
  const bool more = pic_.requests();
  run.request_interrupt_window = more;
  busy_ = more || given_;
}

void ExternalInterrupts::inject(const Vcpu& vcpu, std::uint8_t vector) noexcept {
  vcpu.interrupt(vector);
  given_ = vector;
}

// --- Snapshot --------------------------------------------------------------------------------------------------------

std::optional<std::uint8_t> ExternalInterrupts::undelivered(const Vcpu& vcpu, const VcpuState& state) const noexcept {
  if (restored_) return restored_;
  const kvm_run& run = vcpu.run_area();
  if (!given_ || run.ready_for_interrupt_injection != 0) return std::nullopt;
  // KVM is not ready for one more. Either one of its other reasons holds, then the vector was delivered before: it was
  // given when none of them did. Or it still has the vector.
  const kvm_vcpu_events& events = state.events;
  const bool other_reason = run.if_flag == 0 || !accepts(state) || events.interrupt.injected != 0 ||
                            events.interrupt.shadow != 0 || events.nmi.injected != 0 ||
                            events.exception.injected != 0 || events.exception.pending != 0;
  return other_reason ? std::nullopt : given_;
}

void ExternalInterrupts::restore(const Vcpu& vcpu, std::optional<std::uint8_t> vector, bool kvm_has_it) noexcept {
  restored_ = kvm_has_it ? std::nullopt : vector;
  given_ = kvm_has_it ? vector : std::nullopt;
  busy_ = vector.has_value();
  // What kvm_run says is of the vCPU as it was.
  knows_ = false;
  vcpu.run_area().ready_for_interrupt_injection = 0;
  vcpu.run_area().request_interrupt_window = 0;
}

}  // namespace mayfly
