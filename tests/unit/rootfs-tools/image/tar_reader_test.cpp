#include "rootfs-tools/image/tar_reader.h"

#include "tests/unit/rootfs-tools/image/archives.h"

#include <string>

#include <gtest/gtest.h>

namespace mayfly::image {
namespace {

TEST(TarReader, TheLastMemberNeedsNoPadding) {
  for (const std::size_t size : {std::size_t{1}, std::size_t{1000}, std::size_t{300'001}, std::size_t{5'000'000}}) {
    PartSource source{part_of(raw_header("f", '0', size) + std::string(size, 'x'))};
    TarReader tar{source};
    const auto member = tar.next();
    ASSERT_TRUE(member) << member.error().message;
    EXPECT_TRUE(*member);
    const auto end = tar.next();
    ASSERT_TRUE(end) << size << ": " << end.error().message;
    EXPECT_FALSE(*end);
  }
}

TEST(TarReader, AMemberThatIsCutOffIsNoWholeArchive) {
  PartSource source{part_of(raw_header("f", '0', 300'001) + std::string(299'008, 'x'))};
  TarReader tar{source};
  ASSERT_TRUE(tar.next());
  EXPECT_FALSE(tar.next());
}

}  // namespace
}  // namespace mayfly::image
