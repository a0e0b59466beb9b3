#include "vmm/boot/acpi_tables.h"

#include "tests/support/files.h"
#include "tests/unit/vmm/boot/boot_images.h"
#include "vmm/boot/layout.h"

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>

namespace mayfly {
namespace {

std::vector<VirtioMmioWindow> windows(unsigned count) {
  std::vector<VirtioMmioWindow> all;
  all.reserve(count);
  for (unsigned number = 0; number < count; ++number)
    all.push_back({.base = GuestAddress{kMmioHoleStart + number * kGuestPageSize}, .size = 4096, .gsi = 5 + number});
  return all;
}

/// Finds the tables as a guest does: from the RSDP on.
class Tables {
 public:
  explicit Tables(unsigned vcpu_count, unsigned window_count) : memory_(*GuestMemory::create({.size_mib = 1})) {
    write_acpi_tables(memory_, vcpu_count, windows(window_count));
    const Bytes rsdp = at(layout::kRsdp.value, 36);
    EXPECT_EQ(std::memcmp(rsdp.data(), "RSD PTR ", 8), 0);
    EXPECT_EQ(sum(std::span{rsdp}.first(20)), 0);
    EXPECT_EQ(sum(rsdp), 0);
    EXPECT_EQ(field<std::uint8_t>(rsdp, 15), 2) << "revision";
    const Bytes xsdt = table_at(field<std::uint64_t>(rsdp, 24));
    for (std::size_t offset = 36; offset < xsdt.size(); offset += 8) table_at(field<std::uint64_t>(xsdt, offset));
    table_at(field<std::uint64_t>(tables_.at("FACP"), 140));
  }

  template <typename T>
  static T field(std::span<const std::byte> table, std::size_t offset) {
    T value{};
    EXPECT_LE(offset + sizeof(T), table.size());
    std::memcpy(&value, table.subspan(offset, sizeof(T)).data(), sizeof(T));
    return value;
  }
  static std::uint8_t sum(std::span<const std::byte> bytes) {
    unsigned total = 0;
    for (const std::byte byte : bytes) total += std::to_integer<unsigned>(byte);
    return static_cast<std::uint8_t>(total);
  }
  [[nodiscard]] const Bytes& operator[](const std::string& signature) const { return tables_.at(signature); }
  [[nodiscard]] const std::map<std::string, Bytes>& all() const { return tables_; }
  [[nodiscard]] std::uint64_t end() const { return end_; }

 private:
  [[nodiscard]] Bytes at(std::uint64_t address, std::uint64_t length) const {
    const auto bytes = memory_.bytes(GuestAddress{address}, length);
    EXPECT_TRUE(bytes);
    return {bytes->begin(), bytes->end()};
  }
  Bytes table_at(std::uint64_t address) {
    const Bytes header = at(address, 36);
    Bytes table = at(address, field<std::uint32_t>(header, 4));
    const std::string signature(reinterpret_cast<const char*>(table.data()), 4);
    EXPECT_EQ(sum(table), 0) << signature;
    end_ = std::max(end_, address + table.size());
    tables_[signature] = table;
    return table;
  }

