#pragma once

#include "vmm/base/mutex.h"
#include "vmm/kvm/kvm.h"
#include "vmm/kvm/message_port.h"
#include "vmm/memory/guest_memory.h"

#include <array>
#include <optional>
#include <span>
#include <vector>

/// One KVM virtual machine: memory slots, the interrupt controller's in-kernel half, messages.
///
/// The order of calls is worth milliseconds (vmm/README.md, "Start-up"): memory slots before anything that registers
/// on KVM's I/O bus.
namespace mayfly {

class Vm final : public MessagePort {
 public:
  /// KVM_CREATE_VM and the split interrupt controller: LAPICs in KVM, IOAPIC and PIC in user space.
  [[nodiscard]] static Result<std::unique_ptr<Vm>> create(const Kvm& kvm);

  /// Gives the guest all of `memory`, which must outlive the VM. `log_dirty` turns dirty-page tracking on.
  [[nodiscard]] Status map_memory(const GuestMemory& memory, bool log_dirty);

  /// KVM_IOEVENTFD: a 4-byte store of `value` at `at` writes to the event descriptor, and does not leave KVM.
  [[nodiscard]] Status attach_kick(GuestAddress at, std::uint32_t value, int event_fd) const;
  /// KVM_IRQFD: a write to the event descriptor sends the message of `gsi` (Ioapic::let_kvm_send).
  [[nodiscard]] Status attach_interrupt(unsigned gsi, int event_fd) const;

  /// KVM_GET_DIRTY_LOG of the memory's region of that number: a bit a page, a word for each 64 begun; the region's log
  /// begins anew. Only after map_memory() with `log_dirty`.
  [[nodiscard]] Status take_dirty_log(std::uint32_t region, std::span<std::uint64_t> bitmap) const;

  /// KVM_GET_CLOCK and KVM_SET_CLOCK: the guest's nanoseconds since its start. With KVM_CLOCK_REALTIME in its flags,
  /// a clock that is set goes ahead by the real time since the moment that its `realtime` names.
  [[nodiscard]] Result<kvm_clock_data> clock() const;
  [[nodiscard]] Status set_clock(const kvm_clock_data& clock) const;

  /// Bytes of a vCPU's XSAVE area (KVM_CAP_XSAVE2).
  [[nodiscard]] std::size_t xsave_size() const noexcept { return xsave_size_; }

  /// KVM_CREATE_VCPU; the vCPU's descriptor.
  [[nodiscard]] Result<KvmFd> create_vcpu(unsigned index) const;

  /// KVM_CHECK_EXTENSION on this VM.
  [[nodiscard]] int check_extension(int capability) const noexcept;

  void send(const MsiMessage& message) noexcept override;
  void route(unsigned pin, const std::optional<MsiMessage>& message) noexcept override;

 private:
  explicit Vm(KvmFd fd) noexcept;

  KvmFd fd_;
  std::size_t xsave_size_;
  Mutex routes_mutex_;
  std::array<std::optional<MsiMessage>, kIoapicPins> routes_ GUARDED_BY(routes_mutex_);
};

}  // namespace mayfly
