// Overlays that earlier versions wrote: tests/data.

#include "tests/support/files.h"
#include "tests/unit/virtio/block/overlay_fixture.h"

#include <gtest/gtest.h>

namespace mayfly {
namespace {

using namespace mayfly::testing;

constexpr std::uint64_t kStoredDrive = 10 * kOverlayBlockSize;

class StoredOverlay : public ::testing::TestWithParam<int> {
 public:
  [[nodiscard]] static std::string path() { return project_file(fmt::format("tests/data/overlay-{}", GetParam())); }
};

TEST_P(StoredOverlay, IsReadAsItWasWritten) {
  const OverlayFile file;
  const std::string stored = content_of(path());
  file.put(0, std::as_bytes(std::span{stored}));
  for (const unsigned boot : {1U, 2U}) {
    OverlayOrder order = overlay_order(kStoredDrive, boot);
    order.access = OverlayAccess::ReadOnly;
    const Overlay overlay = file.open(order);
    std::string present;
    for (std::uint64_t block = 0; block < 10; ++block) present += overlay.map().is_present(block) ? '1' : '0';
    EXPECT_EQ(present, boot == 1 ? "0110000011" : "0110000001") << "block 8 was not flushed";
    EXPECT_EQ(file.first_byte(overlay, 1), std::byte{0x11});
    EXPECT_EQ(file.first_byte(overlay, 2), std::byte{0}) << "discarded";
    EXPECT_EQ(file.first_byte(overlay, 9), std::byte{0x99});
  }
}

/// Once a version: see tests/data/README.md.
TEST_P(StoredOverlay, DISABLED_IsMade) {
  const OverlayFile file;
  Overlay overlay = file.open(overlay_order(kStoredDrive));
  file.write_block(overlay, 1, std::byte{0x11});
  file.write_block(overlay, 2, std::byte{0});
  ASSERT_TRUE(overlay.settle(file.fd()));
  file.write_block(overlay, 9, std::byte{0x99});
  ASSERT_TRUE(overlay.settle(file.fd()));
  file.write_block(overlay, 8, std::byte{0x88});
  make_file(path(), content_of(file.path()));
}

INSTANTIATE_TEST_SUITE_P(Version, StoredOverlay, ::testing::Values(1));

}  // namespace
}  // namespace mayfly