  GuestMemory memory_;
  std::map<std::string, Bytes> tables_;
  std::uint64_t end_ = 0;
};

TEST(AcpiTables, ChecksumsAreRightAndAllFitsInItsArea) {
  for (const unsigned vcpu_count : {1U, 32U}) {
    for (const unsigned window_count : {0U, 1U, 19U}) {
      const Tables tables{vcpu_count, window_count};
      EXPECT_EQ(tables.all().size(), 4U) << "XSDT, FACP, APIC, DSDT";
      EXPECT_LE(tables.end(), layout::kAcpiEnd.value);
    }
  }
}

TEST(AcpiTables, TheFadtIsHardwareReducedWithResetAndSleepRegisters) {
  const Tables tables{1, 0};
  const Bytes& fadt = tables["FACP"];
  EXPECT_EQ(Tables::field<std::uint8_t>(fadt, 8), 6) << "revision";
  const auto flags = Tables::field<std::uint32_t>(fadt, 112);
  EXPECT_EQ(flags & (1U << 20), 1U << 20) << "HW_REDUCED_ACPI";
  EXPECT_EQ(flags & (1U << 10), 1U << 10) << "RESET_REG_SUP";
  EXPECT_EQ(Tables::field<std::uint16_t>(fadt, 109), 0x26) << "8042; no VGA, no CMOS clock";
  EXPECT_EQ(Tables::field<std::uint8_t>(fadt, 116), 1) << "the reset register is a port";
  EXPECT_EQ(Tables::field<std::uint64_t>(fadt, 120), 0x64U);
  EXPECT_EQ(Tables::field<std::uint8_t>(fadt, 128), 0xFE);
  EXPECT_EQ(Tables::field<std::uint64_t>(fadt, 248), 0x600U);
  EXPECT_EQ(Tables::field<std::uint64_t>(fadt, 260), 0x601U);
}

TEST(AcpiTables, TheMadtListsProcessorsIoApicAndTheTimersOverride) {
  const Tables tables{32, 0};
  const Bytes& madt = tables["APIC"];
  EXPECT_EQ(Tables::field<std::uint32_t>(madt, 36), 0xFEE0'0000U);
  unsigned processors = 0;
  unsigned others = 0;
  for (std::size_t at = 44; at < madt.size(); at += Tables::field<std::uint8_t>(madt, at + 1)) {
    const auto type = Tables::field<std::uint8_t>(madt, at);
    if (type == 0) {
      EXPECT_EQ(Tables::field<std::uint8_t>(madt, at + 3), processors);
      EXPECT_EQ(Tables::field<std::uint32_t>(madt, at + 4), 1U);
      ++processors;
    } else if (type == 1) {
      EXPECT_EQ(Tables::field<std::uint8_t>(madt, at + 2), 32);
      EXPECT_EQ(Tables::field<std::uint32_t>(madt, at + 4), 0xFEC0'0000U);
      ++others;
    } else {
      EXPECT_EQ(type, 2);
      EXPECT_EQ(Tables::field<std::uint8_t>(madt, at + 3), 0) << "ISA line 0";
      EXPECT_EQ(Tables::field<std::uint32_t>(madt, at + 4), 2U) << "to pin 2";
      ++others;
    }
  }
  EXPECT_EQ(processors, 32U);
  EXPECT_EQ(others, 2U);
}

/// What iasl and the shell leave in a directory of their own.
class AcpiCompiler : public ::testing::Test {
 protected:
  AcpiCompiler() {
    std::string name = (std::filesystem::temp_directory_path() / "mayfly-acpi-XXXXXX").string();
    directory_ = ::mkdtemp(name.data());
  }
  ~AcpiCompiler() override {
    std::error_code ignored;
    std::filesystem::remove_all(directory_, ignored);
  }
  AcpiCompiler(const AcpiCompiler&) = delete;
  AcpiCompiler& operator=(const AcpiCompiler&) = delete;

  /// What `iasl arguments` says, run in the directory; the test fails where it returns an error.
  [[nodiscard]] std::string iasl(const std::string& arguments) const {
    const std::string command = "cd '" + directory_.string() + "' && iasl " + arguments + " >said 2>&1";
    const int status = std::system(command.c_str());  // NOLINT(concurrency-mt-unsafe)
    EXPECT_EQ(status, 0) << arguments << '\n' << content("said");
    return content("said");
  }
  [[nodiscard]] std::string content(const std::string& name) const { return testing::content_of(directory_ / name); }

  std::filesystem::path directory_;
};

TEST_F(AcpiCompiler, DisassemblesEveryTableAndCompilesTheDsdtAgain) {
  if (std::system("command -v iasl >/dev/null 2>&1") != 0)  // NOLINT(concurrency-mt-unsafe)
    GTEST_SKIP() << "iasl is not installed (Debian package acpica-tools)";
  const Tables tables{32, 19};
  for (const auto& [signature, table] : tables.all()) {
    std::ofstream{directory_ / (signature + ".dat"), std::ios::binary}.write(
        reinterpret_cast<const char*>(table.data()), static_cast<std::streamsize>(table.size()));
    std::string said = iasl("-d " + signature + ".dat");
    std::ranges::transform(said, said.begin(), [](char letter) { return static_cast<char>(std::tolower(letter)); });
    for (const char* const complaint : {"error", "warning", "invalid", "unknown", "incorrect"})
      EXPECT_EQ(said.find(complaint), std::string::npos) << said;
    const std::string source = content(signature + ".dsl");
    for (const char* const complaint : {"**** ", "Unknown", "Invalid", "Incorrect checksum"})
      EXPECT_EQ(source.find(complaint), std::string::npos) << source;
  }
  EXPECT_NE(iasl("-ve -oa DSDT.dsl").find("0 Errors, 0 Warnings"), std::string::npos);
  // Without optimization, the compiler makes the very bytes that were given.
  std::string compiled = content("DSDT.aml");
  EXPECT_EQ(compiled.size(), tables["DSDT"].size());
  const std::string source = content("DSDT.dsl");
  for (const char* const device : {"\"LNRO0005\"", "EisaId (\"PNP0501\")", "EisaId (\"PNP0303\")", "\"QEMU0001\"",
                                   "\"VM_Gen_Counter\"", "\"ACPI0013\"", "Device (V018)", "Notify (VGEN, 0x80)",
                                   "0x000DF810", "\"AMZNC10C\"", "0x000DF000", "Notify (VCLK, 0x80)", "Name (_S5"})
    EXPECT_NE(source.find(device), std::string::npos) << device << " is not in\n" << source;
}

}  // namespace
}  // namespace mayfly
