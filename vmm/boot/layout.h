#pragma once

#include "vmm/config/configuration.h"
#include "vmm/memory/guest_memory.h"

#include <cstdint>

/// Where things lie in a guest before its first instruction, and which lines and ports its devices have. Constants
/// only: the boot structures, the tables that describe the machine and the devices themselves all take them from here.
///
///   address               what                                                     in e820
///   0x00500               GDT, four descriptors                                    usable: free once the kernel runs
///   0x00520               IDT, one empty gate                                      usable
///   0x06000 ... 0x06FFF   PVH start info, its module list and memory map           usable
///   0x07000 ... 0x07FFF   zero page (struct boot_params)                           usable
///   0x08FF0               top of the first stack, growing down to 0x8000           usable
///   0x09000 ... 0x0BFFF   page tables: PML4, PDPT, PD                              usable
///   0x20000 ...           command line                                             usable
///   0x9FC00 ... 0x9FFFF   MP table (the EBDA, where kernels look first)            reserved
///   0xC0000 ... 0xDEFFF   in a memory file: its label (snapshot/memory_file.h)     reserved
///   0xDF000 ... 0xDFFFF   VMClock and VM generation id                             reserved
///   0xE0000 ... 0xEFFFF   ACPI: RSDP, then the other tables                        reserved
///   0x100000 ...          kernel, from where its image says                        usable
///   ... end of low RAM    initrd, as high as it fits                               usable
///   0xD0000000            MMIO hole: virtio windows, IOAPIC, LAPIC                 not listed
///   4 GiB ...             RAM beyond the hole                                      usable
namespace mayfly::layout {

inline constexpr GuestAddress kGdt{0x500};
inline constexpr GuestAddress kIdt{0x520};
inline constexpr GuestAddress kPvhStartInfo{0x6000};
inline constexpr GuestAddress kPvhModuleList{0x6040};
inline constexpr GuestAddress kPvhMemoryMap{0x6080};
inline constexpr GuestAddress kZeroPage{0x7000};
inline constexpr GuestAddress kStackTop{0x8FF0};
inline constexpr GuestAddress kPageMapLevel4{0x9000};
inline constexpr GuestAddress kPageDirectoryPointers{0xA000};
inline constexpr GuestAddress kPageDirectory{0xB000};
inline constexpr GuestAddress kCommandLine{0x2'0000};

/// From here to 1 MiB e820 says "reserved": a kernel keeps what lies there.
inline constexpr GuestAddress kReservedLow{0x9'FC00};
inline constexpr GuestAddress kMpTable{0x9'FC00};
inline constexpr std::uint64_t kMpTableRoom = 0x400;
/// A page of its own, which the guest's kernel may show to its processes; below the area that is searched for table
/// signatures.
inline constexpr GuestAddress kVmClock{0xD'F000};
/// In the page of the VMClock. 8-byte aligned, as the specification of the generation id wants, and not at a multiple of
/// 2 KiB, where a search for option ROMs would read its random bytes as a signature.
inline constexpr GuestAddress kGenerationId{0xD'F810};
/// Where it is in snapshots of a Mayfly that had no VMClock.
inline constexpr GuestAddress kGenerationIdBeforeVmClock{0xD'F010};
inline constexpr GuestAddress kRsdp{0xE'0000};
inline constexpr GuestAddress kAcpiTables{0xE'0040};
inline constexpr GuestAddress kAcpiEnd{0xF'0000};

/// The first byte that a kernel image may occupy.
inline constexpr GuestAddress kKernelFloor{0x10'0000};
/// What the page tables of the Linux 64-bit entry cover, from 0.
inline constexpr std::uint64_t kIdentityMapped = 1024 * kMiB;

inline constexpr std::uint32_t kIoapicBase = 0xFEC0'0000;
inline constexpr std::uint64_t kIoapicLength = 0x1000;
inline constexpr std::uint32_t kLocalApicBase = 0xFEE0'0000;

/// Interrupt lines (GSIs: pins of the IOAPIC).
inline constexpr unsigned kTimerGsi = 2;     ///< ISA IRQ 0, the PIT, is wired to pin 2.
inline constexpr unsigned kKeyboardGsi = 1;  ///< The i8042.
inline constexpr unsigned kSerialGsi = 4;    ///< COM1.
inline constexpr unsigned kEventGsi = 9;     ///< ACPI generic event device: "the identity has changed".

/// I/O ports.
inline constexpr std::uint16_t kSerialPort = 0x3F8;
inline constexpr std::uint16_t kSerialPorts = 8;
inline constexpr std::uint16_t kKeyboardDataPort = 0x60;
inline constexpr std::uint16_t kKeyboardCommandPort = 0x64;
inline constexpr std::uint8_t kKeyboardResetCommand = 0xFE;
inline constexpr std::uint16_t kPvpanicPort = 0x505;
inline constexpr std::uint16_t kSleepControlPort = 0x600;
inline constexpr std::uint16_t kSleepStatusPort = 0x601;
inline constexpr std::uint16_t kSleepPorts = 2;
/// SLP_TYP that a guest which powers off writes to the sleep control port (ACPI 6.5, 4.8.3.7).
inline constexpr std::uint8_t kSleepTypeOff = 5;

static_assert(kIdt.value - kGdt.value == 4 * sizeof(std::uint64_t));
static_assert(kCommandLine.value + kMaximumCommandLine < kReservedLow.value);
static_assert(kVmClock.value % kGuestPageSize == 0 &&
              kGenerationId.value / kGuestPageSize == kVmClock.value / kGuestPageSize);
static_assert(kGenerationId.value % 8 == 0 && kGenerationId.value % 2048 != 0);

}  // namespace mayfly::layout
