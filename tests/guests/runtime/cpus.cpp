#include "runtime/cpus.h"

#include "runtime/level_0.h"
#include "runtime/local_apic.h"
#include "runtime/verdict.h"

#include <cstring>

extern "C" {
extern const std::uint8_t trampoline[];
extern const std::uint8_t trampoline_end[];
extern volatile std::uint32_t cpus_entered;
}

namespace guest {
namespace {

constexpr std::uint64_t kTrampoline = 0x8000;  // any page below 1 MiB; the message holds its number
constexpr std::uint32_t kInit = local_apic::kToAllButSelf | 5U << 8;
constexpr std::uint32_t kStartUp = local_apic::kToAllButSelf | 6U << 8 | kTrampoline >> 12;

ApMain ap_main = nullptr;
std::uint64_t never = 0;

}  // namespace

void run_ap(unsigned index) {
  ap_main(index);
  fail("a CPU's main function does not return");
}

unsigned start_cpus(ApMain main, unsigned expected) {
  ap_main = main;
  std::memcpy(&memory_at<std::uint8_t>(kTrampoline), trampoline, static_cast<std::size_t>(trampoline_end - trampoline));
  local_apic::send(0, kInit);
  spin_for(30'000'000);  // the multiprocessor specification's 10 ms
  local_apic::send(0, kStartUp);
  (void)wait_until([=] { return expected != 0 && cpus_entered >= expected + 1; }, kMoment);
  return cpus_entered - 1;
}

void park() {
  while (true) halt_until(*const_cast<const volatile std::uint64_t*>(&never), 1);
}

}  // namespace guest
