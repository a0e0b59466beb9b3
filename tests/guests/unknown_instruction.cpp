#include "runtime/guest.h"

/// Executes POPCNT at level 0. Where the host emulates level 0 (kvm_pvm), KVM does not know it and gives up: an
/// internal error for the monitor to report. Elsewhere it is an instruction like any other, and the guest passes.
namespace {

[[gnu::naked]] std::uint64_t count_bits(std::uint64_t, std::uint64_t) {
  asm("popcnt %rdi, %rax\n"
      "ret\n");
}

}  // namespace

void guest::guest_main(const BootInfo&) {
  print("about to execute POPCNT at level 0\n");
  flush_serial();
  expect_equal(at_level_0(count_bits, 0xFF), 8, "POPCNT counts");
  pass();
}
