#include "runtime/cpus.h"
#include "runtime/guest.h"
#include "runtime/interrupts.h"

#include <array>

/// Starts all CPUs by INIT and start-up messages; each adds 1 to a counter a thousand times and notes its APIC id.
/// Command line: cpus=N says how many there must be; without it, whoever comes within a while is counted. wait=1: says
/// "smp ready" and waits for a key before it starts them, and for another one before it passes.
namespace {

constexpr std::uint64_t kTurns = 1000;

std::uint64_t sum = 0;
std::uint64_t finished = 0;
std::array<std::uint8_t, guest::kMaximumCpus> apic_ids;

void work(unsigned index) {
  apic_ids[index] = guest::local_apic::id();
  for (std::uint64_t turn = 0; turn < kTurns; ++turn) __atomic_fetch_add(&sum, 1, __ATOMIC_SEQ_CST);
  __atomic_fetch_add(&finished, 1, __ATOMIC_SEQ_CST);
}

void wait_for_key() {
  while ((guest::in8(guest::serial::kLineStatus) & guest::serial::kDataReady) == 0) {
  }
  (void)guest::in8(guest::serial::kData);
}

void ap_main(unsigned index) {
  work(index);
  guest::park();
}

}  // namespace

void guest::guest_main(const BootInfo& boot) {
  const auto wanted = static_cast<unsigned>(boot.number("cpus", 0));
  const bool waits = boot.number("wait", 0) != 0;
  start_interrupts();
  if (waits) print("smp ready\n");
  if (waits) wait_for_key();
  const unsigned started = start_cpus(ap_main, wanted == 0 ? 0 : wanted - 1);
  work(0);
  const std::uint64_t cpus = started + 1;
  expect(wait_until([=] { return __atomic_load_n(&finished, __ATOMIC_SEQ_CST) >= cpus; }), "every CPU finishes");
  print("cpus: ", cpus, ", APIC ids");
  for (std::uint64_t index = 0; index < cpus; ++index) print(" ", apic_ids[index]);
  print("\n");
  if (wanted != 0) expect_equal(cpus, wanted, "as many CPUs as were asked for");
  expect_equal(sum, cpus * kTurns, "no addition is lost");
  if (waits) print("all counted\n");
  if (waits) wait_for_key();
  pass();
}
