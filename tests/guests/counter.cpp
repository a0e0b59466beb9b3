#include "runtime/guest.h"

/// Counts in all of its memory, page by page in order, for ever: so at every moment the pages up to one have a number, and
/// those behind it the number before. A page that has another one was saved, or brought back, at another moment.
///
/// Prints "counter ready" after the first round, then, at a byte on the serial port:
///   t  prints "round N", the last whole one
///   q  passes
/// Words of the command line: mib=N, how much memory it uses (default: 16), from 32 MiB on.
namespace {

using namespace guest;

constexpr std::uint64_t kBase = 32 << 20;
constexpr std::uint64_t kPageSize = 4096;
constexpr std::uint64_t kLast = kPageSize - sizeof(std::uint64_t);

volatile std::uint64_t& word_at(std::uint64_t page, std::uint64_t offset) {
  return memory_at<volatile std::uint64_t>(kBase + page * kPageSize + offset);
}

void count(std::uint64_t pages, std::uint64_t round) {
  for (std::uint64_t page = 0; page < pages; ++page) {
    expect_equal(std::uint64_t{word_at(page, 0)}, round - 1, "the page's first word is of the round before");
    expect_equal(std::uint64_t{word_at(page, kLast)}, round - 1, "the page's last word is of the round before");
    word_at(page, 0) = round;
    word_at(page, kLast) = round;
  }
}

}  // namespace

void guest::guest_main(const BootInfo& boot) {
  const std::uint64_t pages = boot.number("mib", 16) * 256;
  count(pages, 1);
  print("counter ready\n");
  for (std::uint64_t round = 2;; ++round) {
    count(pages, round);
    if ((in8(serial::kLineStatus) & serial::kDataReady) == 0) continue;
    switch (static_cast<char>(in8(serial::kData))) {
      case 't':
        print("round ", round, "\n");
        break;
      case 'q':
        pass();
      default:
        break;
    }
  }
}
