#include "api/json_reader.h"

#include <gtest/gtest.h>

namespace mayfly {
namespace {

JsonValue parsed(std::string_view text) {
  auto value = parse_json(text, "the body");
  EXPECT_TRUE(value) << text << ": " << value.error().message;
  return value.value_or(JsonValue{});
}

std::string parse_failure(std::string_view text) {
  const auto value = parse_json(text, "the body");
  EXPECT_FALSE(value) << text;
  return value ? "" : value.error().message;
}

/// What `read` says of `text`, as the field "box.item".
template <typename Reader>
std::string failure_of(const Reader& read, std::string_view text) {
  const auto value = read(parsed(text), "box.item");
  EXPECT_FALSE(value) << text;
  return value ? "" : value.error().message;
}

TEST(ParseJson, KeepsEveryKindOfValue) {
  const JsonValue value = parsed(R"({"a": [null, true, -1, 18446744073709551615, 1.5, "x\u00e9\n"], "a": {}})");
  const auto& members = std::get<JsonValue::Object>(value.data);
  ASSERT_EQ(members.size(), 2U);
  EXPECT_EQ(members[1].name, "a");
  const auto& elements = std::get<JsonValue::Array>(members[0].value.data);
  ASSERT_EQ(elements.size(), 6U);
  EXPECT_TRUE(std::holds_alternative<std::nullptr_t>(elements[0].data));
  EXPECT_EQ(std::get<bool>(elements[1].data), true);
  EXPECT_EQ(std::get<std::int64_t>(elements[2].data), -1);
  EXPECT_EQ(std::get<std::uint64_t>(elements[3].data), 18446744073709551615ULL);
  EXPECT_EQ(std::get<double>(elements[4].data), 1.5);
  EXPECT_EQ(std::get<std::string>(elements[5].data), "x\xC3\xA9\n");
}

TEST(ParseJson, SaysThatNothingIsThere) {
  EXPECT_EQ(parse_failure(""), "the body is empty, where a JSON object is needed");
  EXPECT_EQ(parse_failure(" \r\n\t"), "the body is empty, where a JSON object is needed");
}

TEST(ParseJson, SaysWhatIsMalformed) {
  EXPECT_EQ(parse_failure(R"({"a": "b)"), "the body is not valid JSON: a string is not closed");
  EXPECT_EQ(parse_failure("{\"a\": \"\x01\"}"),
            "the body is not valid JSON: a string has a control character that is not escaped");
  EXPECT_EQ(parse_failure(R"({"a": "\q"})"), "the body is not valid JSON: a string has a wrong escape sequence");
  EXPECT_EQ(parse_failure(R"({"a": 01})"), "the body is not valid JSON: a number is malformed or beyond 64 bits");
  EXPECT_EQ(parse_failure(R"({"a": 36893488147419103232})"),
            "the body is not valid JSON: a number is malformed or beyond 64 bits");
  EXPECT_EQ(parse_failure(R"({"a": tru})"), "the body is not valid JSON: a word is neither true, false nor null");
  EXPECT_EQ(parse_failure("{\"a\": \"\xFF\"}"), "the body is not valid JSON: it is not UTF-8 text");
  for (const std::string_view text :
       {"{", "}", "{\"a\"}", "{\"a\": 1,}", "{\"a\": 1 \"b\": 2}", "{} {}", "{a: 1}", "[1}"}) {
    EXPECT_EQ(parse_failure(text),
              "the body is not valid JSON: a comma, colon, bracket, brace or quotation mark is missing or superfluous")
        << text;
  }
}

TEST(ParseJson, RefusesToNestWithoutBound) {
  const auto nested = [](std::size_t depth) { return std::string(depth, '[') + '1' + std::string(depth, ']'); };
  EXPECT_TRUE(parse_json(nested(kMaximumJsonDepth), "the body"));
  EXPECT_EQ(parse_failure(nested(kMaximumJsonDepth + 1)), "the body is JSON nested more than 127 deep");
  EXPECT_EQ(parse_failure(nested(20'000)), "the body is JSON nested more than 127 deep");
}

TEST(JsonReaders, EachSaysWhatItWants) {
  EXPECT_EQ(failure_of(JsonBool{}, "1"), "box.item must be true or false, not 1");
  EXPECT_EQ(failure_of(JsonBool{}, "null"), "box.item must be true or false, not null");
  EXPECT_EQ(failure_of(JsonString{}, "true"), "box.item must be a string, not true");
  EXPECT_EQ(failure_of(JsonString{}, "[]"), "box.item must be a string, not an array");
  EXPECT_EQ(failure_of(JsonString{}, "{}"), "box.item must be a string, not an object");
  EXPECT_EQ(failure_of(JsonString{}, R"("a\u0000b")"), "box.item has a NUL character, at byte 1");
  EXPECT_EQ(failure_of(JsonString{.longest = 3}, R"("four")"), "box.item is 4 bytes long; at most 3 are allowed");
  EXPECT_EQ(failure_of(JsonPath{}, R"("")"), "box.item is empty, where a path is needed");
  EXPECT_EQ(failure_of(JsonPath{}, '"' + std::string(5000, 'p') + '"'),
            "box.item is 5000 bytes long; at most 4095 are allowed");
  EXPECT_EQ(failure_of(JsonArray{JsonBool{}}, R"("x")"), R"(box.item must be an array, not the string "x")");
  EXPECT_EQ(failure_of(JsonArray{JsonBool{}}, "[true, 2]"), "box.item[1] must be true or false, not 2");
  EXPECT_EQ(failure_of(JsonStringMap{}, "[]"), "box.item must be an object of strings, not an array");
  EXPECT_EQ(failure_of(JsonStringMap{}, R"({"k": 1})"), R"(box.item["k"] must be a string, not 1)");
  EXPECT_EQ(failure_of(JsonStringMap{}, R"({"k": "1", "k": "2"})"), R"(box.item has the key "k" twice)");
}

TEST(JsonReaders, WholeNumbersAreWholeAndInRange) {
  const JsonWhole read{.lowest = 1, .highest = 32};
  EXPECT_EQ(read(parsed("1"), "").value(), 1U);
  EXPECT_EQ(read(parsed("32"), "").value(), 32U);
  EXPECT_EQ(failure_of(read, "0"), "box.item must be from 1 to 32, not 0");
  EXPECT_EQ(failure_of(read, "33"), "box.item must be from 1 to 32, not 33");
  EXPECT_EQ(failure_of(read, "-1"), "box.item must be from 1 to 32, not -1");
  EXPECT_EQ(failure_of(read, "18446744073709551615"), "box.item must be from 1 to 32, not 18446744073709551615");
  EXPECT_EQ(failure_of(read, "1.5"), "box.item must be a whole number, not 1.5");
  EXPECT_EQ(failure_of(read, R"("2")"), R"(box.item must be a whole number, not the string "2")");
}

TEST(JsonReaders, NamesAreListed) {
  enum class Size { Small, Large };
  constexpr JsonName<Size> kSizes[] = {{"Small", Size::Small}, {"Large", Size::Large}, {"Big", Size::Large}};
  const JsonEnum<Size> exact{.names = kSizes, .ignore_case = false, .aliases = 1};
  EXPECT_EQ(exact(parsed(R"("Large")"), "").value(), Size::Large);
  EXPECT_EQ(exact(parsed(R"("Big")"), "").value(), Size::Large);
  EXPECT_EQ(failure_of(exact, R"("large")"), R"(box.item must be one of Small, Large, not "large")");
  EXPECT_EQ(failure_of(exact, "3"), "box.item must be one of Small, Large, not 3");
  const JsonEnum<Size> loose{.names = kSizes, .ignore_case = true, .aliases = 1};
  EXPECT_EQ(loose(parsed(R"("sMALL")"), "").value(), Size::Small);
  EXPECT_EQ(json_name(kSizes, Size::Large), "Large");
}

TEST(JsonReaders, LongValuesAreShortenedBetweenCharacters) {
  EXPECT_EQ(in_quotes("short"), R"("short")");
  const std::string text = std::string(99, 'a') + "\xC3\xA9" + std::string(100, 'b');
  EXPECT_EQ(in_quotes(text), '"' + std::string(99, 'a') + "...\" (201 bytes)");
}

/// Reads {"name": required, "size": optional} and gives the first failure.
std::string fields_failure(std::string_view text) {
  const JsonValue value = parsed(text);
  JsonFields fields{value, "box"};
  fields.required("name", JsonString{});
  fields.optional("size", JsonWhole{.highest = 9});
  const auto status = fields.finish();
  return status ? "" : status.error().message;
}

TEST(JsonFieldsTest, TakesWhatIsThere) {
  const JsonValue value = parsed(R"({"name": "n", "size": null, "depth": 3})");
  JsonFields fields{value, "box"};
  EXPECT_EQ(fields.required("name", JsonString{}), "n");
  EXPECT_EQ(fields.optional("size", JsonWhole{}), std::nullopt);
  EXPECT_EQ(fields.optional("depth", JsonWhole{}), 3U);
  EXPECT_EQ(fields.optional("width", JsonWhole{}), std::nullopt);
  EXPECT_TRUE(fields.finish());
}

TEST(JsonFieldsTest, EachWayToBeWrongHasItsSentence) {
  EXPECT_EQ(fields_failure("[]"), "box must be a JSON object, not an array");
  EXPECT_EQ(fields_failure("null"), "box must be a JSON object, not null");
  EXPECT_EQ(fields_failure("{}"), R"(box needs the field "name")");
  EXPECT_EQ(fields_failure(R"({"name": null})"), "box.name must be a string, not null");
  EXPECT_EQ(fields_failure(R"({"name": "n", "name": "n"})"), R"(box has the field "name" twice)");
  EXPECT_EQ(fields_failure(R"({"name": "n", "size": 10})"), "box.size must be from 0 to 9, not 10");
}

TEST(JsonFieldsTest, AMisspeltFieldIsNamedBeforeTheOneThatIsMissing) {
  EXPECT_EQ(fields_failure(R"({"nam": "n"})"), R"(box has no field "nam"; its fields are name, size)");
}

TEST(JsonFieldsTest, AFieldlessObjectRefusesEveryField) {
  const JsonValue value = parsed(R"({"x": 1})");
  JsonFields fields{value, "box"};
  EXPECT_EQ(fields.finish().error().message, R"(box has no field "x")");
}

TEST(JsonFieldsTest, AFailureOfFieldsTogetherYieldsToAnEarlierOne) {
  const JsonValue value = parsed(R"({"name": 1})");
  JsonFields fields{value, "box"};
  fields.required("name", JsonString{});
  fields.refuse("box is odd");
  EXPECT_EQ(fields.finish().error().message, "box.name must be a string, not 1");
}

}  // namespace
}  // namespace mayfly
