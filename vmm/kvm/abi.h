#pragma once

#include <linux/kvm.h>
#include <sys/ioctl.h>

#include <array>
#include <cstddef>
#include <cstdint>

/// KVM's variable-length structures and their request numbers, for C++.
///
/// The kernel's headers declare flexible arrays through an empty struct, which has size 0 in C and 1 in C++. There,
/// sizeof(kvm_cpuid2) is 12 rather than 8, so the _IOW numbers made from it are wrong (EINVAL). Every such structure is
/// given its true shape here, and nowhere else; the asserts hold it to the C layout.
namespace mayfly::kvm_abi {

constexpr unsigned long request(unsigned direction, unsigned number, std::size_t size) {
  return _IOC(direction, KVMIO, number, size);
}

template <typename Entry, std::size_t kCapacity>
struct Table {
  std::uint32_t count = 0;
  std::uint32_t padding = 0;  // "flags" of kvm_irq_routing
  std::array<Entry, kCapacity> entries{};
};

/// Hosts report about 60 entries; KVM itself stops at 256.
using CpuidTable = Table<kvm_cpuid_entry2, 256>;
/// KVM takes up to 255. A vCPU has some 45, and of Linux 75: one call restores them.
using MsrTable = Table<kvm_msr_entry, 128>;
using RoutingTable = Table<kvm_irq_routing_entry, 64>;
/// kvm_msr_list. Hosts report about 100; KVM has some 200 in all.
struct MsrIndexTable {
  std::uint32_t count = 0;
  std::array<std::uint32_t, 1024> indices{};
};
/// kvm_xsave without the part that only some hosts have: those of AMX ask for more.
inline constexpr std::size_t kLeastXsaveSize = 4096;

static_assert(offsetof(CpuidTable, entries) == 8 && sizeof(kvm_cpuid_entry2) == 40);
static_assert(offsetof(MsrTable, entries) == 8 && sizeof(kvm_msr_entry) == 16);
static_assert(offsetof(RoutingTable, entries) == 8 && sizeof(kvm_irq_routing_entry) == 48);

static_assert(offsetof(MsrIndexTable, indices) == 4);

inline constexpr unsigned long kGetMsrIndexList = request(_IOC_READ | _IOC_WRITE, 0x02, 4);
inline constexpr unsigned long kGetSupportedCpuid = request(_IOC_READ | _IOC_WRITE, 0x05, 8);
inline constexpr unsigned long kSetGsiRouting = request(_IOC_WRITE, 0x6a, 8);
inline constexpr unsigned long kGetMsrs = request(_IOC_READ | _IOC_WRITE, 0x88, 8);
inline constexpr unsigned long kSetMsrs = request(_IOC_WRITE, 0x89, 8);
inline constexpr unsigned long kSetCpuid2 = request(_IOC_WRITE, 0x90, 8);
inline constexpr unsigned long kGetCpuid2 = request(_IOC_READ | _IOC_WRITE, 0x91, 8);
inline constexpr unsigned long kGetXsave = request(_IOC_READ, 0xa4, kLeastXsaveSize);
inline constexpr unsigned long kSetXsave = request(_IOC_WRITE, 0xa5, kLeastXsaveSize);
inline constexpr unsigned long kGetXsave2 = request(_IOC_READ, 0xcf, kLeastXsaveSize);

// The fixed-size ones are right as the header has them.
static_assert(sizeof(kvm_userspace_memory_region) == 32);
static_assert(sizeof(kvm_regs) == 144 && sizeof(kvm_sregs) == 312);
static_assert(sizeof(kvm_msi) == 32 && sizeof(kvm_enable_cap) == 104);
static_assert(sizeof(kvm_lapic_state) == 1024 && sizeof(kvm_xcrs) == 392 && sizeof(kvm_debugregs) == 128);
static_assert(sizeof(kvm_vcpu_events) == 64 && sizeof(kvm_mp_state) == 4 && sizeof(kvm_clock_data) == 48);
static_assert(sizeof(kvm_dirty_log) == 16);

}  // namespace mayfly::kvm_abi
