#include "runtime/boot_info.h"

#include "runtime/processor.h"
#include "runtime/verdict.h"

#include <algorithm>
#include <array>
#include <cstddef>

extern "C" {
extern std::uint64_t boot_argument;
extern guest::BootProtocol boot_protocol;
}

namespace guest {
namespace {

std::array<MemoryRange, BootInfo::kMaximumRanges> ranges;

template <typename T>
const T& at(std::uint64_t address) {
  return memory_at<const T>(address);
}

/// hvm_start_info, its modules and its memory map: Xen, public/arch-x86/hvm/start_info.h.
struct StartInfo {
  std::uint32_t magic;
  std::uint32_t version;
  std::uint32_t flags;
  std::uint32_t module_count;
  std::uint64_t modules;
  std::uint64_t command_line;
  std::uint64_t rsdp;
  std::uint64_t memory_map;  // since version 1
  std::uint32_t memory_map_entries;
  std::uint32_t reserved;
};
static_assert(sizeof(StartInfo) == 56);
constexpr std::uint32_t kStartInfoMagic = 0x336EC578;

struct StartInfoModule {
  std::uint64_t start;
  std::uint64_t size;
  std::uint64_t command_line;
  std::uint64_t reserved;
};

struct StartInfoRange {
  std::uint64_t start;
  std::uint64_t size;
  std::uint32_t type;
  std::uint32_t reserved;
};

/// Offsets in the zero page: Linux, Documentation/arch/x86/zero-page.rst and boot.rst.
namespace zero_page {
constexpr std::uint64_t kRsdp = 0x070;
constexpr std::uint64_t kInitrdStartHigh = 0x0C0;
constexpr std::uint64_t kInitrdSizeHigh = 0x0C4;
constexpr std::uint64_t kCommandLineHigh = 0x0C8;
constexpr std::uint64_t kMapEntries = 0x1E8;
constexpr std::uint64_t kBootFlag = 0x1FE;
constexpr std::uint64_t kHeader = 0x202;
constexpr std::uint64_t kLoaderType = 0x210;
constexpr std::uint64_t kInitrdStart = 0x218;
constexpr std::uint64_t kInitrdSize = 0x21C;
constexpr std::uint64_t kCommandLine = 0x228;
constexpr std::uint64_t kMap = 0x2D0;
}  // namespace zero_page

struct [[gnu::packed]] E820Entry {
  std::uint64_t start;
  std::uint64_t size;
  std::uint32_t type;
};
static_assert(sizeof(E820Entry) == 20);

std::string_view text_at(std::uint64_t address) {
  return address == 0 ? std::string_view{} : std::string_view{&at<char>(address)};
}

template <typename Entry>
std::span<const MemoryRange> copy_map(std::uint64_t address, std::uint64_t count) {
  expect(count <= ranges.size(), "the memory map has at most 128 entries");
  for (std::uint64_t index = 0; index < count; ++index) {
    const auto& entry = at<Entry>(address + index * sizeof(Entry));
    ranges[index] = {entry.start, entry.size, entry.type};
  }
  return {ranges.data(), count};
}

void read_start_info(BootInfo& info) {
  const auto& start = at<StartInfo>(info.structure);
  expect_equal(start.magic, kStartInfoMagic, "EBX points to hvm_start_info");
  expect(start.version >= 1, "hvm_start_info has a memory map");
  info.command_line = text_at(start.command_line);
  info.memory = copy_map<StartInfoRange>(start.memory_map, start.memory_map_entries);
  info.rsdp = start.rsdp;
  if (start.module_count > 0) {
    const auto& initrd = at<StartInfoModule>(start.modules);
    info.initrd_start = initrd.start;
    info.initrd_size = initrd.size;
  }
}

std::uint64_t joined(std::uint64_t low, std::uint64_t high) {
  return std::uint64_t{at<std::uint32_t>(high)} << 32 | at<std::uint32_t>(low);
}

void read_zero_page(BootInfo& info) {
  const std::uint64_t page = info.structure;
  expect_equal(at<std::uint16_t>(page + zero_page::kBootFlag), 0xAA55, "the zero page has the boot flag");
  expect_equal(at<std::uint32_t>(page + zero_page::kHeader), 0x53726448, "the zero page has the magic HdrS");
  expect(at<std::uint8_t>(page + zero_page::kLoaderType) != 0, "the zero page names a boot loader");
  info.command_line = text_at(joined(page + zero_page::kCommandLine, page + zero_page::kCommandLineHigh));
  info.memory = copy_map<E820Entry>(page + zero_page::kMap, at<std::uint8_t>(page + zero_page::kMapEntries));
  info.rsdp = at<std::uint64_t>(page + zero_page::kRsdp);
  info.initrd_start = joined(page + zero_page::kInitrdStart, page + zero_page::kInitrdStartHigh);
  info.initrd_size = joined(page + zero_page::kInitrdSize, page + zero_page::kInitrdSizeHigh);
}

std::optional<unsigned> digit(char character) {
  if (character >= '0' && character <= '9') return static_cast<unsigned>(character - '0');
  if (character >= 'a' && character <= 'f') return static_cast<unsigned>(character - 'a' + 10);
  if (character >= 'A' && character <= 'F') return static_cast<unsigned>(character - 'A' + 10);
  return std::nullopt;
}

std::optional<std::uint64_t> parse_number(std::string_view text) {
  unsigned base = 10;
  if (text.starts_with("0x")) {
    base = 16;
    text.remove_prefix(2);
  }
  unsigned shift = 0;
  if (text.ends_with('K')) shift = 10;
  if (text.ends_with('M')) shift = 20;
  if (text.ends_with('G')) shift = 30;
  if (shift != 0) text.remove_suffix(1);
  if (text.empty()) return std::nullopt;
  std::uint64_t value = 0;
  for (const char character : text) {
    const auto next = digit(character);
    if (!next || *next >= base) return std::nullopt;
    value = value * base + *next;
  }
  return value << shift;
}

}  // namespace

std::uint64_t BootInfo::usable_bytes() const {
  std::uint64_t sum = 0;
  for (const MemoryRange& range : memory) sum += range.usable() ? range.size : 0;
  return sum;
}

std::optional<std::string_view> BootInfo::text(std::string_view name) const {
  std::string_view rest = command_line;
  while (!rest.empty()) {
    const std::string_view word = rest.substr(0, rest.find(' '));
    rest.remove_prefix(std::min(rest.size(), word.size() + 1));
    if (word.size() > name.size() && word.starts_with(name) && word[name.size()] == '=')
      return word.substr(name.size() + 1);
    if (word == name) return std::string_view{};
  }
  return std::nullopt;
}

std::uint64_t BootInfo::number(std::string_view name, std::uint64_t otherwise) const {
  const auto value = text(name);
  return value ? parse_number(*value).value_or(otherwise) : otherwise;
}

bool BootInfo::has(std::string_view name) const { return text(name).has_value(); }

BootInfo read_boot_info() {
  BootInfo info{.protocol = boot_protocol,
                .structure = boot_argument,
                .command_line = {},
                .memory = {},
                .initrd_start = 0,
                .initrd_size = 0,
                .rsdp = 0};
  if (info.protocol == BootProtocol::Pvh)
    read_start_info(info);
  else
    read_zero_page(info);
  return info;
}

}  // namespace guest
