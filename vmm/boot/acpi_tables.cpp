#include "vmm/boot/acpi_tables.h"

#include "vmm/boot/dsdt.h"
#include "vmm/boot/layout.h"
#include "vmm/boot/mp_table.h"
#include "vmm/boot/table_bytes.h"

#include <array>
#include <cstddef>

namespace mayfly {
namespace {

/// 5.2.6 System Description Table Header.
struct [[gnu::packed]] Header {
  std::array<char, 4> signature;
  std::uint32_t length = 0;
  std::uint8_t revision;
  std::uint8_t checksum = 0;
  std::array<char, 6> oem_id{'M', 'A', 'Y', 'F', 'L', 'Y'};
  std::array<char, 8> oem_table_id{'M', 'I', 'C', 'R', 'O', 'V', 'M', ' '};
  std::uint32_t oem_revision = 1;
  std::array<char, 4> creator_id{'M', 'F', 'L', 'Y'};
  std::uint32_t creator_revision = 1;
};
static_assert(sizeof(Header) == 36);

/// 5.2.5.3 Root System Description Pointer.
struct [[gnu::packed]] Rsdp {
  std::array<char, 8> signature{'R', 'S', 'D', ' ', 'P', 'T', 'R', ' '};
  std::uint8_t checksum = 0;
  std::array<char, 6> oem_id{'M', 'A', 'Y', 'F', 'L', 'Y'};
  std::uint8_t revision = 2;
  std::uint32_t rsdt_address = 0;
  std::uint32_t length = 36;
  std::uint64_t xsdt_address;
  std::uint8_t extended_checksum = 0;
  std::array<std::uint8_t, 3> reserved{};
};
static_assert(sizeof(Rsdp) == 36);
/// The first checksum covers what revision 0 of the structure had.
constexpr std::size_t kRsdpFirstPart = 20;

/// 5.2.3.2 Generic Address Structure.
struct [[gnu::packed]] GenericAddress {
  std::uint8_t space = 0;
  std::uint8_t bit_width = 0;
  std::uint8_t bit_offset = 0;
  std::uint8_t access_size = 0;
  std::uint64_t address = 0;
};
static_assert(sizeof(GenericAddress) == 12);

constexpr GenericAddress port_byte(std::uint16_t port) noexcept {
  constexpr std::uint8_t kSystemIo = 1;
  constexpr std::uint8_t kByteAccess = 1;
  return {.space = kSystemIo, .bit_width = 8, .bit_offset = 0, .access_size = kByteAccess, .address = port};
}

/// 5.2.9 Fixed ACPI Description Table, revision 6. What a hardware-reduced machine leaves zero is kept as one array.
struct [[gnu::packed]] Fadt {
  Header header{.signature = {'F', 'A', 'C', 'P'}, .revision = 6};
  std::uint32_t facs_address = 0;
  std::uint32_t dsdt_address = 0;  ///< 0: the 64-bit field below counts.
  std::array<std::uint8_t, 65> fixed_hardware{};
  std::uint16_t boot_architecture;
  std::uint8_t reserved = 0;
  std::uint32_t flags;
  GenericAddress reset_register = port_byte(layout::kKeyboardCommandPort);
  std::uint8_t reset_value = layout::kKeyboardResetCommand;
  std::uint16_t arm_boot_architecture = 0;
  std::uint8_t minor_revision = 5;
  std::uint64_t extended_facs_address = 0;
  std::uint64_t extended_dsdt_address;
  std::array<std::uint8_t, 96> extended_fixed_hardware{};
  GenericAddress sleep_control = port_byte(layout::kSleepControlPort);
  GenericAddress sleep_status = port_byte(layout::kSleepStatusPort);
  std::array<char, 8> hypervisor{'M', 'A', 'Y', 'F', 'L', 'Y', ' ', ' '};
};
static_assert(sizeof(Fadt) == 276);
static_assert(offsetof(Fadt, boot_architecture) == 109 && offsetof(Fadt, flags) == 112);
static_assert(offsetof(Fadt, extended_dsdt_address) == 140 && offsetof(Fadt, sleep_control) == 244);

/// 5.2.9, table 5.10.
constexpr std::uint32_t kFlagWbinvd = 1U << 0;
constexpr std::uint32_t kFlagNoFixedPowerButton = 1U << 4;
constexpr std::uint32_t kFlagNoFixedSleepButton = 1U << 5;
constexpr std::uint32_t kFlagResetRegister = 1U << 10;
constexpr std::uint32_t kFlagHardwareReduced = 1U << 20;

/// 5.2.9.3, table 5.11.
constexpr std::uint16_t kBootHas8042 = 1U << 1;
constexpr std::uint16_t kBootNoVga = 1U << 2;
constexpr std::uint16_t kBootNoCmosRtc = 1U << 5;

/// 5.2.12 Multiple APIC Description Table; flags 0: no 8259s beside the IOAPIC.
struct [[gnu::packed]] Madt {
  Header header{.signature = {'A', 'P', 'I', 'C'}, .revision = 5};
  std::uint32_t local_apic_address = layout::kLocalApicBase;
  std::uint32_t flags = 0;
};
static_assert(sizeof(Madt) == 44);

/// 5.2.12.2.
struct [[gnu::packed]] MadtLocalApic {
  std::uint8_t type = 0;
  std::uint8_t length = 8;
  std::uint8_t processor_uid;
  std::uint8_t apic_id;
  std::uint32_t flags = 1;  ///< Enabled.
};
static_assert(sizeof(MadtLocalApic) == 8);

/// 5.2.12.3.
struct [[gnu::packed]] MadtIoApic {
  std::uint8_t type = 1;
  std::uint8_t length = 12;
  std::uint8_t id;
  std::uint8_t reserved = 0;
  std::uint32_t address = layout::kIoapicBase;
  std::uint32_t first_gsi = 0;
};
static_assert(sizeof(MadtIoApic) == 12);

/// 5.2.12.5; flags 0: polarity and trigger mode of the ISA bus.
struct [[gnu::packed]] MadtSourceOverride {
  std::uint8_t type = 2;
  std::uint8_t length = 10;
  std::uint8_t bus = 0;
  std::uint8_t source = 0;
  std::uint32_t gsi = layout::kTimerGsi;
  std::uint16_t flags = 0;
};
static_assert(sizeof(MadtSourceOverride) == 10);

TableBytes finish(TableBytes table) {
  put(table, offsetof(Header, length), static_cast<std::uint32_t>(table.size()));
  set_checksum(table, offsetof(Header, checksum));
  return table;
}

TableBytes dsdt_table(std::span<const VirtioMmioWindow> windows) {
  TableBytes table;
  append(table, Header{.signature = {'D', 'S', 'D', 'T'}, .revision = 2});
  append(table, dsdt_body(windows));
  return finish(std::move(table));
}

TableBytes fadt_table(std::uint64_t dsdt_address) {
  TableBytes table;
  append(table, Fadt{.boot_architecture = kBootHas8042 | kBootNoVga | kBootNoCmosRtc,
                     .flags = kFlagWbinvd | kFlagNoFixedPowerButton | kFlagNoFixedSleepButton | kFlagResetRegister |
                              kFlagHardwareReduced,
                     .extended_dsdt_address = dsdt_address});
  return finish(std::move(table));
}

TableBytes madt_table(unsigned vcpu_count) {
  TableBytes table;
  append(table, Madt{});
  for (unsigned number = 0; number < vcpu_count; ++number) {
    const auto id = static_cast<std::uint8_t>(number);
    append(table, MadtLocalApic{.processor_uid = id, .apic_id = id});
  }
  append(table, MadtIoApic{.id = io_apic_id(vcpu_count)});
  append(table, MadtSourceOverride{});
  return finish(std::move(table));
}

TableBytes xsdt_table(std::initializer_list<std::uint64_t> addresses) {
  TableBytes table;
  append(table, Header{.signature = {'X', 'S', 'D', 'T'}, .revision = 1});
  for (const std::uint64_t address : addresses) append(table, address);
  return finish(std::move(table));
}

TableBytes rsdp_table(std::uint64_t xsdt_address) {
  TableBytes first;
  append(first, Rsdp{.xsdt_address = xsdt_address});
  const TableBytes rest(first.begin() + kRsdpFirstPart, first.end());
  first.resize(kRsdpFirstPart);
  set_checksum(first, offsetof(Rsdp, checksum));
  append(first, rest);
  set_checksum(first, offsetof(Rsdp, extended_checksum));
  return first;
}

/// Places tables one after the other.
class Placer {
 public:
  explicit Placer(const GuestMemory& memory) noexcept : memory_(memory) {}
  std::uint64_t place(const TableBytes& table) {
    const GuestAddress at = next_;
    const std::uint64_t end = at.value + table.size();
    ensure(end <= layout::kAcpiEnd.value && memory_.write(at, std::as_bytes(std::span{table})),
           "the ACPI tables do not fit below the end of their area");
    next_.value = (end + kAlignment - 1) & ~(kAlignment - 1);
    return at.value;
  }

 private:
  static constexpr std::uint64_t kAlignment = 16;
  const GuestMemory& memory_;
  GuestAddress next_ = layout::kAcpiTables;
};

}  // namespace

void write_acpi_tables(const GuestMemory& memory, unsigned vcpu_count, std::span<const VirtioMmioWindow> windows) {
  ensure(vcpu_count >= 1 && vcpu_count <= kMaximumVcpus, "the MADT is made for 1 to 32 processors");
  Placer placer{memory};
  const std::uint64_t dsdt = placer.place(dsdt_table(windows));
  const std::uint64_t fadt = placer.place(fadt_table(dsdt));
  const std::uint64_t madt = placer.place(madt_table(vcpu_count));
  const std::uint64_t xsdt = placer.place(xsdt_table({fadt, madt}));
  const TableBytes rsdp = rsdp_table(xsdt);
  ensure(memory.write(layout::kRsdp, std::as_bytes(std::span{rsdp})), "the RSDP lies outside guest memory");
}

}  // namespace mayfly
