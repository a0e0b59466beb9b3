#include "vmm/base/text.h"

#include <gtest/gtest.h>

namespace mayfly {
namespace {

TEST(Text, CaseIsIgnoredOfAsciiLettersAlone) {
  EXPECT_TRUE(equal_ignoring_case("Keep-ALIVE", "kEEP-alive"));
  EXPECT_TRUE(equal_ignoring_case("", ""));
  EXPECT_FALSE(equal_ignoring_case("close", "closed"));
  EXPECT_FALSE(equal_ignoring_case("@", "`"));  // 0x20 apart, as letters are
  EXPECT_FALSE(equal_ignoring_case("[", "{"));
  EXPECT_FALSE(equal_ignoring_case("\xC4", "\xE4"));  // Latin-1
}

TEST(Text, TrimsBlanksAtTheEndsAlone) {
  EXPECT_EQ(trimmed(" \ta b\t "), "a b");
  EXPECT_EQ(trimmed(" \t"), "");
  EXPECT_EQ(trimmed(""), "");
  EXPECT_EQ(trimmed("\ra\n"), "\ra\n");
}

TEST(Text, TokensHaveNoSeparators) {
  for (const char c : std::string_view{"azAZ09!#$%&'*+-.^_`|~"}) EXPECT_TRUE(is_token_character(c)) << c;
  for (const char c : std::string_view{" \t\r\n:;,()<>@/[]?={}\"\\\x7F\xE4"}) EXPECT_FALSE(is_token_character(c)) << c;
}

}  // namespace
}  // namespace mayfly
