#include "api/http_codec.h"

#include "tests/unit/api/answer_request.h"
#include "tests/unit/api/fake_target.h"

#include <gtest/gtest.h>

namespace mayfly {
namespace {

/// Answers with what it was asked.
ApiResponse echo(const ReceivedRequest& request) {
  if (request.path == "/nothing") return {.status = 204, .body = {}};
  return {.status = 200, .body = fmt::format("{} {} [{}]", request.method, request.path, request.body)};
}

HttpReply answer(std::string_view request_line, std::string_view connection = "", std::string_view body = "") {
  const auto request = read_request(
      {.request_line = std::string{request_line}, .connection = std::string{connection}, .body = std::string{body}});
  return request ? write_reply(echo(*request), request->form) : request.error();
}

TEST(HttpCodecTest, AnswersWithStatusTypeLengthAndBody) {
  const HttpReply reply = answer("PUT /vm HTTP/1.1", "", "{}");
  EXPECT_EQ(reply.bytes,
            "HTTP/1.1 200 OK\r\nContent-Length: 12\r\nContent-Type: application/json\r\nServer: Mayfly\r\n\r\n"
            "PUT /vm [{}]");
  EXPECT_FALSE(reply.close);
}

TEST(HttpCodecTest, AnAnswerWithoutBodyHasNoLength) {
  EXPECT_EQ(answer("PUT /nothing HTTP/1.1").bytes, "HTTP/1.1 204 No Content\r\nServer: Mayfly\r\n\r\n");
}

TEST(HttpCodecTest, DecodesThePathAndDropsTheQuery) {
  EXPECT_TRUE(answer("GET /a%20b/%2e?x=1&y#z HTTP/1.1").bytes.ends_with("GET /a b/. []"));
}

TEST(HttpCodecTest, TakesTargetsOfProxiesAndWithSlashesTooMany) {
  const auto path = [](std::string_view target) {
    const auto request =
        read_request({.request_line = fmt::format("GET {} HTTP/1.1", target), .connection = "", .body = ""});
    return request ? request->path : "";
  };
  for (const std::string_view target :
       {"/version", "//version", "///version", "http://localhost/version", "HTTP://localhost:80//version?a=b"})
    EXPECT_EQ(path(target), "/version") << target;
  for (const std::string_view target : {"/", "//", "http://localhost", "http://localhost?a=/b", "http://localhost/"})
    EXPECT_EQ(path(target), "/") << target;
  EXPECT_EQ(path("/a//b"), "/a//b");
  EXPECT_EQ(path("/http://a/b"), "/http://a/b");
}

TEST(HttpCodecTest, AnIdIsComparedAsDecodedAndCannotSmuggleASlash) {
  FakeTarget target;
  const auto patch = [&](std::string_view path) {
    const auto request = read_request({.request_line = fmt::format("PATCH {} HTTP/1.1", path),
                                       .connection = "",
                                       .body = R"({"drive_id": "root_1", "path_on_host": "/d"})"});
    if (!request) return request.error().bytes;
    const ApiRequest asked{.method = request->method, .path = request->path, .body = request->body};
    return write_reply(answer_request(asked, target), request->form).bytes;
  };
  EXPECT_TRUE(patch("/drives/root_1").starts_with("HTTP/1.1 204 "));
  EXPECT_TRUE(patch("/drives/%72oot%5f1").starts_with("HTTP/1.1 204 "));
  EXPECT_TRUE(patch("/drives/root_1?x=/y").starts_with("HTTP/1.1 204 "));
  EXPECT_EQ(target.commands().size(), 3U);
  EXPECT_TRUE(patch("/drives/root_1%2Fx").starts_with("HTTP/1.1 400 "));
  for (const std::string_view id : {"root+1", "root%201", "root_1%00", "root_1%0D%0A", "%ff"})
    EXPECT_TRUE(patch(fmt::format("/drives/{}", id)).starts_with("HTTP/1.1 400 ")) << id;
  EXPECT_EQ(target.commands().size(), 3U);
}

TEST(HttpCodecTest, ClosesWhenTheClientAsks) {
  for (const std::string_view version : {"HTTP/1.0", "HTTP/1.1"}) {
    for (const std::string_view connection : {"close", "Close", "TE, close", "close ,TE", "keep-alive,close"}) {
      const HttpReply reply = answer(fmt::format("GET / {}", version), connection);
      EXPECT_TRUE(reply.close);
      EXPECT_NE(reply.bytes.find("\r\nConnection: close\r\n"), std::string::npos) << reply.bytes;
    }
    // A client of the dialect (firecracker-rs-sdk) writes HTTP/1.0, and all of its requests to one connection.
    for (const std::string_view connection : {"", "keep-alive", "Keep-Alive", "TE, closed"})
      EXPECT_FALSE(answer(fmt::format("GET / {}", version), connection).close) << version << ' ' << connection;
  }
}

TEST(HttpCodecTest, AnswersHeadWithoutTheBody) {
  const HttpReply reply = answer("HEAD / HTTP/1.1");
  EXPECT_TRUE(reply.bytes.ends_with("\r\n\r\n")) << reply.bytes;
  EXPECT_NE(reply.bytes.find("Content-Length: 9\r\n"), std::string::npos) << reply.bytes;
}

TEST(HttpCodecTest, AMethodThatHttpDoesNotKnowIsNotFound) {
  const HttpReply reply = answer("FROB /vm HTTP/1.1");
  EXPECT_TRUE(reply.bytes.starts_with("HTTP/1.1 400 Bad Request\r\n")) << reply.bytes;
  EXPECT_TRUE(reply.bytes.ends_with(R"({"fault_message":"FROB /vm: the API has no such method"})")) << reply.bytes;
  EXPECT_NE(reply.bytes.find("Content-Type: application/json\r\n"), std::string::npos) << reply.bytes;
}

TEST(HttpCodecTest, RefusesAMalformedRequestLine) {
  for (const std::string_view line :
       {"", " ", "GET", "GET /", "GET / HTTP/2.0", "GET / x HTTP/1.1", "GET / HTTP/1.1 x"}) {
    const HttpReply reply = answer(line);
    EXPECT_TRUE(reply.bytes.starts_with("HTTP/1.1 400 Bad Request\r\n")) << line << ": " << reply.bytes;
    EXPECT_TRUE(reply.bytes.ends_with(R"({"fault_message":"the request line is not METHOD PATH HTTP/1.1"})")) << line;
  }
}

TEST(HttpCodecTest, RefusesAUriThatIsTooLong) {
  const HttpReply reply = answer("GET /" + std::string(9000, 'x') + " HTTP/1.1");
  EXPECT_TRUE(reply.bytes.starts_with("HTTP/1.1 400 ")) << reply.bytes;
  EXPECT_NE(reply.bytes.find(R"({"fault_message":"the path is longer than 8192 bytes"})"), std::string::npos)
      << reply.bytes;
}

TEST(HttpCodecTest, AFaultIsToldAndCloses) {
  const HttpReply reply = write_refusal({.status = 413, .message = "too \"large\""});
  EXPECT_TRUE(reply.close);
  EXPECT_TRUE(reply.bytes.starts_with("HTTP/1.1 413 Payload Too Large\r\nConnection: close\r\n")) << reply.bytes;
  EXPECT_TRUE(reply.bytes.ends_with(R"({"fault_message":"too \"large\""})"));
}

TEST(HttpCodecTest, AQueryMayHaveAQuestionMark) {
  EXPECT_TRUE(answer("GET /a?x=y?z HTTP/1.1").bytes.ends_with("GET /a []"));
}

TEST(HttpCodecTest, AnotherVersionIsNotAMissingMethod) {
  EXPECT_TRUE(answer("GET / HTTP/1.2").bytes.starts_with("HTTP/1.1 400 "));
}

}  // namespace
}  // namespace mayfly
