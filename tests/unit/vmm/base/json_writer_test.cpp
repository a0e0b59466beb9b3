#include "vmm/base/json_writer.h"

#include "api/json_reader.h"

#include <gtest/gtest.h>

namespace mayfly {
namespace {

std::string as_json(std::string_view text) {
  std::string out;
  append_json_string(out, text);
  return out;
}

TEST(JsonWriterTest, WritesNestedValuesWithCommasBetween) {
  JsonWriter json;
  json.begin_object();
  json.field("text", "a");
  json.field("truth", true);
  json.field("number", 18446744073709551615ULL);
  json.key("list");
  json.begin_array();
  json.value(1U);
  json.begin_object();
  json.end_object();
  json.value("x");
  json.end_array();
  json.key("empty");
  json.begin_array();
  json.end_array();
  json.field("last", false);
  json.end_object();
  EXPECT_EQ(std::move(json).take(),
            R"({"text":"a","truth":true,"number":18446744073709551615,"list":[1,{},"x"],"empty":[],"last":false})");
}

TEST(JsonWriterTest, EscapesWhatJsonReserves) {
  EXPECT_EQ(as_json(""), R"("")");
  EXPECT_EQ(as_json("\"\\/\b\f\n\r\t"), R"("\"\\/\b\f\n\r\t")");
  EXPECT_EQ(as_json(std::string_view{"\0\x01\x1F\x7F", 4}), "\"\\u0000\\u0001\\u001f\x7F\"");
}

TEST(JsonWriterTest, PassesUtf8ThroughAndReplacesWhatIsNot) {
  EXPECT_EQ(as_json("\xC3\xA9 \xE2\x82\xAC \xF0\x9F\xA6\x9F"), "\"\xC3\xA9 \xE2\x82\xAC \xF0\x9F\xA6\x9F\"");
  const std::string replaced = "\xEF\xBF\xBD";
  EXPECT_EQ(as_json("\xFF"), '"' + replaced + '"');
  EXPECT_EQ(as_json("\xC3"), '"' + replaced + '"');                                // cut off
  EXPECT_EQ(as_json("\xC0\x80"), '"' + replaced + replaced + '"');                 // overlong NUL
  EXPECT_EQ(as_json("\xED\xA0\x80"), '"' + replaced + replaced + replaced + '"');  // a surrogate
  EXPECT_EQ(as_json("\xF4\x90\x80\x80"), '"' + replaced + replaced + replaced + replaced + '"');
  EXPECT_EQ(as_json("\xE2\x82z"), '"' + replaced + replaced + "z\"");
}

TEST(JsonWriterTest, EveryByteComesBackAsValidJson) {
  std::string all;
  for (int byte = 0; byte < 256; ++byte) all += static_cast<char>(byte);
  for (std::size_t start = 0; start < all.size(); ++start) {
    EXPECT_TRUE(parse_json("[" + as_json(all.substr(start)) + "]", "it")) << start;
  }
}

TEST(JsonWriterTest, WhatIsWrittenIsReadBack) {
  const std::string text{"\0\t\"\\\xC3\xA9\x1F", 7};
  const auto value = parse_json("[" + as_json(text) + "]", "it");
  ASSERT_TRUE(value);
  EXPECT_EQ(std::get<std::string>(std::get<JsonValue::Array>(value->data)[0].data), text);
}

}  // namespace
}  // namespace mayfly
