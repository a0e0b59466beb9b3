#include "runtime/guest.h"

/// Writes to all of its memory, for ever, what no other machine writes: its VM generation id, the round, the place. Before it
/// writes to a page it compares all of it with what it wrote there last, or its parent had when it branched off: a word that
/// another machine wrote since fails it.
///
/// Prints "diverger ID round N" after the first round and every 16th. Words of the command line: mib=N, how much memory it
/// uses (default: 8), from 32 MiB on.
namespace {

using namespace guest;

constexpr std::uint64_t kGenerationId = 0xDF810;
constexpr std::uint64_t kBase = 32 << 20;
constexpr std::uint64_t kPageSize = 4096;
constexpr std::uint64_t kWords = kPageSize / sizeof(std::uint64_t);
/// Of each page, what it was written with.
constexpr std::uint64_t kMarks = 24 << 20;

volatile std::uint64_t& mark_of(std::uint64_t page) {
  return memory_at<volatile std::uint64_t>(kMarks + page * sizeof(std::uint64_t));
}

volatile std::uint64_t& word_at(std::uint64_t page, std::uint64_t word) {
  return memory_at<volatile std::uint64_t>(kBase + page * kPageSize + word * sizeof(std::uint64_t));
}

constexpr std::uint64_t pattern(std::uint64_t mark, std::uint64_t page, std::uint64_t word) {
  return (mark ^ (page << 32) ^ word) * 0x9E37'79B9'7F4A'7C15;
}

}  // namespace

void guest::guest_main(const BootInfo& boot) {
  const std::uint64_t pages = boot.number("mib", 8) * 256;
  for (std::uint64_t page = 0; page < pages; ++page) {
    mark_of(page) = 0;
    for (std::uint64_t word = 0; word < kWords; ++word) word_at(page, word) = pattern(0, page, word);
  }
  for (std::uint64_t round = 1;; ++round) {
    for (std::uint64_t page = 0; page < pages; ++page) {
      const std::uint64_t before = mark_of(page);
      for (std::uint64_t word = 0; word < kWords; ++word)
        expect_equal(std::uint64_t{word_at(page, word)}, pattern(before, page, word),
                     "the word is as it was written last");
      // A branch between the two has both machines write the page with the parent's mark, which is in both.
      const std::uint64_t mark = memory_at<volatile std::uint64_t>(kGenerationId) + round;
      for (std::uint64_t word = 0; word < kWords; ++word) word_at(page, word) = pattern(mark, page, word);
      mark_of(page) = mark;
    }
    if (round % 16 == 1)
      print("diverger ", std::uint64_t{memory_at<volatile std::uint64_t>(kGenerationId)}, " round ", round, "\n");
  }
}
