#include "vmm/boot/entry_state.h"

#include "vmm/boot/layout.h"

#include <array>

#include <gtest/gtest.h>

namespace mayfly {
namespace {

/// What KVM_GET_SREGS says of a processor after reset, as far as it matters here.
kvm_sregs reset_sregs() {
  kvm_sregs sregs{};
  sregs.cr0 = 0x6000'0010;
  sregs.apic_base = 0xFEE0'0900;
  sregs.cs.selector = 0xF000;
  sregs.cs.base = 0xFFFF'0000;
  sregs.cs.limit = 0xFFFF;
  return sregs;
}

struct EntryStateTest : ::testing::Test {
  void enter(EntryProtocol protocol) {
    general.rax = 0x1234;
    write_entry_tables(*memory, protocol);
    set_entry_registers({.protocol = protocol,
                         .instruction = GuestAddress{0x100'0200},
                         .parameters = GuestAddress{0x7000},
                         .stack = layout::kStackTop},
                        special, general);
  }
  [[nodiscard]] std::uint64_t word(std::uint64_t at) const { return *memory->load<std::uint64_t>(GuestAddress{at}); }

  Result<GuestMemory> memory = GuestMemory::create({.size_mib = 2});
  kvm_sregs special = reset_sregs();
  kvm_regs general = {};
};

TEST_F(EntryStateTest, Linux64EntersLongModeWithTheZeroPageInRsi) {
  enter(EntryProtocol::Linux64);
  EXPECT_EQ(special.cr0, 0x8000'0011U) << "paging, protection; caches on";
  EXPECT_EQ(special.cr3, 0x9000U);
  EXPECT_EQ(special.cr4, 0x20U);
  EXPECT_EQ(special.efer, 0x500U);
  EXPECT_EQ(special.cs.selector, 0x10);
  EXPECT_EQ(special.cs.l, 1);
  EXPECT_EQ(special.cs.db, 0);
  for (const kvm_segment& data : {special.ds, special.es, special.ss, special.fs, special.gs}) {
    EXPECT_EQ(data.selector, 0x18);
    EXPECT_EQ(data.limit, 0xFFFF'FFFFU);
    EXPECT_EQ(data.type & 0x8, 0);
  }
  EXPECT_EQ(general.rip, 0x100'0200U);
  EXPECT_EQ(general.rsi, 0x7000U);
  EXPECT_EQ(general.rbx, 0U);
  EXPECT_EQ(general.rax, 0U);
  EXPECT_EQ(general.rflags, 2U) << "interrupts off";
  EXPECT_EQ(general.rsp, 0x8FF0U);
}

TEST_F(EntryStateTest, PvhEntersProtectedModeWithoutPagingAndStartInfoInEbx) {
  enter(EntryProtocol::Pvh);
  EXPECT_EQ(special.cr0, 0x11U);
  EXPECT_EQ(special.cr3, 0U);
  EXPECT_EQ(special.cr4, 0U);
  EXPECT_EQ(special.efer, 0U);
  EXPECT_EQ(special.cs.l, 0);
  EXPECT_EQ(special.cs.db, 1);
  EXPECT_EQ(special.cs.base, 0U);
  EXPECT_EQ(special.cs.limit, 0xFFFF'FFFFU);
  EXPECT_EQ(special.tr.limit, 0x67U);
  EXPECT_EQ(special.tr.type, 0xB);
  EXPECT_EQ(special.tr.s, 0);
  EXPECT_EQ(general.rbx, 0x7000U);
  EXPECT_EQ(general.rsi, 0U);
  EXPECT_EQ(general.rflags, 2U);
  EXPECT_EQ(word(0x9000), 0U) << "no page tables are made";
}

TEST_F(EntryStateTest, TheApicBaseIsKept) {
  enter(EntryProtocol::Pvh);
  EXPECT_EQ(special.apic_base, 0xFEE0'0900U);
}

TEST_F(EntryStateTest, TheGdtHoldsWhatTheSegmentRegistersHold) {
  enter(EntryProtocol::Linux64);
  EXPECT_EQ(special.gdt.base, 0x500U);
  EXPECT_EQ(special.gdt.limit, 31);
  EXPECT_EQ(word(0x500), 0U);
  EXPECT_EQ(word(0x508), 0x0000'8B00'0000'0067U);
  EXPECT_EQ(word(0x510), 0x00AF'9B00'0000'FFFFU);
  EXPECT_EQ(word(0x518), 0x00CF'9300'0000'FFFFU);
  EXPECT_EQ(special.idt.base, 0x520U);
  EXPECT_EQ(word(0x520), 0U);
  enter(EntryProtocol::Pvh);
  EXPECT_EQ(word(0x510), 0x00CF'9B00'0000'FFFFU);
}

TEST_F(EntryStateTest, TheFirstGibIsMappedToItself) {
  enter(EntryProtocol::Linux64);
  for (const std::uint64_t address : {0ULL, 0x10'0200ULL, 0x3FFF'FFFFULL}) {
    const std::uint64_t upper = word(special.cr3 + (address >> 39 & 0x1FF) * 8);
    const std::uint64_t middle = word((upper & ~0xFFFULL) + (address >> 30 & 0x1FF) * 8);
    const std::uint64_t page = word((middle & ~0xFFFULL) + (address >> 21 & 0x1FF) * 8);
    EXPECT_EQ(upper & 0xFFF, 3U);
    EXPECT_EQ(middle & 0xFFF, 3U);
    EXPECT_EQ(page & 0xFFF, 0x83U);
    EXPECT_EQ((page & ~0xFFFULL) + (address & 0x1F'FFFF), address);
  }
  EXPECT_EQ(word(special.cr3 + 8), 0U);
  EXPECT_EQ(word(0xA008), 0U);
}

}  // namespace
}  // namespace mayfly
