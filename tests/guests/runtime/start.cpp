#include "runtime/guest.h"

#include <cstdint>

// Where boot.S arrives at level 3.

extern "C" {
extern std::uint64_t exception_vector;
extern std::uint64_t exception_error;
extern std::uint64_t exception_rip;
extern std::uint64_t exception_cs;
extern std::uint64_t exception_rsp;
extern std::uint64_t exception_address;
void enter_level_3(unsigned cpu);
void report_exception();
}

namespace guest {

void run_ap(unsigned index);

}  // namespace guest

void enter_level_3(unsigned cpu) {
  if (cpu != 0) guest::run_ap(cpu);
  guest::start_serial();
  guest::guest_main(guest::read_boot_info());
  guest::fail("guest_main does not return");
}

void report_exception() {
  using guest::Hex;
  guest::print("GUEST FAIL exception ", exception_vector, " at rip ", Hex{exception_rip}, " cs ", Hex{exception_cs},
               " rsp ", Hex{exception_rsp}, " error ", Hex{exception_error}, " cr2 ", Hex{exception_address}, "\n");
  guest::reset();
}
