#pragma once

#include "vmm/memory/guest_memory.h"

#include <linux/kvm.h>

/// The state of the boot processor at its first instruction, by the protocol that the kernel is entered with.
///
///   write_entry_tables(memory, entry.protocol);                  // prepare_boot() does this
///   kvm_sregs special = ...KVM_GET_SREGS...; kvm_regs general;
///   set_entry_registers(entry, special, general);                // then KVM_SET_SREGS, KVM_SET_REGS
///
/// Only the boot processor is entered so; the others wait for its start-up interrupt, as KVM makes them.
namespace mayfly {

enum class EntryProtocol {
  Linux64,  ///< Linux boot.rst, "64-bit Boot Protocol": long mode, RSI = zero page.
  Pvh,      ///< Xen docs/misc/pvh.pandoc: 32-bit protected mode without paging, EBX = start info.
};

/// How the boot processor starts.
struct BootEntry {
  EntryProtocol protocol = EntryProtocol::Linux64;
  GuestAddress instruction;
  GuestAddress parameters;  ///< The zero page, or the PVH start info.
  GuestAddress stack;       ///< Top; neither protocol promises one, small test guests like one.
};

/// Writes the GDT, an IDT that is empty (an exception before the kernel has its own ends the guest) and, for
/// Linux64, page tables that map the first GiB to itself by 2 MiB pages.
void write_entry_tables(const GuestMemory& memory, EntryProtocol protocol);

/// Changes what the entry needs in `special`, which comes from KVM_GET_SREGS (the APIC base is kept), and fills
/// `general` whole. Both protocols: interrupts off, selectors 0x10 for code, 0x18 for data, 0x08 for the task. Pure.
void set_entry_registers(const BootEntry& entry, kvm_sregs& special, kvm_regs& general) noexcept;

}  // namespace mayfly
