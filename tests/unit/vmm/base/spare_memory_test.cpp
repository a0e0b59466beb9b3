#include "vmm/base/spare_memory.h"

#include <pthread.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <fstream>
#include <memory>
#include <span>
#include <vector>

#include <gtest/gtest.h>

namespace mayfly {
namespace {

constexpr std::size_t kStackBytes = 1 << 20;
constexpr std::size_t kDeep = 128 << 10;
constexpr unsigned char kMark = 0xA5;

__attribute__((noinline)) void go_deep() {
  std::array<volatile unsigned char, kDeep> frame;
  for (auto& byte : frame) byte = kMark;
}

std::ptrdiff_t marks_in(std::span<const unsigned char> stack) { return std::ranges::count(stack, kMark); }

TEST(SpareMemory, TheStackBelowIsGivenBack) {
  void* const stack = ::mmap(nullptr, kStackBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  ASSERT_NE(stack, MAP_FAILED);
  struct Seen {
    std::span<const unsigned char> stack;
    std::ptrdiff_t before = 0, after = 0;
  } seen{.stack = {static_cast<const unsigned char*>(stack), kStackBytes}};
  pthread_attr_t attributes;
  ASSERT_EQ(::pthread_attr_init(&attributes), 0);
  ASSERT_EQ(::pthread_attr_setstack(&attributes, stack, kStackBytes), 0);
  pthread_t thread{};
  const auto body = [](void* to) -> void* {
    auto& here = *static_cast<Seen*>(to);
    go_deep();
    here.before = marks_in(here.stack);
    give_back_spare_memory();
    here.after = marks_in(here.stack);
    return nullptr;
  };
  ASSERT_EQ(::pthread_create(&thread, &attributes, body, &seen), 0);
  ASSERT_EQ(::pthread_join(thread, nullptr), 0);
  ::pthread_attr_destroy(&attributes);
  ::munmap(stack, kStackBytes);
  EXPECT_GE(seen.before, static_cast<std::ptrdiff_t>(kDeep) - 4096) << "but for what lies under the frames that count";
  EXPECT_LE(seen.after, 2 * 4096) << "but for the pages at hand";
}

#ifndef MAYFLY_SANITIZED  // whose heap is another
std::size_t resident_bytes() {
  std::ifstream file{"/proc/self/statm"};
  std::size_t size = 0, resident = 0;
  file >> size >> resident;
  return resident * static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
}

TEST(SpareMemory, FreePartsOfTheHeapAreGivenBack) {
  constexpr std::size_t kBlocks = 256, kBlock = 64 << 10;  // below what malloc maps by itself
  std::vector<std::unique_ptr<std::byte[]>> blocks;
  for (std::size_t i = 0; i < kBlocks; ++i) blocks.push_back(std::make_unique<std::byte[]>(kBlock));
  const auto on_top = std::make_unique<std::byte[]>(kBlock);
  blocks.clear();
  const std::size_t before = resident_bytes();
  give_back_spare_memory();
  EXPECT_LE(resident_bytes() + kBlocks * kBlock / 2, before);
}
#endif

}  // namespace
}  // namespace mayfly
