#include "vmm/devices/ioapic.h"

#include <algorithm>
#include <bit>
#include <cstring>

namespace mayfly {
namespace {

// Offsets of the memory-mapped registers (82093AA, 3.1; the EOI register came with version 0x20).
constexpr std::uint64_t kSelect = 0x00;
constexpr std::uint64_t kWindow = 0x10;
constexpr std::uint64_t kEndOfInterrupt = 0x40;

// Indices of the registers behind the window (82093AA, 3.2).
constexpr std::uint8_t kId = 0x00;
constexpr std::uint8_t kVersion = 0x01;
constexpr std::uint8_t kArbitration = 0x02;
constexpr std::uint8_t kFirstRedirection = 0x10;
constexpr std::uint8_t kPastRedirection = kFirstRedirection + 2 * Ioapic::kPins;

constexpr std::uint32_t kIdBits = 0x0F00'0000;

// Fields of a redirection entry (82093AA, 3.2.4).
constexpr std::uint64_t kVectorBits = 0xFF;
constexpr unsigned kDeliveryModeShift = 8;
constexpr std::uint64_t kDeliveryModeBits = 0x7;
constexpr std::uint64_t kLogicalDestination = 1U << 11;
constexpr std::uint64_t kDeliveryStatus = 1U << 12;
constexpr std::uint64_t kRemoteIrr = 1U << 14;
constexpr std::uint64_t kLevelTriggered = 1U << 15;
constexpr std::uint64_t kMasked = 1U << 16;
constexpr unsigned kDestinationShift = 56;

// What software can write: the low 17 bits without Delivery Status and Remote IRR, and the destination. The polarity
// (bit 13) is remembered, though it has no effect.
constexpr std::uint64_t kWritable =
    (0x1'FFFF & ~(kDeliveryStatus | kRemoteIrr)) | (std::uint64_t{0xFF} << kDestinationShift);

// Delivery modes, the same in entries and messages.
constexpr std::uint64_t kFixed = 0;
constexpr std::uint64_t kLowestPriority = 1;

// A message (Intel SDM volume 3, "Message Address Register Format" and "Message Data Register Format").
constexpr std::uint64_t kMessageAddress = 0xFEE0'0000;
constexpr unsigned kMessageDestinationShift = 12;
constexpr std::uint64_t kMessageLogicalDestination = 1U << 2;
constexpr std::uint32_t kMessageAssert = 1U << 14;
constexpr std::uint32_t kMessageLevelTriggered = 1U << 15;

std::uint64_t delivery_mode(std::uint64_t entry) noexcept { return entry >> kDeliveryModeShift & kDeliveryModeBits; }

/// Only these two can be level-triggered; SMI, NMI, INIT and ExtINT are edges however they are programmed.
bool is_level(std::uint64_t entry) noexcept {
  return (entry & kLevelTriggered) != 0 && (delivery_mode(entry) == kFixed || delivery_mode(entry) == kLowestPriority);
}

bool sends(std::uint64_t entry) noexcept {
  const std::uint64_t mode = delivery_mode(entry);
  return (entry & kMasked) == 0 && mode != 3 && mode != 6;  // 011 and 110 are reserved
}

MsiMessage message_of(std::uint64_t entry) noexcept {
  const std::uint64_t logical = (entry & kLogicalDestination) != 0 ? kMessageLogicalDestination : 0;
  const std::uint32_t trigger = is_level(entry) ? kMessageLevelTriggered | kMessageAssert : 0;
  return {.address = kMessageAddress | (entry >> kDestinationShift) << kMessageDestinationShift | logical,
          .data = static_cast<std::uint32_t>(entry & kVectorBits) |
                  static_cast<std::uint32_t>(delivery_mode(entry) << kDeliveryModeShift) | trigger};
}

}  // namespace

Ioapic::Ioapic(MessagePort& port) noexcept : port_(port) { state_.redirection.fill(kMasked); }

// --- Lines -----------------------------------------------------------------------------------------------------------

void Ioapic::set_pin(unsigned pin, bool level) noexcept {
  if (pin >= kPins) return;
  std::optional<MsiMessage> due;
  {
    const MutexLock lock{mutex_};
    const bool rises = level && !asserted(pin);
    const std::uint32_t bit = std::uint32_t{1} << pin;
    state_.levels = level ? state_.levels | bit : state_.levels & ~bit;
    const std::uint64_t entry = state_.redirection[pin];
    if (is_level(entry))
      due = raise_level(pin);
    else if (rises && sends(entry))
      due = message_of(entry);
  }
  if (due) port_.send(*due);
}

void Ioapic::end_of_interrupt(std::uint8_t vector) noexcept {
  std::array<MsiMessage, kPins> due;
  std::size_t count = 0;
  {
    const MutexLock lock{mutex_};
    for (unsigned pin = 0; pin < kPins; ++pin) {
      std::uint64_t& entry = state_.redirection[pin];
      if ((entry & kVectorBits) != vector || (entry & kRemoteIrr) == 0) continue;
      entry &= ~kRemoteIrr;
      if (const auto message = raise_level(pin)) due[count++] = *message;
    }
  }
  for (const MsiMessage& message : std::span{due}.first(count)) port_.send(message);
}

/// The message that a level-triggered pin has to send now, which then is on its way: under mutex_.
std::optional<MsiMessage> Ioapic::raise_level(unsigned pin) noexcept {
  std::uint64_t& entry = state_.redirection[pin];
  if (!asserted(pin) || !is_level(entry) || !sends(entry) || (entry & kRemoteIrr) != 0) return std::nullopt;
  entry |= kRemoteIrr;
  return message_of(entry);
}

// --- Registers -------------------------------------------------------------------------------------------------------

void Ioapic::read(std::uint64_t offset, std::span<std::byte> data) {
  std::uint32_t value = 0;
  {
    const MutexLock lock{mutex_};
    if (offset == kSelect) value = state_.select;
    if (offset == kWindow) value = selected();
  }
  std::ranges::fill(data, std::byte{0});
  std::memcpy(data.data(), &value, std::min(data.size(), sizeof value));
}

void Ioapic::write(std::uint64_t offset, std::span<const std::byte> data) {
  std::uint32_t value = 0;
  std::memcpy(&value, data.data(), std::min(data.size(), sizeof value));
  if (offset == kWindow) {
    write_selected(value);
  } else if (offset == kEndOfInterrupt) {
    end_of_interrupt(static_cast<std::uint8_t>(value));
  } else if (offset == kSelect) {
    const MutexLock lock{mutex_};
    state_.select = static_cast<std::uint8_t>(value);
  }
}

/// The register that IOREGSEL names: under mutex_.
std::uint32_t Ioapic::selected() const noexcept {
  const std::uint8_t index = state_.select;
  if (index == kId || index == kArbitration) return state_.id;  // writing the id loads the arbitration id (3.2.3)
  if (index == kVersion) return std::uint32_t{kPins - 1} << 16 | kIoapicVersion;
  if (index < kFirstRedirection || index >= kPastRedirection) return 0;
  const std::uint64_t entry = state_.redirection[(index - kFirstRedirection) / 2U];
  return static_cast<std::uint32_t>(index % 2 == 0 ? entry : entry >> 32);
}

void Ioapic::write_selected(std::uint32_t value) {
  std::uint8_t index = 0;
  {
    const MutexLock lock{mutex_};
    index = state_.select;
    if (index == kId) state_.id = value & kIdBits;
  }
  if (index >= kFirstRedirection && index < kPastRedirection)
    redirect((index - kFirstRedirection) / 2U, index % 2 != 0, value);
}

/// Changes half of an entry. KVM learns what to watch before the first message can leave. It stops only when no message
/// is under way: a pin that missed its end of interrupt would never send again.
void Ioapic::redirect(unsigned pin, bool high_half, std::uint32_t value) {
  std::optional<MsiMessage> due;
  bool opened = false;  // for KVM, which sent nothing while the pin was masked
  {
    const MutexLock control{control_mutex_};
    const unsigned shift = high_half ? 32 : 0;
    std::uint64_t next = 0;
    {
      const MutexLock lock{mutex_};
      next = state_.redirection[pin];
    }
    next = (next & ~(std::uint64_t{0xFFFF'FFFF} << shift)) | std::uint64_t{value} << shift;
    next &= kWritable;
    if (is_routed(pin, next) && sends(next)) {
      opened = sources_[pin] != nullptr && !watched_[pin];
      watch(pin, message_of(next));
    }

    bool unwatched = false;
    {
      const MutexLock lock{mutex_};
      std::uint64_t& entry = state_.redirection[pin];
      // Becoming edge-triggered clears Remote IRR, which is how Linux ends an interrupt by force.
      entry = next | (is_level(next) ? entry & kRemoteIrr : 0);
      due = raise_level(pin);
      unwatched = !is_routed(pin, entry) || (!sends(entry) && (entry & kRemoteIrr) == 0);
    }
    if (unwatched) watch(pin, std::nullopt);
  }
  if (due) port_.send(*due);
  if (opened) sources_[pin]->interrupt_again();
}

/// Whether KVM must know the pin's message.
bool Ioapic::is_routed(unsigned pin, std::uint64_t entry) const noexcept {
  return sources_[pin] != nullptr || is_level(entry);
}

void Ioapic::let_kvm_send(unsigned pin, InterruptSource& source) {
  ensure(pin < kPins, "there is no such pin");
  sources_[pin] = &source;
}

/// Sends the port only changes: each costs KVM a change of its routing table.
void Ioapic::watch(unsigned pin, const std::optional<MsiMessage>& message) {
  if (watched_[pin] == message) return;
  watched_[pin] = message;
  port_.route(pin, message);
}

// --- Snapshot --------------------------------------------------------------------------------------------------------

IoapicState Ioapic::state() const {
  const MutexLock lock{mutex_};
  return state_;
}

void Ioapic::restore(const IoapicState& state) {
  const MutexLock control{control_mutex_};
  std::array<std::optional<MsiMessage>, kPins> wanted{};
  {
    const MutexLock lock{mutex_};
    state_ = state;
    state_.id &= kIdBits;
    state_.levels &= (std::uint32_t{1} << kPins) - 1;
    for (unsigned pin = 0; pin < kPins; ++pin) {
      std::uint64_t& entry = state_.redirection[pin];
      entry &= kWritable | (is_level(entry) ? kRemoteIrr : 0);
      if (is_routed(pin, entry) && (sends(entry) || (entry & kRemoteIrr) != 0)) wanted[pin] = message_of(entry);
    }
  }
  for (unsigned pin = 0; pin < kPins; ++pin) watch(pin, wanted[pin]);
}

}  // namespace mayfly
