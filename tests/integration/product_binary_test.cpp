// The product's binaries as the linker left them: what an attacker who controls a byte of them would look for.

#include "tests/support/files.h"
#include "tests/support/monitor.h"

#include <elf.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <map>
#include <optional>
#include <set>
#include <sstream>

#include <gtest/gtest.h>

namespace mayfly::testing {
namespace {

/// An ELF file for x86-64. Throws where it ends too early.
class ElfFile {
 public:
  explicit ElfFile(const std::string& path) : bytes_(content_of(path)), header_(at<Elf64_Ehdr>(0)) {
    for (std::uint64_t i = 0; i < header_.e_phnum; ++i)
      segments_.push_back(at<Elf64_Phdr>(header_.e_phoff + i * sizeof(Elf64_Phdr)));
    for (std::uint64_t i = 0; i < header_.e_shnum; ++i)
      sections_.push_back(at<Elf64_Shdr>(header_.e_shoff + i * sizeof(Elf64_Shdr)));
    const auto dynamic = segment(PT_DYNAMIC);
    if (!dynamic) return;
    for (std::uint64_t offset = 0; offset < dynamic->p_filesz; offset += sizeof(Elf64_Dyn)) {
      const auto entry = at<Elf64_Dyn>(dynamic->p_offset + offset);
      dynamic_[entry.d_tag] = entry.d_un.d_val;
    }
  }

  [[nodiscard]] const Elf64_Ehdr& header() const noexcept { return header_; }
  [[nodiscard]] const std::vector<Elf64_Phdr>& segments() const noexcept { return segments_; }
  [[nodiscard]] const std::vector<Elf64_Shdr>& sections() const noexcept { return sections_; }
  /// The only segment of this type.
  [[nodiscard]] std::optional<Elf64_Phdr> segment(Elf64_Word type) const {
    if (std::ranges::count(segments_, type, &Elf64_Phdr::p_type) != 1) return std::nullopt;
    return *std::ranges::find(segments_, type, &Elf64_Phdr::p_type);
  }
  [[nodiscard]] bool has(Elf64_Sxword tag) const { return dynamic_.contains(tag); }
  /// An entry of the dynamic section; 0: none.
  [[nodiscard]] std::uint64_t dynamic(Elf64_Sxword tag) const { return has(tag) ? dynamic_.at(tag) : 0; }

 private:
  template <typename T>
  [[nodiscard]] T at(std::uint64_t offset) const {
    if (offset > bytes_.size() || bytes_.size() - offset < sizeof(T)) give_up("the ELF file ends too early");
    T value;
    std::memcpy(&value, bytes_.data() + offset, sizeof value);
    return value;
  }

