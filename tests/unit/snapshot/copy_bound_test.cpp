#include "snapshot/copy_bound.h"

#include "snapshot/held_memory.h"

#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <stdexcept>

#include <gtest/gtest.h>

namespace mayfly {
namespace {

constexpr std::uint64_t kBoundedMib = 64;
constexpr std::uint64_t kBoundedBytes = kBoundedMib << 20;

/// Guest memory of which each page was written to, and is then held by a child.
class CopyBoundTest : public ::testing::TestWithParam<HugePages> {
 protected:
  CopyBoundTest() : memory_(make_memory(GetParam())) {
    write(0, kBoundedBytes);
    auto held = HeldMemory::hold(memory_);
    if (!held) throw std::runtime_error(held.error().message);
    held_ = std::move(*held);
  }
  static GuestMemory make_memory(HugePages pages) {
    auto memory = GuestMemory::create({.size_mib = kBoundedMib, .pages = pages});
    if (!memory) throw std::runtime_error(memory.error().message);
    return std::move(*memory);
  }
  void write(std::uint64_t offset, std::uint64_t length) {
    for (std::uint64_t at = offset; at < offset + length; at += kGuestPageSize)
      (*memory_.bytes(GuestAddress{at}, 1))[0] = std::byte{++time_};
  }
  CopyBound bound_of(std::uint64_t bytes) {
    auto bound = CopyBound::create(memory_, bytes, [this](bool on) { changes_.push_back(on); });
    if (!bound) throw std::runtime_error(bound.error().message);
    return std::move(*bound);
  }
  /// As the writer does: piece by piece.
  void copy_to(std::uint64_t end, CopyBound& bound) {
    for (; copied_ < end; copied_ += HeldMemory::kSlotBytes) {
      ASSERT_EQ(held_->copy(0, copied_, HeldMemory::kSlotBytes, {}, std::chrono::seconds{20}), 0);
      ASSERT_EQ(bound.look(copied_), 0);
    }
  }

  GuestMemory memory_;
  std::shared_ptr<HeldMemory> held_;
  std::vector<bool> changes_;
  std::uint8_t time_ = 0;
  std::uint64_t copied_ = 0;
};

TEST_P(CopyBoundTest, HoldsBackWhereWritesCostMoreUntilEnoughIsInTheFile) {
  CopyBound bound = bound_of(8 << 20);
  write(32 << 20, 7 << 20);
  EXPECT_EQ(bound.look(0), 0);
  EXPECT_TRUE(changes_.empty());
  write(39 << 20, 3 << 20);
  EXPECT_EQ(bound.look(0), 0);
  EXPECT_EQ(changes_, std::vector{true});
  copy_to(32 << 20, bound);
  EXPECT_EQ(changes_, std::vector{true}) << "none of what was copied is in the file";
  copy_to(kBoundedBytes, bound);
  EXPECT_EQ(changes_, (std::vector{true, false}));
}

TEST_P(CopyBoundTest, WhatIsInTheFileCostsNothing) {
  CopyBound bound = bound_of(8 << 20);
  copy_to(32 << 20, bound);
  for (int i = 0; i < 3; ++i) {
    write(0, 32 << 20);
    EXPECT_EQ(bound.look(32 << 20), 0);
  }
  EXPECT_TRUE(changes_.empty());
  write(40 << 20, 16 << 20);
  EXPECT_EQ(bound.look(32 << 20), 0);
  EXPECT_EQ(changes_, std::vector{true});
}

TEST_P(CopyBoundTest, SharingIsOfWhoHasThePages) {
  const auto pagemap = open_pagemap();
  ASSERT_TRUE(pagemap);
  const auto all_shared = sharing_of(*pagemap, ram_from(memory_));
  ASSERT_TRUE(all_shared);
  EXPECT_EQ(all_shared->shared, kBoundedBytes);
  EXPECT_EQ(all_shared->own, 0U);
  write(4 << 20, 2 << 20);
  const auto some = sharing_of(*pagemap, ram_from(memory_));
  ASSERT_TRUE(some);
  EXPECT_EQ(some->own, 2U << 20);
  EXPECT_EQ(some->shared, kBoundedBytes - (2 << 20));
  const auto behind = sharing_of(*pagemap, ram_from(memory_, 5 << 20));
  ASSERT_TRUE(behind);
  EXPECT_EQ(behind->own, 1U << 20);
  held_->let_go();
  const auto none_shared = sharing_of(*pagemap, ram_from(memory_));
  ASSERT_TRUE(none_shared);
  EXPECT_EQ(none_shared->own, kBoundedBytes);
  EXPECT_TRUE(ram_from(memory_, kBoundedBytes).empty());
}

INSTANTIATE_TEST_SUITE_P(Pages, CopyBoundTest, ::testing::Values(HugePages::None, HugePages::Transparent),
                         [](const auto& info) { return info.param == HugePages::None ? "Small" : "Transparent"; });

}  // namespace
}  // namespace mayfly
