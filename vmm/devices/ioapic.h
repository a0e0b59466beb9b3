#pragma once

#include "vmm/base/mutex.h"
#include "vmm/devices/bus.h"
#include "vmm/devices/interrupt.h"
#include "vmm/devices/ioapic_state.h"
#include "vmm/kvm/message_port.h"

#include <array>
#include <cstdint>
#include <optional>
#include <span>

namespace mayfly {

inline constexpr std::uint8_t kIoapicVersion = 0x20;
static_assert(IoapicState::kPins == kIoapicPins);

/// An 82093AA I/O APIC with the EOI register of its successors: turns a pin into an interrupt message.
///
///   Ioapic ioapic{message_port};
///   memory_bus.attach("ioapic", layout::kIoapicBase, layout::kIoapicLength, ioapic);
///   Serial serial{InterruptLine{ioapic, layout::kSerialGsi}, ...};
///
/// The local APICs are KVM's (split irqchip); what it would know only if the IOAPIC were its own, we tell it: which
/// level-triggered pins send which message, so that their end of interrupt comes back (KVM_EXIT_IOAPIC_EOI).
///
/// * An edge-triggered pin sends at each rise of its line. A rise while the pin is masked is lost (82093AA, 3.2.4),
///   unless KVM sends for the pin: see let_kvm_send().
/// * A level-triggered pin sends while its line is asserted, unless its last message has not been ended: Remote IRR.
///   The end of interrupt clears that, and the pin sends again if the line is still asserted.
/// * "Asserted" is what InterruptLine::set(true) means, whatever polarity the guest programs: there are no wires here.
///
/// Registers take accesses of any width at their first byte, of which the low 32 bits count; anything else reads as
/// zero and is ignored when written. Any thread; no call fails.
///
/// Locks: `mutex_` is held for a few instructions and never while the port is called. `control_mutex_` keeps two
/// guest writes from telling the port of their watches in the wrong order; set_pin and end_of_interrupt never wait for
/// it. A message may therefore leave just after another thread has changed its pin's entry, as on real wires.
class Ioapic final : public BusDevice, public InterruptSink {
 public:
  static constexpr unsigned kPins = IoapicState::kPins;

  explicit Ioapic(MessagePort& port) noexcept;

  /// From now on KVM sends the pin's message by itself, when an event descriptor is written (KVM_IRQFD); we only keep
  /// it informed of the message. For edge-triggered lines of devices on the data path. Before the vCPUs run.
  ///
  /// A write finds no message while the pin is masked. Linux masks, moves and unmasks the pins of a CPU that goes
  /// offline with requests in flight, and with EVENT_IDX the driver waits for that one edge; so `source` is asked to
  /// interrupt again whenever the pin is unmasked.
  void let_kvm_send(unsigned pin, InterruptSource& source);
  /// Drives the line at `pin`; pins beyond the last are ignored.
  void set_pin(unsigned pin, bool level) noexcept override;
  /// A local APIC ended the interrupt of a level-triggered message with this vector.
  void end_of_interrupt(std::uint8_t vector) noexcept;

  void read(std::uint64_t offset, std::span<std::byte> data) override;
  void write(std::uint64_t offset, std::span<const std::byte> data) override;

  [[nodiscard]] IoapicState state() const;
  /// Takes over the state, and tells the port what to watch. Sends nothing: what had to be sent was sent before.
  void restore(const IoapicState& state);

 private:
  void write_selected(std::uint32_t value);
  void redirect(unsigned pin, bool high_half, std::uint32_t value);
  void watch(unsigned pin, const std::optional<MsiMessage>& message) REQUIRES(control_mutex_);
  [[nodiscard]] bool is_routed(unsigned pin, std::uint64_t entry) const noexcept;
  [[nodiscard]] std::uint32_t selected() const noexcept REQUIRES(mutex_);
  [[nodiscard]] std::optional<MsiMessage> raise_level(unsigned pin) noexcept REQUIRES(mutex_);
  [[nodiscard]] bool asserted(unsigned pin) const noexcept REQUIRES(mutex_) { return (state_.levels >> pin & 1U) != 0; }

  MessagePort& port_;
  Mutex control_mutex_;                                                                // taken before mutex_
  std::array<std::optional<MsiMessage>, kPins> watched_ GUARDED_BY(control_mutex_){};  // what the port was told
  std::array<InterruptSource*, kPins> sources_{};  // of what KVM sends; constant once the vCPUs run
  mutable Mutex mutex_;
  IoapicState state_ GUARDED_BY(mutex_);  // the entries' writable bits change under both
};

}  // namespace mayfly
