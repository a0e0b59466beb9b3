#pragma once

#include <cstdint>

/// More CPUs than the first.
namespace guest {

/// What boot.S has descriptors and stacks for.
inline constexpr unsigned kMaximumCpus = 32;

/// Runs at level 3 on a CPU that was started, `index` counting up from 1 in the order in which they came up. Interrupts
/// are off, and its local APIC is not enabled. Must not return.
using ApMain = void (*)(unsigned index);

/// Starts all other CPUs (INIT and start-up messages to all but self), each into `main`. Needs start_interrupts() to
/// have been called. `expected` is how many will come; without one (0), waits for a while. The number that came.
unsigned start_cpus(ApMain main, unsigned expected);

/// Parks a CPU for ever, politely.
[[noreturn]] void park();

}  // namespace guest
