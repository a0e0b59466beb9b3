#include "runtime/high_memory.h"

#include <array>
#include <cstddef>

namespace {

/// A page of 512 entries of any level of the page map (Intel SDM volume 3, "4-Level Paging").
struct alignas(4096) Table {
  std::array<std::uint64_t, 512> entries;
};

constexpr std::uint64_t kTable = 0x27;      // present, writable, level 3, accessed
constexpr std::uint64_t kLargePage = 0xE7;  // the same, dirty, 2 MiB
constexpr std::uint64_t kGiB = 1ULL << 30U;
constexpr std::uint64_t kFirst = 4;  // boot.S has mapped what is below

std::array<Table, guest::kHighMemoryEnd / kGiB - kFirst> directories;

}  // namespace

extern "C" Table page_directories_pointer;

void guest::map_high_memory() {
  for (std::size_t index = 0; index < directories.size(); ++index) {
    const std::uint64_t start = (kFirst + index) * kGiB;
    for (std::size_t page = 0; page < 512; ++page)
      directories[index].entries[page] = start + (page << 21U) + kLargePage;
    asm volatile("" ::: "memory");
    page_directories_pointer.entries[kFirst + index] = reinterpret_cast<std::uint64_t>(&directories[index]) + kTable;
  }
}
