#include "runtime/guest.h"

#include <array>

/// Loads from MMIO that nobody claims give all ones at every width and stores change nothing.
/// (QEMU gives zeroes there: this guest fails under it.)
namespace {

/// Far above the virtio windows, which grow from 0xD0000000; between and beside the APICs.
constexpr std::array<std::uint64_t, 5> kUnclaimed = {0xDFFF'F000, 0xE000'0000, 0xF012'3450, 0xFEC0'1000, 0xFED0'0000};

}  // namespace

void guest::guest_main(const BootInfo&) {
  for (const std::uint64_t address : kUnclaimed) {
    const Mmio hole{address};
    hole.write8(0, 1);
    hole.write16(0, 2);
    hole.write32(0, 3);
    hole.write64(0, 4);
    expect_equal(hole.read8(0), 0xFF, "a byte of unclaimed MMIO is all ones");
    expect_equal(hole.read8(3), 0xFF, "an odd byte of unclaimed MMIO is all ones");
    expect_equal(hole.read16(2), 0xFFFF, "two bytes of unclaimed MMIO are all ones");
    expect_equal(hole.read32(4), 0xFFFF'FFFF, "four bytes of unclaimed MMIO are all ones");
    expect_equal(hole.read64(8), ~0ULL, "eight bytes of unclaimed MMIO are all ones");
  }
  pass();
}
