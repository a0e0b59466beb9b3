#include "api/client/answer_reader.h"

#include <gtest/gtest.h>

namespace mayfly {
namespace {

TEST(AnswerReaderTest, TakesAnAnswerInAnyPieces) {
  constexpr std::string_view kText = "HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nabc";
  AnswerReader reader;
  for (const char& byte : kText) {
    EXPECT_FALSE(reader.is_whole());
    ASSERT_TRUE(reader.take({&byte, 1}));
  }
  ASSERT_TRUE(reader.is_whole());
  const auto answer = std::move(reader).finish();
  ASSERT_TRUE(answer);
  EXPECT_EQ(answer->status, 200);
  EXPECT_EQ(answer->body, "abc");
}

TEST(AnswerReaderTest, SaysWhatIsNoAnswer) {
  AnswerReader half;
  ASSERT_TRUE(half.take("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nab"));
  EXPECT_EQ(std::move(half).finish().error().message, "the connection ended before the answer did");
  AnswerReader other;
  EXPECT_EQ(other.take("SSH-2.0\r\n\r\n").error().message, "the answer is no HTTP");
}

TEST(BodyOf, IsTheBodyOrTheServersSentence) {
  EXPECT_EQ(body_of({200, "{}"}, "GET /").value(), "{}");
  EXPECT_EQ(body_of({400, R"({"fault_message": "not now"})"}, "GET /").error().message, "not now");
  EXPECT_EQ(body_of({404, "what?\n"}, "GET /").error().message, "GET / is refused (404): what??");
}

TEST(TextMember, IsEmptyWhereThereIsNone) {
  EXPECT_EQ(text_member(R"({"a": 1, "b": "two"})", "b"), "two");
  EXPECT_EQ(text_member(R"({"a": 1, "b": "two"})", "a"), "");
  EXPECT_EQ(text_member(R"({"b": "two"})", "c"), "");
  EXPECT_EQ(text_member("[]", "a"), "");
  EXPECT_EQ(text_member("not JSON", "a"), "");
}

}  // namespace
}  // namespace mayfly
