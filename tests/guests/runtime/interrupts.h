#pragma once

#include "runtime/io_apic.h"
#include "runtime/level_0.h"
#include "runtime/local_apic.h"
#include "runtime/processor.h"

#include <cstdint>

/// Interrupts, counted.
///
///   start_interrupts();
///   io_apic::route(serial::kPin, {.vector = kVector});
///   expect(wait_for_interrupts(kVector, 1), "the serial port interrupts");
///
/// There are no handlers: the gate of a vector is a few level-0 instructions that count and acknowledge; what a
/// handler would do, the guest does at level 3 when it sees the count move.
namespace guest {

/// Who tells the local APIC that an interrupt is over. A level-triggered pin whose line stays up interrupts again at
/// once after that, so for such a pin the guest must serve the device first: ByGuest. Then the gate keeps interrupts
/// out of the CPU that was interrupted, until it calls acknowledge_interrupt().
enum class Acknowledgement { ByGate, ByGuest };

/// Silences the PIC, enables this CPU's local APIC, and lets interrupts in. Vectors 32 to 255 are the guest's.
void start_interrupts();

/// Whether this CPU lets interrupts in. (On pvm hosts, level 3 cannot do CLI and STI itself.)
inline void let_interrupts_in() { at_level_0(interrupts_on_at_level_0); }
inline void keep_interrupts_out() { at_level_0(interrupts_off_at_level_0); }

/// Chooses who acknowledges `vector` (32 to 255); ByGate unless this was called.
void set_acknowledgement(std::uint8_t vector, Acknowledgement by);

/// Tells this CPU's local APIC that its interrupt in service is over, and lets interrupts in again.
inline void acknowledge_interrupt() {
  local_apic::registers.write32(local_apic::kEndOfInterrupt, 0);
  let_interrupts_in();
}

/// Whether this host's KVM takes an interrupt for over as soon as it is delivered (seen on kvm_pvm): its vector is
/// never in service, and a level-triggered pin is asked again at once. Uses vector 0xEF; needs start_interrupts().
[[nodiscard]] bool host_acknowledges_at_delivery();

/// How often `vector` has interrupted any CPU.
[[nodiscard]] const volatile std::uint64_t& interrupt_count(std::uint8_t vector);

/// Polls until `vector` has interrupted `at_least` times altogether; false where patience ends first.
[[nodiscard]] bool wait_for_interrupts(std::uint8_t vector, std::uint64_t at_least, std::uint64_t patience = kPatience);

/// The same by HLT, without end.
inline void halt_for_interrupts(std::uint8_t vector, std::uint64_t at_least) {
  halt_until(interrupt_count(vector), at_least);
}

}  // namespace guest
