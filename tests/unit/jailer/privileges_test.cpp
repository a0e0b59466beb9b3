#include "jailer/privileges.h"

#include <gtest/gtest.h>

namespace mayfly::jailer {
namespace {

TEST(JailUserNamespace, HasTheNumbersThatItsMapLists) {
  const std::string_view host = "         0          0 4294967295\n";
  EXPECT_TRUE(is_mapped(host, 0));
  EXPECT_TRUE(is_mapped(host, 4294967294));
  const std::string_view container = "0 100000 65536\n70000 200000 1\n";
  EXPECT_TRUE(is_mapped(container, 65535));
  EXPECT_FALSE(is_mapped(container, 65536));
  EXPECT_TRUE(is_mapped(container, 70000));
  EXPECT_FALSE(is_mapped(container, 70001));
  EXPECT_FALSE(is_mapped("", 0));
  EXPECT_FALSE(is_mapped("nonsense\n", 0));
}

}  // namespace
}  // namespace mayfly::jailer
