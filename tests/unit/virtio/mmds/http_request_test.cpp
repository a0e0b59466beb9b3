#include "virtio/mmds/http_request.h"

#include <string>

#include <fmt/format.h>
#include <gtest/gtest.h>

namespace mayfly {
namespace {

constexpr std::size_t kLongest = 1000;

HttpRequest whole(std::string_view bytes) {
  const auto request = HttpRequest::parse(bytes, kLongest);
  EXPECT_TRUE(request && *request) << bytes;
  return request ? request->value_or(HttpRequest{}) : HttpRequest{};
}

std::optional<HttpRequestFault> fault_of(std::string_view bytes) {
  const auto request = HttpRequest::parse(bytes, kLongest);
  return request ? std::nullopt : std::optional{request.error()};
}

constexpr std::string_view kCurl =
    "GET /latest/meta-data HTTP/1.1\r\nHost: 169.254.169.254\r\nUser-Agent: curl/8.0\r\nAccept: */*\r\n\r\n";

TEST(HttpRequest, OfCurlIsRead) {
  const HttpRequest request = whole(kCurl);
  EXPECT_EQ(request.method(), "GET");
  EXPECT_EQ(request.path(), "/latest/meta-data");
  EXPECT_EQ(request.minor_version(), 1U);
  EXPECT_TRUE(request.keep_alive());
  EXPECT_EQ(request.length(), kCurl.size());
  EXPECT_EQ(request.field("host"), "169.254.169.254");
  EXPECT_EQ(request.field("ACCEPT"), "*/*");
  EXPECT_EQ(request.field("Accept-Encoding"), std::nullopt);
  EXPECT_EQ(request.field("curl/8.0"), std::nullopt);
}

TEST(HttpRequest, EveryPartOfOneIsNotWholeYet) {
  for (std::size_t length = 0; length < kCurl.size(); ++length) {
    const auto request = HttpRequest::parse(kCurl.substr(0, length), kLongest);
    ASSERT_TRUE(request) << length;
    EXPECT_FALSE(*request) << length;
  }
}

TEST(HttpRequest, WhatFollowsIsLeftForTheNext) {
  EXPECT_EQ(whole(fmt::format("{}GET /", kCurl)).length(), kCurl.size());
}

TEST(HttpRequest, MayNameTheHostInItsTarget) {
  EXPECT_EQ(whole("GET http://169.254.169.254/a/b HTTP/1.0\r\n\r\n").path(), "/a/b");
  EXPECT_EQ(whole("GET HTTP://x HTTP/1.0\r\n\r\n").path(), "");
  EXPECT_EQ(whole("GET http:// HTTP/1.0\r\n\r\n").path(), "");
}

TEST(HttpRequest, SaysWhetherAnotherMayFollow) {
  const auto keeps = [](std::string_view version, std::string_view connection) {
    return whole("GET / HTTP/" + std::string{version} + "\r\n" + std::string{connection} + "\r\n\r\n").keep_alive();
  };
  EXPECT_TRUE(keeps("1.1", "X: y"));
  EXPECT_FALSE(keeps("1.0", "X: y"));
  EXPECT_FALSE(keeps("1.1", "Connection: close"));
  EXPECT_FALSE(keeps("1.1", "connection:upgrade ,\t CLOSE "));
  EXPECT_TRUE(keeps("1.0", "Connection: Keep-Alive"));
  EXPECT_TRUE(keeps("1.1", "Connection: closed"));
}

TEST(HttpRequest, ABodyBelongsToItAndIsSkipped) {
  const std::string head = "PUT /latest/api/token HTTP/1.1\r\nContent-Length: 5\r\n\r\n";
  EXPECT_EQ(whole(head + "12345GET").length(), head.size() + 5);
  EXPECT_FALSE(HttpRequest::parse(head + "1234", kLongest)->has_value());
  EXPECT_EQ(whole("PUT / HTTP/1.1\r\nContent-Length: 0\r\nContent-Length: 0\r\n\r\n").length(), 56U);
}

TEST(HttpRequest, LengthsThatLieAreRefused) {
  const auto with = [](std::string_view value) {
    return fault_of("PUT / HTTP/1.1\r\nContent-Length: " + std::string{value} + "\r\n\r\n");
  };
  for (const std::string_view value : {"", "-1", "+1", "1x", "0x10", "1 2", "1,1", " "})
    EXPECT_EQ(with(value), HttpRequestFault::Malformed) << value;
  for (const std::string_view value : {"1000", "18446744073709551615", "18446744073709551614", "99999999999999999999"})
    EXPECT_EQ(with(value), HttpRequestFault::TooLong) << value;
  EXPECT_EQ(with("1\r\nContent-Length: 2"), HttpRequestFault::Malformed);
  EXPECT_EQ(fault_of("PUT / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"), HttpRequestFault::NoSuchCoding);
}

TEST(HttpRequest, MoreThanTheLimitIsRefusedAsSoonAsItShows) {
  const std::string begin = "GET / HTTP/1.1\r\nX: ";
  EXPECT_EQ(fault_of(begin + std::string(kLongest - begin.size(), 'a')), HttpRequestFault::TooLong);
  EXPECT_FALSE(fault_of(begin + std::string(kLongest - begin.size() - 1, 'a')));
  const std::string most = begin + std::string(kLongest - begin.size() - 4, 'a') + "\r\n\r\n";
  EXPECT_EQ(whole(most).length(), kLongest);
  EXPECT_EQ(fault_of(begin + std::string(kLongest - begin.size() - 3, 'a') + "\r\n\r\n"), HttpRequestFault::TooLong);
}

TEST(HttpRequest, WhatIsNoneIsRefused) {
  for (const std::string_view head : {"",
                                      "GET",
                                      "GET /",
                                      "GET / ",
                                      "GET  / HTTP/1.1",
                                      " GET / HTTP/1.1",
                                      "GET /  HTTP/1.1",
                                      "GET / HTTP/1.1 ",
                                      "GET / a HTTP/1.1",
                                      "GET a HTTP/1.1",
                                      "GET * HTTP/1.1",
                                      "GET ftp://x/ HTTP/1.1",
                                      "GET / HTTP/11",
                                      "GET / http/1.1",
                                      "GET / HTTP/1.1x",
                                      "GET / HTTP/a.1",
                                      "G(T / HTTP/1.1",
                                      "GET /\t HTTP/1.1",
                                      "GET /\x7F HTTP/1.1",
                                      "GET / HTTP/1.1\r\nX",
                                      "GET / HTTP/1.1\r\n: y",
                                      "GET / HTTP/1.1\r\nX : y",
                                      "GET / HTTP/1.1\r\nX: y\r\n z",
                                      "GET / HTTP/1.1\r\nX: y\rz",
                                      "GET / HTTP/1.1\r\nX: \x01",
                                      "GET / HTTP/1.1\nX: y",
                                      "\nGET / HTTP/1.1",
                                      "GET / HTTP/1.1\r\n X: y"}) {
    EXPECT_EQ(fault_of(std::string{head} + "\r\n\r\n"), HttpRequestFault::Malformed) << head;
  }
  using namespace std::string_view_literals;
  EXPECT_EQ(fault_of("GET /\0 HTTP/1.1\r\n\r\n"sv), HttpRequestFault::Malformed);
  EXPECT_EQ(fault_of("GET / HTTP/1.1\r\nX: a\0b\r\n\r\n"sv), HttpRequestFault::Malformed);
}

TEST(HttpRequest, LinesThatEndInALineFeedAloneAreRefusedAtOnce) {
  EXPECT_EQ(fault_of("GET / HTTP/1.1\n"), HttpRequestFault::Malformed);
  EXPECT_EQ(fault_of("\n"), HttpRequestFault::Malformed);
}

TEST(HttpRequest, OtherVersionsAreToldApart) {
  for (const std::string_view version : {"0.9", "1.2", "2.0", "3.1"})
    EXPECT_EQ(fault_of("GET / HTTP/" + std::string{version} + "\r\n\r\n"), HttpRequestFault::NoSuchVersion) << version;
}

TEST(HttpList, HasItsMembersInAnyCase) {
  EXPECT_TRUE(http_list_has("application/json", "application/json"));
  EXPECT_TRUE(http_list_has("text/html, Application/JSON;q=0.9", "application/json"));
  EXPECT_FALSE(http_list_has("application/jsonx", "application/json"));
  EXPECT_FALSE(http_list_has("*/*", "application/json"));
  EXPECT_FALSE(http_list_has("", "application/json"));
  EXPECT_FALSE(http_list_has(",;,", "application/json"));
}

}  // namespace
}  // namespace mayfly
