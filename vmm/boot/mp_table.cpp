#include "vmm/boot/mp_table.h"

#include "vmm/boot/layout.h"
#include "vmm/boot/table_bytes.h"
#include "vmm/kvm/message_port.h"

#include <array>

namespace mayfly {
namespace {

/// Intel MP specification 1.4, 4.1.
struct [[gnu::packed]] FloatingPointer {
  std::array<char, 4> signature{'_', 'M', 'P', '_'};
  std::uint32_t table_address;
  std::uint8_t length = 1;  ///< In units of 16 bytes.
  std::uint8_t revision = 4;
  std::uint8_t checksum = 0;
  std::array<std::uint8_t, 5> features{};  ///< 0: a table is there, and virtual wire mode.
};
static_assert(sizeof(FloatingPointer) == 16);

/// 4.2.
struct [[gnu::packed]] ConfigurationHeader {
  std::array<char, 4> signature{'P', 'C', 'M', 'P'};
  std::uint16_t length = 0;
  std::uint8_t revision = 4;
  std::uint8_t checksum = 0;
  std::array<char, 8> oem{'M', 'A', 'Y', 'F', 'L', 'Y', ' ', ' '};
  std::array<char, 12> product{'M', 'I', 'C', 'R', 'O', 'V', 'M', ' ', ' ', ' ', ' ', ' '};
  std::uint32_t oem_table_address = 0;
  std::uint16_t oem_table_size = 0;
  std::uint16_t entry_count;
  std::uint32_t local_apic_address = layout::kLocalApicBase;
  std::uint16_t extended_length = 0;
  std::uint8_t extended_checksum = 0;
  std::uint8_t reserved = 0;
};
static_assert(sizeof(ConfigurationHeader) == 44);
constexpr std::size_t kHeaderChecksum = 7;
constexpr std::size_t kHeaderLength = 4;
constexpr std::size_t kPointerChecksum = 10;

enum class EntryType : std::uint8_t { Processor = 0, Bus = 1, IoApic = 2, IoInterrupt = 3, LocalInterrupt = 4 };
enum class InterruptType : std::uint8_t { Vectored = 0, NonMaskable = 1, External = 3 };

constexpr std::uint8_t kLocalApicVersion = 0x14;
constexpr std::uint8_t kIoApicVersion = 0x11;
constexpr std::uint8_t kEnabled = 1;
constexpr std::uint8_t kBootProcessor = 2;
constexpr std::uint32_t kProcessorSignature = 0x600;  // CPUID says more; family 6
constexpr std::uint32_t kProcessorFeatures = 0x201;   // FPU, APIC
constexpr std::uint8_t kIsaBus = 0;
constexpr std::uint8_t kAllProcessors = 0xFF;

/// 4.3.1.
struct [[gnu::packed]] ProcessorEntry {
  EntryType type = EntryType::Processor;
  std::uint8_t apic_id;
  std::uint8_t apic_version = kLocalApicVersion;
  std::uint8_t flags;
  std::uint32_t signature = kProcessorSignature;
  std::uint32_t features = kProcessorFeatures;
  std::array<std::uint32_t, 2> reserved{};
};
static_assert(sizeof(ProcessorEntry) == 20);

/// 4.3.2.
struct [[gnu::packed]] BusEntry {
  EntryType type = EntryType::Bus;
  std::uint8_t id = kIsaBus;
  std::array<char, 6> name{'I', 'S', 'A', ' ', ' ', ' '};
};
static_assert(sizeof(BusEntry) == 8);

/// 4.3.3.
struct [[gnu::packed]] IoApicEntry {
  EntryType type = EntryType::IoApic;
  std::uint8_t id;
  std::uint8_t version = kIoApicVersion;
  std::uint8_t flags = kEnabled;
  std::uint32_t address = layout::kIoapicBase;
};
static_assert(sizeof(IoApicEntry) == 8);

/// 4.3.4 and 4.3.5, whose fields agree. Flags 0: polarity and trigger mode as the bus has them, for ISA active-high and
/// edge-triggered.
struct [[gnu::packed]] InterruptEntry {
  EntryType type;
  InterruptType interrupt = InterruptType::Vectored;
  std::uint16_t flags = 0;
  std::uint8_t source_bus = kIsaBus;
  std::uint8_t source_line = 0;
  std::uint8_t destination_apic;
  std::uint8_t destination_pin;
};
static_assert(sizeof(InterruptEntry) == 8);

// One entry a processor, the bus, the IOAPIC, every pin but 0, two local lines.
static_assert(sizeof(FloatingPointer) + sizeof(ConfigurationHeader) + kMaximumVcpus * sizeof(ProcessorEntry) +
                  sizeof(BusEntry) + sizeof(IoApicEntry) + (kIoapicPins + 1) * sizeof(InterruptEntry) <=
              layout::kMpTableRoom);

class ConfigurationTable {
 public:
  template <typename Entry>
  void add(const Entry& entry) {
    append(entries_, entry);
    ++count_;
  }
  [[nodiscard]] TableBytes finish() const {
    TableBytes table;
    append(table, ConfigurationHeader{.entry_count = count_});
    append(table, entries_);
    put(table, kHeaderLength, static_cast<std::uint16_t>(table.size()));
    set_checksum(table, kHeaderChecksum);
    return table;
  }

 private:
  TableBytes entries_;
  std::uint16_t count_ = 0;
};

}  // namespace

void write_mp_table(const GuestMemory& memory, unsigned vcpu_count) {
  ensure(vcpu_count >= 1 && vcpu_count <= kMaximumVcpus, "the MP table has room for 1 to 32 processors");
  const std::uint8_t io_apic = io_apic_id(vcpu_count);
  ConfigurationTable table;
  for (unsigned id = 0; id < vcpu_count; ++id)
    table.add(ProcessorEntry{.apic_id = static_cast<std::uint8_t>(id),
                             .flags = static_cast<std::uint8_t>(id == 0 ? kEnabled | kBootProcessor : kEnabled)});
  table.add(BusEntry{});
  table.add(IoApicEntry{.id = io_apic});
  for (std::uint8_t line = 0; line < kIoapicPins; ++line) {
    if (line == layout::kTimerGsi) continue;
    table.add(InterruptEntry{.type = EntryType::IoInterrupt,
                             .source_line = line,
                             .destination_apic = io_apic,
                             .destination_pin = static_cast<std::uint8_t>(line == 0 ? layout::kTimerGsi : line)});
  }
  table.add(InterruptEntry{.type = EntryType::LocalInterrupt,
                           .interrupt = InterruptType::External,
                           .destination_apic = 0,
                           .destination_pin = 0});
  table.add(InterruptEntry{.type = EntryType::LocalInterrupt,
                           .interrupt = InterruptType::NonMaskable,
                           .destination_apic = kAllProcessors,
                           .destination_pin = 1});

  TableBytes pointer;
  append(pointer, FloatingPointer{.table_address =
                                      static_cast<std::uint32_t>(layout::kMpTable.value + sizeof(FloatingPointer))});
  set_checksum(pointer, kPointerChecksum);
  append(pointer, table.finish());
  ensure(memory.write(layout::kMpTable, std::as_bytes(std::span{pointer})), "the MP table lies outside guest memory");
}

}  // namespace mayfly
