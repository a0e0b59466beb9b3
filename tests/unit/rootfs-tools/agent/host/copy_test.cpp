#include "rootfs-tools/agent/host/copy.h"

#include <string>

#include <gtest/gtest.h>

namespace mayfly::agent {
namespace {

std::string text_of(const CopySide& side) { return (side.in_guest ? side.machine + '@' : "host ") + side.path; }

TEST(CopySide, IsAGuestsWhereAColonComesBeforeASlash) {
  EXPECT_EQ(text_of(parse_side("vm-1:/etc/hosts")), "vm-1@/etc/hosts");
  EXPECT_EQ(text_of(parse_side("vm-1:etc")), "vm-1@/etc") << "paths of a guest begin at its root";
  EXPECT_EQ(text_of(parse_side(":/a:b")), "@/a:b");
  EXPECT_EQ(text_of(parse_side("file")), "host file");
  EXPECT_EQ(text_of(parse_side("./a:b")), "host ./a:b");
  EXPECT_EQ(text_of(parse_side("/a:b")), "host /a:b");
}

TEST(CopyFiles, NeedsOneSideInAGuest) {
  const auto error_of = [](const char* source, const char* destination, const char* socket = "") {
    return copy_files({.source = source, .destination = destination, .agent_socket = socket}).error().message;
  };
  EXPECT_TRUE(error_of("a", "b").contains("one of 'a' and 'b' must be in a guest"));
  EXPECT_TRUE(error_of("x:/a", "y:/b").contains("one of 'x:/a' and 'y:/b' must be in a guest"));
  EXPECT_TRUE(error_of(":/a", "b").contains("name the machine"));
  EXPECT_TRUE(error_of("x:/a", "b", "/socket").contains("name the machine"));
}

}  // namespace
}  // namespace mayfly::agent
