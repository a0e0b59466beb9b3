#include "vmm/base/text.h"

#include <cstdint>

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

TEST(Text, ANumberIsAllOfTheText) {
  EXPECT_EQ(whole_number<std::uint8_t>("255"), 255);
  EXPECT_EQ(whole_number<std::uint32_t>("fF", 16), 255U);
  for (const char* const text : {"", "256", "-1", "+1", " 1", "1 ", "0x1"})
    EXPECT_FALSE(whole_number<std::uint8_t>(text)) << text;
}

TEST(Text, AFieldOfHttpIsANameAndAValue) {
  const auto field = http_field("Content-Type: \t text/plain; a=b:c ");
  ASSERT_TRUE(field);
  EXPECT_EQ(field->name, "Content-Type");
  EXPECT_EQ(field->value, "text/plain; a=b:c");
  EXPECT_EQ(http_field("Empty:").value_or(HttpField{"", "x"}).value, "");
  for (const char* const line : {"", ":", ": v", "Name", "Name : v", " folded: v", "N: a\rb", "N: a\x01", "N: \x7F"})
    EXPECT_FALSE(http_field(line)) << line;
}

}  // namespace
}  // namespace mayfly
