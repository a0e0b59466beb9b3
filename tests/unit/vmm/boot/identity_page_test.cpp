#include "vmm/boot/identity_page.h"

#include "vmm/boot/layout.h"
#include "vmm/config/configuration.h"

#include <array>
#include <cstdint>

#include <gtest/gtest.h>

namespace mayfly {
namespace {

using Id = std::array<std::uint64_t, 2>;

class IdentityPage : public ::testing::Test {
 protected:
  template <typename T>
  [[nodiscard]] T at(std::uint64_t offset) const {
    return memory_->load<T>(GuestAddress{layout::kVmClock.value + offset}).value();
  }
  [[nodiscard]] Id id() const { return memory_->load<Id>(layout::kGenerationId).value(); }

  Result<GuestMemory> memory_ = GuestMemory::create({.size_mib = 2, .pages = HugePages::None});
};

// By the offsets of UAPI.13, not by our struct.
TEST_F(IdentityPage, HasAVmClockWithoutATime) {
  ASSERT_TRUE(write_identity(*memory_));
  EXPECT_EQ(at<std::uint32_t>(0x00), 0x4B4C'4356U) << "magic";
  EXPECT_EQ(at<std::uint32_t>(0x04), 4096U) << "size";
  EXPECT_EQ(at<std::uint16_t>(0x08), 1U) << "version";
  EXPECT_EQ(at<std::uint8_t>(0x0A), 0xFFU) << "counter_id: no counter";
  EXPECT_EQ(at<std::uint8_t>(0x0B), 1U) << "time_type: TAI";
  EXPECT_EQ(at<std::uint32_t>(0x0C), 0U) << "seq_count";
  EXPECT_EQ(at<std::uint64_t>(0x18), 0x180U) << "flags: generation count, notification";
  EXPECT_EQ(at<std::uint8_t>(0x22), 0U) << "clock_status: unknown";
}

TEST_F(IdentityPage, IsAnothersInAClone) {
  ASSERT_TRUE(write_identity(*memory_));
  for (std::uint32_t clones = 1; clones < 4; ++clones) {
    const Id before = id();
    ASSERT_TRUE(renew_identity(*memory_));
    EXPECT_NE(id(), before);
    EXPECT_EQ(at<std::uint32_t>(0x0C), 2 * clones) << "seq_count: even";
    EXPECT_EQ(at<std::uint64_t>(0x10), clones) << "disruption_marker";
    EXPECT_EQ(at<std::uint64_t>(0x68), clones) << "vm_generation_count";
    EXPECT_EQ(at<std::uint64_t>(0x18), 0x180U) << "flags";
  }
}

TEST_F(IdentityPage, HasAnEvenCountAgainAfterAGuestWroteAnOddOne) {
  ASSERT_TRUE(write_identity(*memory_));
  for (const std::uint32_t written : {7U, 0xFFFF'FFFFU}) {
    ASSERT_TRUE(memory_->store(GuestAddress{layout::kVmClock.value + 0x0C}, written));
    ASSERT_TRUE(renew_identity(*memory_));
    EXPECT_EQ(at<std::uint32_t>(0x0C), written + 1);
  }
}

TEST_F(IdentityPage, OfASnapshotWithoutAVmClockChangesWhereItsTablesSay) {
  constexpr GuestAddress kOldPlace{0xD'F010};
  ASSERT_TRUE(memory_->store(kOldPlace, Id{1, 2}));
  ASSERT_TRUE(renew_identity(*memory_));
  EXPECT_NE(memory_->load<Id>(kOldPlace).value(), (Id{1, 2}));
  EXPECT_EQ(id(), Id{});
  EXPECT_EQ(at<std::uint32_t>(0), 0U);
}

}  // namespace
}  // namespace mayfly
