#pragma once

#include <cstdint>
#include <optional>

/// What the interrupt controllers in user space have of KVM: messages that it delivers, and routes by which it makes
/// some by itself. The Vm is one; tests have others.
namespace mayfly {

/// Pins of the IOAPIC, and so GSIs that KVM keeps a route for (KVM_CAP_SPLIT_IRQCHIP).
inline constexpr unsigned kIoapicPins = 24;

/// A message-signalled interrupt as a device would write it (Intel SDM volume 3, "Message Signalled Interrupts").
struct MsiMessage {
  std::uint64_t address = 0;
  std::uint32_t data = 0;
  friend bool operator==(const MsiMessage&, const MsiMessage&) = default;
};

/// Where the IOAPIC's messages go. Safe on any thread.
class MessagePort {
 public:
  MessagePort() = default;
  MessagePort(const MessagePort&) = delete;
  MessagePort& operator=(const MessagePort&) = delete;
  virtual ~MessagePort() = default;
  /// Delivers one interrupt message now.
  virtual void send(const MsiMessage& message) noexcept = 0;
  /// Tells KVM which message a pin sends; nullopt: none. For level-triggered pins, so that the guest's end of interrupt
  /// for that vector comes back to us (Ioapic::end_of_interrupt); for pins that an event descriptor raises, so that KVM
  /// sends it by itself (Ioapic::let_kvm_send).
  virtual void route(unsigned pin, const std::optional<MsiMessage>& message) noexcept = 0;
};

}  // namespace mayfly
