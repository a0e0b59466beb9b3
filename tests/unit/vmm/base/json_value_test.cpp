#include "vmm/base/json_value.h"

#include <gtest/gtest.h>

namespace mayfly {
namespace {

std::string round_trip(std::string_view text) {
  const auto value = parse_json(text, "the text");
  EXPECT_TRUE(value) << text;
  return value ? to_json(*value) : "";
}

TEST(JsonValue, IsWrittenAsItWasRead) {
  for (const std::string_view text :
       {"null", "true", "false", "0", "-1", "9223372036854775807", "-9223372036854775808", "18446744073709551615",
        "0.5", "-12.25", "1.0", "\"\"", "\"a\\\"b\\\\\\n\\u0001\"", "\"\xC3\xA9\"", "[]", "{}", "[1,[2,{}],null]",
        "{\"a\":{\"b\":[true,\"x\"]},\"\":0}"}) {
    EXPECT_EQ(round_trip(text), text);
  }
}

TEST(JsonValue, WhiteSpaceGoesAndTheOrderStays) {
  EXPECT_EQ(round_trip(" { \"b\" : 1 ,\n\t\"a\" : [ 1 , 2 ] } "), R"({"b":1,"a":[1,2]})");
}

TEST(JsonValue, NumbersThatAreNotWholeComeBackTheSame) {
  for (const double number : {0.1, 1e300, -1e-300, 5e-324, 1.7976931348623157e308, 123456789012345680.0}) {
    const std::string text = to_json({number});
    const auto again = parse_json(text, "the text");
    ASSERT_TRUE(again) << text;
    ASSERT_TRUE(std::holds_alternative<double>(again->data)) << text;
    EXPECT_EQ(std::get<double>(again->data), number) << text;
  }
}

TEST(JsonValue, NestingAtTheLimitIsWritten) {
  std::string text;
  for (std::size_t i = 0; i < kMaximumJsonDepth; ++i) text += '[';
  for (std::size_t i = 0; i < kMaximumJsonDepth; ++i) text += ']';
  EXPECT_EQ(round_trip(text), text);
}

}  // namespace
}  // namespace mayfly
