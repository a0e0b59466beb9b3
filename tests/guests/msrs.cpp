#include "runtime/guest.h"

#include <array>

/// Sets model-specific registers that KVM keeps and does not list, as firmware and kernels do, and looks whether they
/// hold what was written.
///
/// Prints "msrs set", then waits for commands, one byte each:
///   c  checks all of them, prints "msrs ok"
///   q  checks them, and passes
///   w  checks them, and sets them to something else
/// Words of the command line: msr=N value=N, a register that the monitor has set before the entry; unset=1: leaves the
/// registers as they are at the entry until `w`.
namespace {

using namespace guest;

struct Register {
  std::uint32_t index;
  std::uint64_t value;
};

constexpr std::array kRegisters = {
    Register{0x2FF, 0xC06},                   // IA32_MTRR_DEF_TYPE: write-back, fixed ranges on
    Register{0x250, 0x0606'0606'0606'0606},   // IA32_MTRR_FIX64K_00000
    Register{0x26F, 0x0505'0505'0505'0505},   // IA32_MTRR_FIX4K_F8000
    Register{0x200, 0xE000'0000},             // IA32_MTRR_PHYSBASE0: uncacheable
    Register{0x201, 0xF'E000'0800},           // IA32_MTRR_PHYSMASK0: valid, 512 MiB
    Register{0x20F, 0xF'F000'0000},           // IA32_MTRR_PHYSMASK7: not valid
    Register{0x404, ~std::uint64_t{0}},       // IA32_MC1_CTL
    Register{0x174, 0x10},                    // IA32_SYSENTER_CS
    Register{0x277, 0x0007'0106'0007'0106},   // IA32_PAT
    Register{0xC000'0102, 0x1234'5678'9000},  // KERNEL_GS_BASE
};

[[gnu::naked]] std::uint64_t read_at_level_0(std::uint64_t, std::uint64_t) {
  asm("movl %edi, %ecx\n"
      "rdmsr\n"
      "shlq $32, %rdx\n"
      "orq %rdx, %rax\n"
      "ret\n");
}

[[gnu::naked]] std::uint64_t write_at_level_0(std::uint64_t, std::uint64_t) {
  asm("movl %edi, %ecx\n"
      "movl %esi, %eax\n"
      "movq %rsi, %rdx\n"
      "shrq $32, %rdx\n"
      "wrmsr\n"
      "ret\n");
}

/// What they are to hold.
std::array<std::uint64_t, kRegisters.size()> held;

std::uint64_t read(std::uint64_t index) { return at_level_0(read_at_level_0, index, 0); }
void write(std::uint64_t index, std::uint64_t value) { at_level_0(write_at_level_0, index, value); }

void check(std::uint64_t index, std::uint64_t value) {
  expect_equal(at_level_0(read_at_level_0, index), value, "a model-specific register is as it was");
}

char next_command() {
  while ((in8(serial::kLineStatus) & serial::kDataReady) == 0) {
  }
  return static_cast<char>(in8(serial::kData));
}

}  // namespace

void guest::guest_main(const BootInfo& boot) {
  const std::uint64_t edited = boot.number("msr", 0);
  const std::uint64_t edited_value = boot.number("value", 0);
  const auto check_all = [&] {
    for (std::size_t i = 0; i < kRegisters.size(); ++i) check(kRegisters.at(i).index, held.at(i));
    if (edited != 0) check(edited, edited_value);
  };
  const bool unset = boot.number("unset", 0) != 0;
  for (std::size_t i = 0; i < kRegisters.size(); ++i) {
    const auto [index, value] = kRegisters.at(i);
    if (!unset) write(index, value);
    held.at(i) = unset ? read(index) : value;
  }
  check_all();
  print("msrs set\n");
  for (;;) {
    const char command = next_command();
    check_all();
    if (command == 'q') pass();
    if (command == 'c') print("msrs ok\n");
    if (command != 'w') continue;
    for (const Register& each : kRegisters) write(each.index, unset ? each.value : 0);
    print("msrs changed\n");
  }
}
