#include "rootfs-tools/template/initrd.h"

#include <sys/stat.h>

#include <string>

#include <gtest/gtest.h>

namespace mayfly::image {
namespace {

TEST(Initrd, IsNewcWithTheFilesInTheirOrder) {
  const auto made = make_initrd(
      {{.name = "dir", .mode = S_IFDIR | 0755}, {.name = "dir/init", .mode = S_IFREG | 0755, .data = "program"}});
  ASSERT_TRUE(made) << made.error().message;
  // initramfs-buffer-format.rst: magic, then thirteen fields of eight digits; the name at 110.
  EXPECT_EQ(made->substr(0, 6), "070701");
  EXPECT_EQ(made->substr(14, 8), "000041ed") << "a directory of mode 0755";
  EXPECT_EQ(made->substr(110, 4), std::string("dir\0", 4));
  const std::size_t second = made->find("070701", 6);
  ASSERT_NE(second, std::string::npos);
  EXPECT_EQ(made->substr(second + 14, 8), "000081ed");
  EXPECT_EQ(made->substr(second + 54, 8), "00000007") << "its size";
  EXPECT_NE(made->find("program", second), std::string::npos);
  EXPECT_NE(made->find("TRAILER!!!"), std::string::npos);
}

TEST(Initrd, SameFilesGiveTheSameBytes) {
  const auto make = [] { return make_initrd({{.name = "f", .mode = S_IFREG | 0644, .data = "x"}}).value(); };
  EXPECT_EQ(make(), make());
}

}  // namespace
}  // namespace mayfly::image