  std::string bytes_;
  Elf64_Ehdr header_;
  std::vector<Elf64_Phdr> segments_;
  std::vector<Elf64_Shdr> sections_;
  std::map<Elf64_Sxword, std::uint64_t> dynamic_;
};

class ProductBinary : public ::testing::TestWithParam<std::string (*)()> {
 protected:
  ElfFile file_{GetParam()()};
};

TEST_P(ProductBinary, IsStaticAndAtAnAddressThatNobodyKnows) {
  EXPECT_EQ(file_.header().e_type, ET_DYN);
  EXPECT_NE(file_.dynamic(DT_FLAGS_1) & DF_1_PIE, 0u);
  EXPECT_EQ(std::ranges::count(file_.segments(), static_cast<Elf64_Word>(PT_INTERP), &Elf64_Phdr::p_type), 0);
  EXPECT_FALSE(file_.has(DT_NEEDED));
  EXPECT_FALSE(file_.has(DT_RUNPATH) || file_.has(DT_RPATH));
}

TEST_P(ProductBinary, HasNothingThatIsBothWritableAndExecutable) {
  const auto stack = file_.segment(PT_GNU_STACK);
  ASSERT_TRUE(stack);
  EXPECT_EQ(stack->p_flags & PF_X, 0u);
  for (const Elf64_Phdr& segment : file_.segments()) {
    if (segment.p_type == PT_LOAD) {
      EXPECT_NE(segment.p_flags & (PF_W | PF_X), unsigned{PF_W | PF_X});
    }
  }
  EXPECT_FALSE(file_.has(DT_TEXTREL)) << "code would be writable while it is relocated";
}

/// The kernel maps whole pages of a file.
TEST_P(ProductBinary, HasNothingButCodeInPagesThatAreExecutable) {
  constexpr std::uint64_t page = 4096;
  for (const Elf64_Phdr& code : file_.segments()) {
    if (code.p_type != PT_LOAD || (code.p_flags & PF_X) == 0) continue;
    const std::uint64_t begin = code.p_offset / page * page;
    const std::uint64_t end = (code.p_offset + code.p_filesz + page - 1) / page * page;
    for (const Elf64_Phdr& other : file_.segments()) {
      if (other.p_type != PT_LOAD || other.p_offset == code.p_offset || other.p_filesz == 0) continue;
      EXPECT_TRUE(other.p_offset + other.p_filesz <= begin || other.p_offset >= end)
          << "what is at " << other.p_offset << " of the file is executable in part";
    }
  }
}

TEST_P(ProductBinary, HasItsTablesOfAddressesReadOnlyFromTheStartOn) {
  EXPECT_TRUE(file_.segment(PT_GNU_RELRO));
  EXPECT_NE(file_.dynamic(DT_FLAGS_1) & DF_1_NOW, 0u);
  EXPECT_NE(file_.dynamic(DT_FLAGS) & DF_BIND_NOW, 0u);
}

TEST_P(ProductBinary, IsStripped) {
  for (const Elf64_Shdr& section : file_.sections()) EXPECT_NE(section.sh_type, unsigned{SHT_SYMTAB});
}

std::string agent_binary() { return build_file("mayfly-guest-agent"); }

INSTANTIATE_TEST_SUITE_P(All, ProductBinary, ::testing::Values(monitor_binary, jailer_binary, agent_binary),
                         [](const auto& info) {
                           if (info.param == agent_binary) return "agent";
                           return info.param == jailer_binary ? "jailer" : "monitor";
                         });

/// What of a process's memory is mapped from a file: "START-END PERMISSIONS OFFSET DEVICE INODE PATH" of proc(5).
struct FileMapping {
  std::uint64_t start = 0;
  std::uint64_t end = 0;
  std::string permissions;
};

std::vector<FileMapping> mappings_of(pid_t pid, const std::string& path) {
  std::vector<FileMapping> found;
  std::istringstream lines{content_of("/proc/" + std::to_string(pid) + "/maps")};
  for (std::string line; std::getline(lines, line);) {
    if (!line.ends_with(" " + path)) continue;
    std::istringstream fields{line};
    FileMapping mapping;
    char dash = 0;
    fields >> std::hex >> mapping.start >> dash >> mapping.end >> mapping.permissions;
    found.push_back(std::move(mapping));
  }
  return found;
}

std::vector<FileMapping> mappings_of(Monitor& monitor) {
  const pid_t pid = monitor.process().pid();
  auto found = mappings_of(pid, std::filesystem::read_symlink("/proc/" + std::to_string(pid) + "/exe"));
  if (found.empty()) give_up("the monitor's binary is not mapped");
  return found;
}

TEST(RunningMonitor, HasItsTablesOfAddressesReadOnly) {
  const ElfFile file{monitor_binary()};
  const auto tables = file.segment(PT_GNU_RELRO);
  ASSERT_TRUE(tables);
  Monitor monitor;
  const auto mappings = mappings_of(monitor);
  const std::uint64_t address = mappings.front().start + tables->p_vaddr;
  const auto around = std::ranges::find_if(
      mappings, [address](const FileMapping& each) { return address >= each.start && address < each.end; });
  ASSERT_NE(around, mappings.end());
  EXPECT_EQ(around->permissions, "r--p");
}

TEST(RunningMonitor, IsNotWhereTheOthersAre) {
  if (content_of("/proc/sys/kernel/randomize_va_space") == "0\n")
    GTEST_SKIP() << "this host gives no random addresses (kernel.randomize_va_space is 0)";
  std::set<std::uint64_t> bases;
  for (int i = 0; i < 4; ++i) {
    Monitor monitor;
    bases.insert(mappings_of(monitor).front().start);
  }
  EXPECT_GT(bases.size(), 1u);
}

}  // namespace
}  // namespace mayfly::testing
