#include "vmm/boot/entry_state.h"

#include "vmm/boot/layout.h"

#include <array>
#include <cstdint>

namespace mayfly {
namespace {

// Intel SDM volume 3, 2.5 "Control registers" and 2.2.1 "Extended feature enable register".
constexpr std::uint64_t kCr0ProtectionEnable = 1ULL << 0;
constexpr std::uint64_t kCr0ExtensionType = 1ULL << 4;  // wired to 1 in every processor that runs this
constexpr std::uint64_t kCr0Paging = 1ULL << 31;
constexpr std::uint64_t kCr4PhysicalAddressExtension = 1ULL << 5;
constexpr std::uint64_t kEferLongModeEnable = 1ULL << 8;
constexpr std::uint64_t kEferLongModeActive = 1ULL << 10;
constexpr std::uint64_t kRflagsReserved = 1ULL << 1;  // always 1; all else, with the interrupt flag, is 0

// Intel SDM volume 3, 4.5 "4-level paging": present, writable; a 2 MiB page where it is a directory's entry.
constexpr std::uint64_t kTableEntry = 0x3;
constexpr std::uint64_t kLargePageEntry = 0x83;
constexpr std::uint64_t kLargePageSize = 2 * kMiB;

// boot.rst wants __BOOT_CS 0x10 and __BOOT_DS 0x18; the task goes where room is left.
constexpr std::uint16_t kTaskSelector = 0x08;
constexpr std::uint16_t kCodeSelector = 0x10;
constexpr std::uint16_t kDataSelector = 0x18;

// Segment types, Intel SDM volume 3, 3.4.5.1 and 3.5.
constexpr std::uint8_t kCodeType = 0xB;  // execute, read, accessed
constexpr std::uint8_t kDataType = 0x3;  // read, write, accessed
constexpr std::uint8_t kTaskType = 0xB;  // busy 32-bit TSS; in long mode, busy 64-bit TSS

kvm_segment flat_segment(std::uint16_t selector, std::uint8_t type, bool long_mode) noexcept {
  kvm_segment segment{};
  segment.limit = 0xFFFF'FFFF;
  segment.selector = selector;
  segment.type = type;
  segment.present = 1;
  segment.s = 1;
  segment.g = 1;
  segment.l = long_mode && type == kCodeType ? 1 : 0;
  segment.db = segment.l == 0 ? 1 : 0;
  return segment;
}

kvm_segment task_segment() noexcept {
  kvm_segment segment{};
  segment.limit = 0x67;
  segment.selector = kTaskSelector;
  segment.type = kTaskType;
  segment.present = 1;
  return segment;
}

/// The descriptor that loading this segment would read from the GDT (Intel SDM volume 3, 3.4.5).
std::uint64_t descriptor_of(const kvm_segment& segment) noexcept {
  const std::uint64_t limit = segment.g != 0 ? segment.limit >> 12 : segment.limit;
  const auto bits = [](std::uint64_t value, unsigned at) { return value << at; };
  const std::uint64_t access =
      bits(segment.type, 0) | bits(segment.s, 4) | bits(segment.dpl, 5) | bits(segment.present, 7);
  const std::uint64_t flags = bits(segment.avl, 0) | bits(segment.l, 1) | bits(segment.db, 2) | bits(segment.g, 3);
  return (limit & 0xFFFF) | (segment.base & 0xFF'FFFF) << 16 | access << 40 | (limit >> 16 & 0xF) << 48 | flags << 52 |
         (segment.base >> 24 & 0xFF) << 56;
}

}  // namespace

void write_entry_tables(const GuestMemory& memory, EntryProtocol protocol) {
  const bool long_mode = protocol == EntryProtocol::Linux64;
  const std::array<std::uint64_t, 4> gdt{0, descriptor_of(task_segment()),
                                         descriptor_of(flat_segment(kCodeSelector, kCodeType, long_mode)),
                                         descriptor_of(flat_segment(kDataSelector, kDataType, long_mode))};
  bool written = memory.store(layout::kGdt, gdt) && memory.store(layout::kIdt, std::uint64_t{0});
  if (long_mode) {
    std::array<std::uint64_t, layout::kIdentityMapped / kLargePageSize> directory{};
    for (std::size_t page = 0; page < directory.size(); ++page)
      directory[page] = page * kLargePageSize | kLargePageEntry;
    written = written && memory.store(layout::kPageMapLevel4, layout::kPageDirectoryPointers.value | kTableEntry) &&
              memory.store(layout::kPageDirectoryPointers, layout::kPageDirectory.value | kTableEntry) &&
              memory.store(layout::kPageDirectory, directory);
  }
  ensure(written, "the tables of the boot processor lie outside guest memory");
}

void set_entry_registers(const BootEntry& entry, kvm_sregs& special, kvm_regs& general) noexcept {
  const bool long_mode = entry.protocol == EntryProtocol::Linux64;
  special.cs = flat_segment(kCodeSelector, kCodeType, long_mode);
  special.ds = special.es = special.fs = special.gs = special.ss = flat_segment(kDataSelector, kDataType, long_mode);
  special.tr = task_segment();
  special.gdt = {.base = layout::kGdt.value, .limit = 4 * sizeof(std::uint64_t) - 1, .padding = {}};
  special.idt = {.base = layout::kIdt.value, .limit = sizeof(std::uint64_t) - 1, .padding = {}};
  special.cr0 = kCr0ProtectionEnable | kCr0ExtensionType | (long_mode ? kCr0Paging : 0);
  special.cr3 = long_mode ? layout::kPageMapLevel4.value : 0;
  special.cr4 = long_mode ? kCr4PhysicalAddressExtension : 0;
  special.efer = long_mode ? kEferLongModeEnable | kEferLongModeActive : 0;

  general = {};
  general.rflags = kRflagsReserved;
  general.rip = entry.instruction.value;
  general.rsp = general.rbp = entry.stack.value;
  (long_mode ? general.rsi : general.rbx) = entry.parameters.value;
}

}  // namespace mayfly
