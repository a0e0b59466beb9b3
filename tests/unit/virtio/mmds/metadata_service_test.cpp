#include "virtio/mmds/metadata_service.h"

#include <gtest/gtest.h>

namespace mayfly {
namespace {

constexpr std::uint64_t kSecond = 1'000'000'000;

class MetadataServiceTest : public ::testing::Test {
 protected:
  MetadataServiceTest() {
    auto json = parse_json(R"({"latest":{"meta-data":{"ami-id":"ami-1"},"user-data":"hello"},"age":43})", "the data");
    EXPECT_TRUE(store_.put(std::move(*json)));
  }

  HttpAnswer ask(std::string_view request_line, std::string_view fields = "") {
    const std::string text = std::string{request_line} + " HTTP/1.1\r\n" + std::string{fields} + "\r\n";
    const auto request = HttpRequest::parse(text, 4096);
    EXPECT_TRUE(request && *request) << text;
    return MetadataService{config_, store_, {tokens_, generation_}, metrics_}.answer(**request, now_ns_);
  }
  std::string status(std::string_view request_line, std::string_view fields = "") {
    return ask(request_line, fields).text.substr(9, 3);
  }
  std::string body(std::string_view request_line, std::string_view fields = "") {
    const std::string text = ask(request_line, fields).text;
    return text.substr(text.find("\r\n\r\n") + 4);
  }
  std::string token(std::string_view seconds) {
    return body("PUT /latest/api/token", "X-metadata-token-ttl-seconds: " + std::string{seconds} + "\r\n");
  }

