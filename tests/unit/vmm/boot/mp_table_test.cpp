#include "vmm/boot/mp_table.h"

#include "tests/unit/vmm/boot/boot_images.h"
#include "vmm/boot/layout.h"

#include <array>
#include <map>
#include <numeric>
#include <set>

namespace mayfly {
namespace {

constexpr std::uint64_t kPointer = 0x9'FC00;

struct MpTableTest : ::testing::Test {
  void write(unsigned vcpu_count) {
    write_mp_table(*memory, vcpu_count);
    table = *load<std::uint32_t>(kPointer + 4);
    size = *load<std::uint16_t>(table + 4);
    static constexpr std::array<std::uint64_t, 5> kSizes{20, 8, 8, 8, 8};
    entries.clear();
    std::uint64_t at = table + 44;
    for (unsigned left = *load<std::uint16_t>(table + 34); left > 0; --left) {
      const std::uint8_t type = byte(at);
      ASSERT_LT(type, kSizes.size());
      entries.emplace(type, at);
      at += kSizes[type];
    }
    EXPECT_EQ(at, table + size) << "the count and the length agree";
  }
  template <typename T>
  [[nodiscard]] std::optional<T> load(std::uint64_t at) const {
    return memory->load<T>(GuestAddress{at});
  }
  [[nodiscard]] std::uint8_t byte(std::uint64_t at) const { return *load<std::uint8_t>(at); }
  [[nodiscard]] std::uint8_t sum(std::uint64_t at, std::uint64_t length) const {
    std::uint8_t total = 0;
    for (std::uint64_t end = at + length; at < end; ++at) total = static_cast<std::uint8_t>(total + byte(at));
    return total;
  }

  Result<GuestMemory> memory = GuestMemory::create({.size_mib = 1});
  std::uint64_t table = 0;
  std::uint64_t size = 0;
  std::multimap<std::uint8_t, std::uint64_t> entries;  // type to address
};

TEST_F(MpTableTest, SignaturesAndChecksumsAreRight) {
  for (const unsigned count : {1U, 2U, 32U}) {
    write(count);
    EXPECT_EQ(*load<std::uint32_t>(kPointer), 0x5F50'4D5FU) << "_MP_";
    EXPECT_EQ(*load<std::uint32_t>(table), 0x504D'4350U) << "PCMP";
    EXPECT_EQ(sum(kPointer, 16), 0);
    EXPECT_EQ(sum(table, size), 0);
    EXPECT_EQ(*load<std::uint32_t>(table + 36), 0xFEE0'0000U);
    EXPECT_LE(table + size, kPointer + layout::kMpTableRoom);
  }
}

TEST_F(MpTableTest, ListsEveryProcessorOnceAndOneBootProcessor) {
  write(32);
  ASSERT_EQ(entries.count(0), 32U);
  std::set<unsigned> ids;
  unsigned boot_processors = 0;
  for (auto [entry, end] = entries.equal_range(0); entry != end; ++entry) {
    ids.insert(byte(entry->second + 1));
    EXPECT_EQ(byte(entry->second + 3) & 1, 1) << "enabled";
    if ((byte(entry->second + 3) & 2) == 0) continue;
    ++boot_processors;
    EXPECT_EQ(byte(entry->second + 1), 0);
  }
  EXPECT_EQ(ids.size(), 32U);
  EXPECT_EQ(*ids.rbegin(), 31U);
  EXPECT_EQ(boot_processors, 1U);
}

TEST_F(MpTableTest, TheIoApicHasTheFirstFreeIdAndEveryLineAPin) {
  write(3);
  const std::uint64_t io_apic = entries.find(2)->second;
  EXPECT_EQ(byte(io_apic + 1), 3);
  EXPECT_EQ(*load<std::uint32_t>(io_apic + 4), 0xFEC0'0000U);
  std::map<unsigned, unsigned> pin_of_line;
  for (auto [entry, end] = entries.equal_range(3); entry != end; ++entry) {
    EXPECT_EQ(byte(entry->second + 1), 0) << "vectored";
    EXPECT_EQ(*load<std::uint16_t>(entry->second + 2), 0) << "conforming";
    EXPECT_EQ(byte(entry->second + 6), 3) << "goes to the IOAPIC";
    pin_of_line[byte(entry->second + 5)] = byte(entry->second + 7);
  }
  EXPECT_EQ(pin_of_line.size(), 23U);
  for (const auto& [line, pin] : pin_of_line) EXPECT_EQ(pin, line == 0 ? 2 : line);
  EXPECT_FALSE(pin_of_line.contains(2));
}

TEST_F(MpTableTest, LocalLinesAreTheUsualOnes) {
  write(1);
  ASSERT_EQ(entries.count(4), 2U);
  const auto [first, end] = entries.equal_range(4);
  EXPECT_EQ(byte(first->second + 1), 3) << "ExtINT on LINT0";
  EXPECT_EQ(byte(first->second + 7), 0);
  EXPECT_EQ(byte(std::next(first)->second + 1), 1) << "NMI on LINT1 of all";
  EXPECT_EQ(byte(std::next(first)->second + 6), 0xFF);
  EXPECT_EQ(byte(std::next(first)->second + 7), 1);
}

}  // namespace
}  // namespace mayfly
