#include "snapshot/held_memory.h"

#include "snapshot/memory_file.h"
#include "tests/support/child_process.h"
#include "tests/support/on_worker.h"
#include "tests/unit/snapshot/page_ranges.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>

#include <gtest/gtest.h>

namespace mayfly {
namespace {

constexpr std::uint64_t kHeldMib = 8;
constexpr std::chrono::seconds kCopyPatience{20};

std::span<std::byte> ram_to_hold(const GuestMemory& memory) { return *memory.bytes(GuestAddress{0}, kHeldMib * kMiB); }

/// A number for each word of a page, and each time that it is filled.
void fill_for_holding(std::span<std::byte> bytes, std::uint8_t time) {
  for (std::size_t at = 0; at < bytes.size(); at += 512)
    bytes[at] = static_cast<std::byte>(at / kGuestPageSize * 7 + at / 512 + time);
}

GuestMemory filled_memory(HugePages pages = HugePages::None) {
  auto memory = GuestMemory::create({.size_mib = kHeldMib, .pages = pages});
  if (!memory) throw std::runtime_error(memory.error().message);
  fill_for_holding(ram_to_hold(*memory), 1);
  return std::move(*memory);
}

std::shared_ptr<HeldMemory> hold_all(const GuestMemory& memory) {
  auto held = HeldMemory::hold(memory);
  if (!held) throw std::runtime_error(held.error().message);
  return *held;
}

void expect_copies(HeldMemory& held, std::span<const std::byte> wanted) {
  for (std::uint64_t at = 0; at < wanted.size(); at += HeldMemory::kSlotBytes) {
    const std::size_t slot = at / HeldMemory::kSlotBytes % HeldMemory::kSlots;
    ASSERT_EQ(held.copy(slot, at, HeldMemory::kSlotBytes, {}, kCopyPatience), 0);
    EXPECT_TRUE(std::ranges::equal(held.slot(slot), wanted.subspan(at, HeldMemory::kSlotBytes))) << "at " << at;
  }
}

class HeldMemoryOf : public ::testing::TestWithParam<HugePages> {};

TEST_P(HeldMemoryOf, IsWhatItWasWhateverIsWrittenMeanwhile) {
  const GuestMemory memory = filled_memory(GetParam());
  const std::vector<std::byte> before(ram_to_hold(memory).begin(), ram_to_hold(memory).end());
  const auto held = hold_all(memory);
  fill_for_holding(ram_to_hold(memory), 2);
  expect_copies(*held, before);
  EXPECT_FALSE(std::ranges::equal(ram_to_hold(memory), before)) << "and the guest has what it has written";
}

INSTANTIATE_TEST_SUITE_P(Pages, HeldMemoryOf, ::testing::Values(HugePages::None, HugePages::Transparent),
                         [](const auto& info) { return info.param == HugePages::None ? "Small" : "Transparent"; });

TEST(HeldMemory, OfAFileIsTheFilesAndWhatWasWrittenOverIt) {
  const testing::ScratchDirectory scratch;
  OwnedFd file{::open(scratch.file("memory").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600)};
  std::vector<std::byte> content(kHeldMib * kMiB);
  fill_for_holding(content, 3);
  ASSERT_EQ(::pwrite(file.get(), content.data(), content.size(), 0), static_cast<ssize_t>(content.size()));
  auto memory = GuestMemory::map({.size_mib = kHeldMib}, std::move(file));
  ASSERT_TRUE(memory) << memory.error().message;
  ram_to_hold(*memory)[5 * kGuestPageSize] = content[5 * kGuestPageSize] = std::byte{99};
  const auto held = hold_all(*memory);
  fill_for_holding(ram_to_hold(*memory), 4);
  expect_copies(*held, content);
}

TEST(HeldMemory, LetsItsProcessGo) {
  const GuestMemory memory = filled_memory();
  const auto held = hold_all(memory);
  const pid_t child = held->child();
  ASSERT_GT(child, 0);
  EXPECT_EQ(::kill(child, 0), 0);
  held->let_go();
  EXPECT_EQ(::kill(child, 0), -1) << "it has ended, and was waited for";
  EXPECT_EQ(errno, ESRCH);
  EXPECT_EQ(held->copy(0, 0, kGuestPageSize, {}, kCopyPatience), ECHILD);
  held->let_go();
}

TEST(HeldMemory, SaysThatItsProcessWasKilled) {
  const GuestMemory memory = filled_memory();
  const auto held = hold_all(memory);
  EXPECT_EQ(held->copy(0, 0, kGuestPageSize, {}, kCopyPatience), 0);
  ASSERT_EQ(::kill(held->child(), SIGKILL), 0);
  EXPECT_EQ(held->copy(0, 0, kGuestPageSize, {}, kCopyPatience), ECHILD);
}

TEST(HeldMemory, WaitsForNoProcessThatStandsStill) {
  const GuestMemory memory = filled_memory();
  const auto held = hold_all(memory);
  EXPECT_EQ(held->copy(0, 0, kGuestPageSize, {}, kCopyPatience), 0);
  const pid_t child = held->child();
  ASSERT_EQ(::kill(child, SIGSTOP), 0);
  std::stop_source stop;
  stop.request_stop();
  EXPECT_EQ(held->copy(0, 0, kGuestPageSize, stop.get_token(), kCopyPatience), ECANCELED);
  EXPECT_EQ(held->copy(0, 0, kGuestPageSize, {}, std::chrono::milliseconds{1}), ETIMEDOUT);
  ASSERT_EQ(::kill(child, SIGKILL), 0);
  held->let_go();
}

TEST(HeldMemory, OfAPageServerIsRefused) {
  GuestMemory memory = filled_memory();
  memory.set_served();
  const auto held = HeldMemory::hold(memory);
  ASSERT_FALSE(held);
  EXPECT_NE(held.error().message.find("a page server"), std::string::npos) << held.error().message;
}

TEST(HeldMemory, IsWrittenToAFileWithItsChecksums) {
  const testing::ScratchDirectory scratch;
  const std::string path = scratch.file("memory");
  auto loop = EventLoop::create();
  ASSERT_TRUE(loop);
  const GuestMemory memory = filled_memory();
  const std::vector<std::byte> before(ram_to_hold(memory).begin(), ram_to_hold(memory).end());
  const auto progress = std::make_shared<WritingProgress>();
  const auto held = hold_all(memory);
  fill_for_holding(ram_to_hold(memory), 5);
  const OwnedFd file{::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600)};
  const auto written = testing::on_worker(**loop, [&] {
    return write_memory_file({.loop = **loop, .memory = memory, .held = held, .progress = progress}, file, path,
                             {.id = {}, .base_id = {}, .pages = {{0, kHeldMib * kMiB}}});
  });
  ASSERT_TRUE(written) << written.error().message;
  EXPECT_EQ(progress->done, kHeldMib * kMiB - kLabel.length);
  std::vector<std::byte> content(before.size());
  ASSERT_EQ(::pread(file.get(), content.data(), content.size(), 0), static_cast<ssize_t>(content.size()));
  EXPECT_TRUE(without_label(std::move(content)) == without_label(before));
  const auto footer = read_footer(file.get(), path, memory.size());
  ASSERT_TRUE(footer) << footer.error().message;
  const auto stretches = read_stretches(file.get(), path, *footer);
  ASSERT_TRUE(stretches);
  EXPECT_TRUE(verify_stretches(file.get(), path, *stretches));
  (*loop)->close();
}

}  // namespace
}  // namespace mayfly
