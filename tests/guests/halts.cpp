#include "runtime/guest.h"
#include "runtime/interrupts.h"

#include <algorithm>

/// Halts again and again until a timer that runs out just then. One that does so between STI and HLT must not interrupt
/// before the HLT (Intel SDM, "STI"; AMD volume 2, "Interrupt Shadow"): nothing would end that HLT any more. Command line:
/// times=N, 1000 unless told.
void guest::guest_main(const BootInfo& boot) {
  constexpr std::uint8_t kVector = 0x45;
  constexpr std::uint32_t kFirstNs = 10'000;
  constexpr std::uint32_t kStepNs = 97;
  start_interrupts();
  local_apic::registers.write32(local_apic::kTimerDivide, 0xB);
  local_apic::registers.write32(local_apic::kTimer, kVector);
  const std::uint64_t times = boot.number("times", 1000);
  std::uint32_t after_ns = kFirstNs;
  for (std::uint64_t i = 0; i < times; ++i) {
    local_apic::registers.write32(local_apic::kTimerInitialCount, after_ns);
    // Before the HLT: too early. After it: too late.
    const bool is_early = interrupt_count(kVector) > i;
    after_ns = is_early ? after_ns + kStepNs : std::max(after_ns, 2 * kStepNs) - kStepNs;
    halt_for_interrupts(kVector, i + 1);
  }
  print("the last timer was of ", after_ns, " ns\n");
  expect_equal(interrupt_count(kVector), times, "each timer interrupts once");
  pass();
}
