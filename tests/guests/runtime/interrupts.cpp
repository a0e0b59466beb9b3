#include "runtime/interrupts.h"

#include "runtime/verdict.h"

#include <array>

namespace {

/// Intel SDM volume 3, "64-Bit IDT Gate Descriptors".
struct Gate {
  std::uint16_t offset_low;
  std::uint16_t selector;
  std::uint8_t stack;
  std::uint8_t type;
  std::uint16_t offset_middle;
  std::uint32_t offset_high;
  std::uint32_t reserved;
};
static_assert(sizeof(Gate) == 16);

/// boot.S has one stub of 16 bytes a vector.
using Stub = std::array<std::uint8_t, 16>;

}  // namespace

extern "C" {
extern Gate idt[256];
extern const Stub interrupt_stubs[256];
extern const Stub holding_stubs[256];
extern volatile std::uint64_t interrupt_counts[256];
}

namespace guest {
namespace {

constexpr std::uint16_t kPicMask = 0x21;
constexpr std::uint16_t kSecondPicMask = 0xA1;
constexpr std::uint8_t kSpurious = 0xFF;
constexpr std::uint8_t kProbe = 0xEF;

}  // namespace

void start_interrupts() {
  out8(kPicMask, 0xFF);
  out8(kSecondPicMask, 0xFF);
  local_apic::registers.write32(local_apic::kLint0, local_apic::kMasked);
  local_apic::registers.write32(local_apic::kSpuriousVector, local_apic::kSoftwareEnable | kSpurious);
  let_interrupts_in();
}

void set_acknowledgement(std::uint8_t vector, Acknowledgement by) {
  expect(vector >= 32, "exceptions are not acknowledged");
  const auto stub = reinterpret_cast<std::uint64_t>(by == Acknowledgement::ByGate ? &interrupt_stubs[vector]
                                                                                  : &holding_stubs[vector]);
  idt[vector].offset_low = static_cast<std::uint16_t>(stub);
  idt[vector].offset_middle = static_cast<std::uint16_t>(stub >> 16);
}

bool host_acknowledges_at_delivery() {
  set_acknowledgement(kProbe, Acknowledgement::ByGuest);
  const std::uint64_t before = interrupt_counts[kProbe];
  local_apic::send(0, local_apic::kToSelf | kProbe);
  expect(wait_for_interrupts(kProbe, before + 1), "an interrupt to oneself arrives");
  const bool in_service = local_apic::vector_bit(local_apic::kInService, kProbe);
  acknowledge_interrupt();
  return !in_service;
}

const volatile std::uint64_t& interrupt_count(std::uint8_t vector) { return interrupt_counts[vector]; }

bool wait_for_interrupts(std::uint8_t vector, std::uint64_t at_least, std::uint64_t patience) {
  return wait_until([=] { return interrupt_counts[vector] >= at_least; }, patience);
}

}  // namespace guest