  MmdsConfig config_;
  MetadataStore store_;
  SessionTokens tokens_{SipKey{1, 2, 3}, 0};
  std::uint64_t generation_ = 0x5EED;
  MmdsMetrics metrics_;
  std::uint64_t now_ns_ = 5 * kSecond;
};

TEST_F(MetadataServiceTest, AnAnswerIsWholeHttp) {
  const HttpAnswer answer = ask("GET /latest/user-data");
  EXPECT_EQ(answer.text,
            "HTTP/1.1 200 OK\r\nServer: Mayfly\r\nConnection: keep-alive\r\n"
            "Mayfly-Generation: 0000000000005eed\r\nContent-Type: text/plain\r\n"
            "Content-Length: 5\r\n\r\nhello");
  EXPECT_TRUE(answer.keep_alive);
  const HttpAnswer last = ask("GET /latest/user-data", "Connection: close\r\n");
  EXPECT_NE(last.text.find("\r\nConnection: close\r\n"), std::string::npos);
  EXPECT_FALSE(last.keep_alive);
}

TEST_F(MetadataServiceTest, AGuestLearnsWhichCloneItIsWhateverItAsks) {
  MetadataService service{config_, store_, {tokens_, 1}, metrics_};
  const auto generation = [&](const char* request) {
    const std::string text = service.answer(**HttpRequest::parse(request, 4096), now_ns_).text;
    constexpr std::string_view kField = "\r\nMayfly-Generation: ";
    const std::size_t at = text.find(kField);
    return at == std::string::npos ? "" : text.substr(at + kField.size(), 16);
  };
  for (const char* const request : {"GET /latest HTTP/1.1\r\n\r\n", "GET /nothing HTTP/1.1\r\n\r\n",
                                    "HEAD /latest HTTP/1.0\r\n\r\n", "PUT /latest/api/token HTTP/1.1\r\n\r\n"})
    EXPECT_EQ(generation(request), "0000000000000001") << request;
  service.replace({tokens_, 0xFFFF'FFFF'FFFF'FFFE});
  EXPECT_EQ(generation("GET /latest HTTP/1.1\r\n\r\n"), "fffffffffffffffe");
}

TEST_F(MetadataServiceTest, TheClientChoosesTheFormat) {
  EXPECT_EQ(body("GET /latest"), "meta-data/\nuser-data");
  EXPECT_EQ(body("GET /latest", "Accept: */*\r\n"), "meta-data/\nuser-data");
  EXPECT_EQ(body("GET /latest", "Accept: text/plain\r\n"), "meta-data/\nuser-data");
  EXPECT_EQ(body("GET /latest", "Accept: application/json\r\n"),
            R"({"meta-data":{"ami-id":"ami-1"},"user-data":"hello"})");
  EXPECT_EQ(body("GET /age", "Accept: application/json\r\n"), "43");
  EXPECT_NE(ask("GET /age", "Accept: application/json\r\n").text.find("Content-Type: application/json\r\n"),
            std::string::npos);
}

TEST_F(MetadataServiceTest, AsEc2HasItEverythingIsText) {
  config_.imds_compat = true;
  EXPECT_EQ(body("GET /latest", "Accept: application/json\r\n"), "meta-data/\nuser-data");
  EXPECT_EQ(status("GET /age", "Accept: application/json\r\n"), "501");
}

TEST_F(MetadataServiceTest, EachRefusalHasItsStatus) {
  EXPECT_EQ(status("GET /nothing"), "404");
  EXPECT_EQ(status("GET /age"), "501");
  EXPECT_EQ(status("GET http://169.254.169.254"), "400");
  for (const std::string_view method : {"POST", "PATCH", "DELETE", "OPTIONS", "get"}) {
    const std::string text = ask(std::string{method} + " /latest").text;
    EXPECT_TRUE(text.starts_with("HTTP/1.1 405 Method Not Allowed\r\n")) << text;
    EXPECT_NE(text.find("\r\nAllow: GET, PUT\r\n"), std::string::npos) << text;
  }
}

TEST_F(MetadataServiceTest, AnAnswerToHeadHasNoBody) {
  const HttpAnswer answer = ask("HEAD /latest/user-data");
  EXPECT_TRUE(answer.text.starts_with("HTTP/1.1 405 "));
  EXPECT_TRUE(answer.text.ends_with("\r\n\r\n"));
  EXPECT_FALSE(answer.keep_alive);
}

TEST_F(MetadataServiceTest, WithoutAStoreNothingIsFound) {
  store_ = MetadataStore{};
  EXPECT_EQ(status("GET /"), "404");
}

TEST_F(MetadataServiceTest, Version1AnswersWithoutATokenAndWithAWrongOne) {
  EXPECT_EQ(status("GET /latest"), "200");
  EXPECT_EQ(status("GET /latest", "X-metadata-token: nonsense\r\n"), "200");
  EXPECT_EQ(token("60").size(), 48U);
}

TEST_F(MetadataServiceTest, Version2AnswersOnlyWithAToken) {
  config_.version = MmdsVersion::V2;
  EXPECT_EQ(status("GET /latest"), "401");
  EXPECT_EQ(metrics_.rx_no_token.value(), 1U);
  EXPECT_EQ(status("GET /latest", "X-metadata-token: nonsense\r\n"), "401");
  EXPECT_EQ(status("GET /nothing", "X-metadata-token:\r\n"), "401");
  EXPECT_EQ(metrics_.rx_invalid_token.value(), 2U);
  const std::string given = token("60");
  EXPECT_EQ(status("GET /latest", "X-metadata-token: " + given + "\r\n"), "200");
  EXPECT_EQ(status("GET /latest", "x-AWS-ec2-metadata-token: " + given + "\r\n"), "200");
  now_ns_ += 60 * kSecond;
  EXPECT_EQ(status("GET /latest", "X-metadata-token: " + given + "\r\n"), "401");
}

TEST_F(MetadataServiceTest, ATokenIsGivenForTheTimeThatWasAskedFor) {
  config_.version = MmdsVersion::V2;
  const std::string text = ask("PUT //latest/api/token/", "X-aws-ec2-metadata-token-ttl-seconds: 21600\r\n").text;
  EXPECT_TRUE(text.starts_with("HTTP/1.1 200 OK\r\n"));
  EXPECT_NE(text.find("\r\nX-aws-ec2-metadata-token-ttl-seconds: 21600\r\n"), std::string::npos);
  for (const std::string_view seconds : {"0", "21601", "-1", "", "1.5", "x", "99999999999999999999", "1 1"})
    EXPECT_EQ(status("PUT /latest/api/token", "X-metadata-token-ttl-seconds: " + std::string{seconds} + "\r\n"), "400")
        << seconds;
  EXPECT_EQ(status("PUT /latest/api/token"), "400");
  EXPECT_EQ(status("PUT /latest/api/token", "X-metadata-token-ttl-seconds: 1\r\nX-Forwarded-For: me\r\n"), "400");
  EXPECT_EQ(status("PUT /latest/api", "X-metadata-token-ttl-seconds: 1\r\n"), "404");
  EXPECT_EQ(status("PUT /latest", "X-metadata-token-ttl-seconds: 1\r\n"), "404");
}

TEST_F(MetadataServiceTest, WhatIsNoRequestIsAnsweredAndEndsTheConnection) {
  constexpr std::pair<HttpRequestFault, std::string_view> kCases[] = {{HttpRequestFault::Malformed, "400"},
                                                                      {HttpRequestFault::TooLong, "413"},
                                                                      {HttpRequestFault::NoSuchVersion, "505"},
                                                                      {HttpRequestFault::NoSuchCoding, "501"}};
  for (const auto& [fault, status] : kCases) {
    const HttpAnswer answer = MetadataService::refuse(fault);
    EXPECT_EQ(answer.text.substr(9, 3), status);
    EXPECT_FALSE(answer.keep_alive);
  }
}

}  // namespace
}  // namespace mayfly
