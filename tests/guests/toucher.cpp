#include "runtime/guest.h"
#include "runtime/high_memory.h"
#include "runtime/level_0.h"

/// Touches pages of its memory here and there, for what it costs after a restore.
///
/// Fills `span_mib` of memory, prints "toucher ready", then waits for commands, one byte each:
///   g  reads `pages` pages of them in an order that no read-ahead guesses, always the same, and checks what is there;
///      prints "touched N", and writes 123 to the boot timer
///   f  fills `more_mib` of memory behind them, which nothing has touched before, and prints "filled"
///   z  clears every other page of all that it has filled, from the second on, and prints "cleared"
///   c  checks all that it has filled, and prints "all right"
///   q  passes
/// Command line: span_mib=64 pages=100 more_mib=0 rest=0; with rest=1 it waits for no command and halts for good.
namespace {

using namespace guest;

constexpr std::uint64_t kBase = 64 << 20;
constexpr std::uint64_t kPageSize = 4096;
constexpr std::uint64_t kPattern = 0x0123'4567'89AB'CDEF;
constexpr std::uint16_t kBootTimer = 0x3F0;
constexpr std::uint64_t kHighMemory = 4ULL << 30U;

/// Every other page before this one has been cleared.
std::uint64_t cleared = 0;

/// Where the memory below the hole ends; what does not fit there lies from 4 GiB on.
std::uint64_t low_end = 0;

std::uint64_t word_of(std::uint64_t page) { return (page + 1) * kPattern; }
std::uint64_t word_now(std::uint64_t page) { return page < cleared && page % 2 == 1 ? 0 : word_of(page); }

volatile std::uint64_t& word_at(std::uint64_t page) {
  std::uint64_t address = kBase + page * kPageSize;
  if (address >= low_end) address += kHighMemory - low_end;
  return memory_at<volatile std::uint64_t>(address);
}

void find_memory(const BootInfo& boot, std::uint64_t pages) {
  for (const MemoryRange& range : boot.memory)
    if (range.usable() && range.start <= kBase && kBase < range.end()) low_end = range.end();
  if (kBase + pages * kPageSize > low_end) map_high_memory();
}

void fill(std::uint64_t first, std::uint64_t count) {
  for (std::uint64_t page = first; page < first + count; ++page) word_at(page) = word_of(page);
}

void touch(std::uint64_t span, std::uint64_t pages) {
  std::uint64_t state = 0x9E37'79B9'7F4A'7C15;
  for (std::uint64_t i = 0; i < pages; ++i) {
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    expect_equal(word_at(state % span), word_now(state % span), "memory is as it was written");
  }
}

}  // namespace

void guest::guest_main(const BootInfo& boot) {
  const std::uint64_t span = boot.number("span_mib", 64) * 256;
  const std::uint64_t pages = boot.number("pages", 100);
  const std::uint64_t more = boot.number("more_mib", 0) * 256;
  find_memory(boot, span + more);
  fill(0, span);
  std::uint64_t filled = span;
  print("toucher ready\n");
  const volatile std::uint64_t never = 0;
  if (boot.number("rest", 0) != 0) halt_until(never, 1);
  for (;;) {
    while ((in8(serial::kLineStatus) & serial::kDataReady) == 0) {
    }
    switch (static_cast<char>(in8(serial::kData))) {
      case 'g':
        touch(span, pages);
        out8(kBootTimer, 123);
        print("touched ", pages, "\n");
        break;
      case 'f':
        fill(span, more);
        filled = span + more;
        print("filled\n");
        break;
      case 'z':
        for (std::uint64_t page = 1; page < filled; page += 2) word_at(page) = 0;
        cleared = filled;
        print("cleared\n");
        break;
      case 'c':
        for (std::uint64_t page = 0; page < filled; ++page)
          expect_equal(word_at(page), word_now(page), "memory is as it was written");
        print("all right\n");
        break;
      case 'q':
        pass();
      default:
        break;
    }
  }
}
