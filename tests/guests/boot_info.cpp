#include "runtime/guest.h"
#include "runtime/high_memory.h"

#include <algorithm>

/// Checks what the monitor told the guest: command line, memory map, initrd, and the structure they came in (the
/// runtime checks its magic numbers). The command line must start with "console=". What it may say more:
///   expect_memory_mib=N     usable memory, rounded up to MiB
///   expect_initrd=N         size of the initrd in bytes, or 0: there is none
///   expect_rsdp=1           there is an ACPI root pointer, and its signature is right (0: there is none)
///   touch=1                 write and read back the first and last 8 bytes of every usable range below 16 GiB
namespace {

using guest::BootInfo;
using guest::expect;
using guest::expect_equal;
using guest::Hex;
using guest::MemoryRange;
using guest::print;

constexpr std::uint64_t kUnset = ~0ULL;
constexpr std::uint64_t kImage = 0x10'0000;
constexpr std::uint64_t kHoleStart = 0xD000'0000;
constexpr std::uint64_t kHoleEnd = 0x1'0000'0000;

bool overlap(std::uint64_t start, std::uint64_t end, const MemoryRange& range) {
  return start < range.end() && range.start < end;
}

bool usable_at(const BootInfo& boot, std::uint64_t start, std::uint64_t end) {
  return std::ranges::any_of(boot.memory, [=](const MemoryRange& range) {
    return range.usable() && range.start <= start && end <= range.end();
  });
}

void check_memory(const BootInfo& boot) {
  expect(!boot.memory.empty(), "there is a memory map");
  std::uint64_t previous_end = 0;
  for (const MemoryRange& range : boot.memory) {
    print("memory ", Hex{range.start}, " to ", Hex{range.end()}, " type ", range.type, "\n");
    expect(range.size != 0, "no range is empty");
    expect(range.end() > range.start, "no range wraps");
    expect(range.start >= previous_end, "ranges ascend and do not overlap");
    if (range.usable()) expect(!overlap(kHoleStart, kHoleEnd, range), "the MMIO hole is not usable memory");
    previous_end = range.end();
  }
  expect(usable_at(boot, kImage, kImage + 0x1000), "the kernel lies in usable memory");
  const std::uint64_t usable_mib = (boot.usable_bytes() + (1U << 20U) - 1) >> 20U;
  print("usable memory: ", usable_mib, " MiB\n");
  const std::uint64_t wanted_mib = boot.number("expect_memory_mib", kUnset);
  if (wanted_mib != kUnset) expect_equal(usable_mib, wanted_mib, "the machine has the memory that was asked for");
}

void touch(std::uint64_t address) {
  auto& word = guest::memory_at<volatile std::uint64_t>(address);
  const std::uint64_t before = word;
  word = ~before;
  expect_equal(word, ~before, "usable memory keeps what is written");
  word = before;
}

void check_initrd(const BootInfo& boot) {
  print("initrd: ", boot.initrd_size, " bytes at ", Hex{boot.initrd_start}, "\n");
  const std::uint64_t wanted = boot.number("expect_initrd", kUnset);
  if (wanted != kUnset) expect_equal(boot.initrd_size, wanted, "the initrd has its size");
  if (boot.initrd_size == 0) return;
  expect(boot.initrd_start % 4096 == 0, "the initrd starts on a page");
  expect(usable_at(boot, boot.initrd_start, boot.initrd_start + boot.initrd_size), "the initrd is in usable memory");
  std::uint64_t sum = 0;
  for (std::uint64_t index = 0; index < boot.initrd_size; ++index)
    sum += guest::memory_at<const std::uint8_t>(boot.initrd_start + index);
  print("initrd sum of bytes: ", sum, "\n");
}

void check_rsdp(const BootInfo& boot) {
  print("rsdp: ", Hex{boot.rsdp}, "\n");
  const std::uint64_t wanted = boot.number("expect_rsdp", kUnset);
  if (wanted == 0) expect_equal(boot.rsdp, 0, "there is no ACPI root pointer");
  if (wanted == 1) {
    expect(boot.rsdp != 0, "there is an ACPI root pointer");
    expect(std::string_view{&guest::memory_at<const char>(boot.rsdp), 8} == "RSD PTR ", "the root pointer is signed");
  }
}

}  // namespace

void guest::guest_main(const BootInfo& boot) {
  print("booted by ", boot.protocol == BootProtocol::Pvh ? "PVH" : "the Linux 64-bit protocol", ", structure at ",
        Hex{boot.structure}, "\n");
  print("command line: ", boot.command_line, "\n");
  expect(boot.command_line.starts_with("console="), "the command line starts with console=");
  check_memory(boot);
  check_initrd(boot);
  check_rsdp(boot);
  if (boot.number("touch", 0) != 0) {
    map_high_memory();
    for (const MemoryRange& range : boot.memory) {
      if (!range.usable() || range.end() > kHighMemoryEnd) continue;
      if (range.start != 0) touch((range.start + 7) & ~7ULL);
      touch((range.end() - 8) & ~7ULL);
    }
  }
  pass();
}
