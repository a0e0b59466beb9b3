#pragma once

#include <cstdint>

/// Leaving level 3 for a few instructions.
///
///   at_level_0(my_function);           // a naked function: no SSE, nothing that KVM's emulator does not know
///   halt_until(counter, 5);            // HLT until an interrupt has raised the counter to 5
namespace guest {

/// What runs at level 0: in hand-written assembly (a naked function), since on some hosts it is emulated. It gets its
/// arguments in RDI and RSI, may change RAX (the result), RCX, RDX, RSI, RDI and R8 to R11, and returns by RET.
/// Interrupts are off; the stack has 4 KiB.
using Level0Function = std::uint64_t (*)(std::uint64_t first, std::uint64_t second);

/// Calls `function` at level 0 and gives back what it left in RAX.
///
/// The gate clears R11; where that is still set, the call is made again. A snapshot at this instruction loses the
/// exception on pvm hosts: KVM_GET_VCPU_EVENTS leaves software exceptions out, since a processor would run the instruction
/// again, and there RIP is behind it already.
inline std::uint64_t at_level_0(Level0Function function, std::uint64_t first = 0, std::uint64_t second = 0) {
  auto value = reinterpret_cast<std::uint64_t>(function);
  asm volatile(
      "1: movl $1, %%r11d\n"
      "int3\n"
      "testl %%r11d, %%r11d\n"
      "jnz 1b"
      : "+a"(value), "+D"(first), "+S"(second)
      :
      : "rcx", "rdx", "r8", "r9", "r10", "r11", "memory", "cc");
  return value;
}

extern "C" {
std::uint64_t interrupts_on_at_level_0(std::uint64_t, std::uint64_t);
std::uint64_t interrupts_off_at_level_0(std::uint64_t, std::uint64_t);
std::uint64_t halt_until_at_level_0(std::uint64_t counter, std::uint64_t at_least);
std::uint64_t triple_fault_at_level_0(std::uint64_t, std::uint64_t);
}

/// Halts this CPU, interrupts let in, until the counter is at least `at_least`. Returns at once where it already is.
inline void halt_until(const volatile std::uint64_t& counter, std::uint64_t at_least) {
  at_level_0(halt_until_at_level_0, reinterpret_cast<std::uint64_t>(&counter), at_least);
}

/// Ends the machine the hard way.
[[noreturn]] inline void triple_fault() {
  at_level_0(triple_fault_at_level_0);
  __builtin_unreachable();
}

}  // namespace guest
