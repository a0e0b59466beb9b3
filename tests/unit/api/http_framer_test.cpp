#include "api/http_framer.h"

#include <algorithm>
#include <string>
#include <vector>

#include <fmt/format.h>
#include <gtest/gtest.h>

namespace mayfly {
namespace {

constexpr HttpLimits kSmall{.head = 200, .body = 20};

/// What comes of feeding `bytes` in pieces of `step`: messages, and the fault at the end if there is one.
struct Outcome {
  std::vector<HttpMessage> messages;
  HttpFramer::State end = HttpFramer::State::Idle;
  HttpFault fault;
};

Outcome fed(std::string_view bytes, std::size_t step) {
  HttpFramer framer{kSmall};
  Outcome outcome;
  while (!bytes.empty() && framer.state() != HttpFramer::State::Faulty) {
    bytes.remove_prefix(framer.feed(bytes.substr(0, step)));
    if (framer.state() == HttpFramer::State::Complete) outcome.messages.push_back(framer.take());
  }
  outcome.end = framer.state();
  outcome.fault = framer.fault();
  return outcome;
}

std::string framing_fault_of(std::string_view bytes, int status = 400) {
  const Outcome whole = fed(bytes, bytes.size());
  const Outcome bitwise = fed(bytes, 1);
  EXPECT_EQ(whole.end, HttpFramer::State::Faulty) << bytes;
  EXPECT_EQ(bitwise.fault.message, whole.fault.message) << bytes;
  EXPECT_EQ(whole.fault.status, status) << bytes;
  EXPECT_TRUE(whole.messages.empty());
  return whole.fault.message;
}

/// The one message that `bytes` are, however they arrive.
HttpMessage only_message(std::string_view bytes) {
  HttpMessage message;
  for (const std::size_t step : {std::size_t{1}, std::size_t{3}, bytes.size()}) {
    Outcome outcome = fed(bytes, step);
    EXPECT_EQ(outcome.messages.size(), 1U) << bytes << " by " << step << ": " << outcome.fault.message;
    EXPECT_EQ(outcome.end, HttpFramer::State::Idle);
    if (!outcome.messages.empty()) message = std::move(outcome.messages[0]);
  }
  return message;
}

TEST(HttpFramerTest, AMessageWithoutALengthHasNoBody) {
  const HttpMessage message = only_message("GET /version HTTP/1.1\r\nHost: x\r\nConnection:  close \r\n\r\n");
  EXPECT_EQ(message.request_line, "GET /version HTTP/1.1");
  EXPECT_EQ(message.connection, "close");
  EXPECT_EQ(message.body, "");
  EXPECT_EQ(only_message("GET / HTTP/1.1\r\nConnection: close\r\nConnection: TE\r\n\r\n").connection, "close,TE");
  EXPECT_EQ(only_message("PUT /vm HTTP/1.1\r\n\r\n").body, "");
  EXPECT_EQ(only_message("PUT /vm HTTP/1.1\r\nContent-Length: 0\r\n\r\n").body, "");
}

TEST(HttpFramerTest, ReadsABodyOfTheGivenLength) {
  EXPECT_EQ(only_message("PUT / HTTP/1.1\r\ncontent-LENGTH: 5\r\n\r\nhello").body, "hello");
  EXPECT_EQ(only_message("PUT / HTTP/1.1\r\nContent-Length: 20\r\n\r\n01234567890123456789").body.size(), 20U);
}

TEST(HttpFramerTest, ReadsAChunkedBody) {
  EXPECT_EQ(only_message("PUT / HTTP/1.1\r\nTransfer-Encoding: Chunked\r\n\r\n"
                         "3\r\nabc\r\n00A;x=\"y\"\r\n0123456789\r\n0\r\nTrailer: ignored\r\n\r\n")
                .body,
            "abc0123456789");
  EXPECT_EQ(only_message("PUT / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n").body, "");
}

TEST(HttpFramerTest, TakesPipelinedMessagesOneByOne) {
  const std::string_view bytes =
      "\r\nPUT /a HTTP/1.1\r\nContent-Length: 1\r\n\r\nx"
      "PUT /b HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1\r\ny\r\n0\r\n\r\n"
      "\r\nGET /c HTTP/1.1\r\n\r\n";
  for (const std::size_t step : {std::size_t{1}, bytes.size()}) {
    const Outcome outcome = fed(bytes, step);
    ASSERT_EQ(outcome.messages.size(), 3U) << outcome.fault.message;
    EXPECT_EQ(outcome.messages[0].body, "x");
    EXPECT_EQ(outcome.messages[1].body, "y");
    EXPECT_EQ(outcome.messages[2].request_line, "GET /c HTTP/1.1");
  }
}

TEST(HttpFramerTest, ATruncatedMessageIsNotComplete) {
  for (const std::string_view bytes :
       {"GET", "GET / HTTP/1.1\r\n", "GET / HTTP/1.1\r\nHost: x\r\n\r", "PUT / HTTP/1.1\r\nContent-Length: 2\r\n\r\nx",
        "PUT / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n"}) {
    const Outcome outcome = fed(bytes, 2);
    EXPECT_TRUE(outcome.messages.empty()) << bytes;
    EXPECT_EQ(outcome.end, HttpFramer::State::Reading) << bytes;
  }
}

TEST(HttpFramerTest, RefusesABodyOverTheLimitBeforeItIsRead) {
  const std::string_view refusal = "the body is larger than 20 bytes, the limit that --http-api-max-payload-size sets";
  EXPECT_EQ(framing_fault_of("PUT / HTTP/1.1\r\nContent-Length: 21\r\n\r\n", 413), refusal);
  EXPECT_EQ(framing_fault_of("PUT / HTTP/1.1\r\nContent-Length: 99999999999999999999999\r\n\r\n", 413), refusal);
  EXPECT_EQ(framing_fault_of("PUT / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n15\r\n", 413), refusal);
  EXPECT_EQ(framing_fault_of("PUT / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n14\r\n", 413), refusal);
  EXPECT_EQ(framing_fault_of("PUT / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nFFFFFFFFFFFFFFFFF\r\n", 413),
            refusal);
}

TEST(HttpFramerTest, RefusesAHeadWithoutEnd) {
  const std::string_view refusal = "the request line and headers are longer than 200 bytes";
  EXPECT_EQ(framing_fault_of(std::string(500, 'G')), refusal);
  EXPECT_EQ(framing_fault_of("GET / HTTP/1.1\r\nX: " + std::string(500, 'x')), refusal);
  std::string many = "GET / HTTP/1.1\r\n";
  for (int i = 0; i < 100; ++i) many += "A: b\r\n";
  EXPECT_EQ(framing_fault_of(many), refusal);
}

TEST(HttpFramerTest, RefusesLengthsThatCannotBeTrusted) {
  for (const std::string_view length : {"", "x", "-1", "+1", "1x", "1 1", "0x1", "1, 1"}) {
    EXPECT_EQ(framing_fault_of(std::string{"PUT / HTTP/1.1\r\nContent-Length: "} + std::string{length} + "\r\n\r\n"),
              "the request's Content-Length is malformed")
        << length;
  }
  EXPECT_EQ(framing_fault_of("PUT / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n"),
            "the request's Content-Length is malformed");
  EXPECT_EQ(framing_fault_of("PUT / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n"),
            "the request has both a Content-Length and a Transfer-Encoding");
  for (const std::string_view coding : {"gzip", "gzip, chunked", "chunked, chunked", ""}) {
    EXPECT_EQ(framing_fault_of(std::string{"PUT / HTTP/1.1\r\nTransfer-Encoding: "} + std::string{coding} + "\r\n\r\n"),
              "the request has a Transfer-Encoding other than chunked")
        << coding;
  }
  EXPECT_EQ(only_message("PUT / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\nx").body, "x");
}

TEST(HttpFramerTest, RefusesMalformedHeads) {
  EXPECT_EQ(framing_fault_of("GET / HTTP/1.1\nHost: x\n\n"), "a line of the request's head does not end in CR LF");
  EXPECT_EQ(framing_fault_of(std::string_view{"GET /\0 HTTP/1.1\r\n", 17}),
            "the request's head has a control character");
  for (const std::string_view line : {"no colon", ": no name", "Name : space", "Na me: x", " Folded: x", "X: a\rb"}) {
    EXPECT_EQ(framing_fault_of("GET / HTTP/1.1\r\nA: b\r\n" + std::string{line} + "\r\n\r\n"),
              "a header field of the request is malformed")
        << line;
  }
  EXPECT_EQ(framing_fault_of("PUT / HTTP/1.1\r\nExpect: wonders\r\n\r\n", 417),
            "the request expects something other than 100-continue");
}

TEST(HttpFramerTest, RefusesMalformedChunks) {
  const std::string head = "PUT / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n";
  for (const std::string_view size : {"", "x", "-1", "0x1", ";x"}) {
    EXPECT_EQ(framing_fault_of(head + std::string{size} + "\r\n"), "a chunk's size is malformed") << size;
  }
  constexpr const char* kTooMuch = "chunk extensions and trailer are longer than 200 bytes";
  EXPECT_EQ(framing_fault_of(head + "1;" + std::string(250, 'e') + "\r\n"), kTooMuch);
  EXPECT_EQ(framing_fault_of(head + "1;" + std::string(150, 'e') + "\r\nx\r\n1;" + std::string(150, 'e') + "\r\n"),
            kTooMuch);
  EXPECT_EQ(framing_fault_of(head + std::string(250, '0') + "1\r\n"), kTooMuch);
  EXPECT_EQ(framing_fault_of(head + "1\nx"), "a line of the chunked body does not end in CR LF");
  EXPECT_EQ(framing_fault_of(head + "1\r\nxy\r\n"), "a chunk is longer than its size says");
  EXPECT_EQ(framing_fault_of(head + "0\r\n" + std::string(300, 't')), kTooMuch);
}

TEST(HttpFramerTest, ABodyMayComeInAnyNumberOfChunks) {
  constexpr std::size_t kBody = 51'200;
  for (const std::size_t length : {std::size_t{1}, std::size_t{10}, std::size_t{4096}}) {
    std::string bytes = "PUT / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n";
    for (std::size_t left = kBody; left > 0;) {
      const std::size_t here = std::min(left, length);
      bytes += fmt::format("{:x}\r\n{}\r\n", here, std::string(here, 'x'));
      left -= here;
    }
    bytes += "0\r\n\r\n";
    HttpFramer framer{HttpLimits{.head = 200, .body = kBody}};
    EXPECT_EQ(framer.feed(bytes), bytes.size());
    ASSERT_EQ(framer.state(), HttpFramer::State::Complete) << framer.fault().message;
    EXPECT_EQ(framer.take().body, std::string(kBody, 'x'));
  }
}

TEST(HttpFramerTest, AChunkSizeLineIsBounded) {
  HttpFramer framer{HttpLimits{}};
  const std::string bytes = "PUT / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1;" + std::string(300, 'e');
  EXPECT_LT(framer.feed(bytes), bytes.size());
  EXPECT_EQ(framer.fault().message, "a chunk's size is malformed");
}

TEST(HttpFramerTest, TellsOnceThatAClientWaitsToContinue) {
  HttpFramer framer{kSmall};
  const std::string_view head = "PUT / HTTP/1.1\r\nExpect: 100-Continue\r\nContent-Length: 2\r\n\r\n";
  EXPECT_EQ(framer.feed(head), head.size());
  EXPECT_TRUE(framer.take_wants_continue());
  EXPECT_FALSE(framer.take_wants_continue());
  EXPECT_EQ(framer.feed("xy"), 2U);
  EXPECT_EQ(framer.state(), HttpFramer::State::Complete);

  HttpFramer too_large{kSmall};
  EXPECT_LE(too_large.feed("PUT / HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 21\r\n\r\n"), 100U);
  EXPECT_FALSE(too_large.take_wants_continue());

  HttpFramer bodiless{kSmall};
  EXPECT_LE(bodiless.feed("GET / HTTP/1.1\r\nExpect: 100-continue\r\n\r\n"), 100U);
  EXPECT_FALSE(bodiless.take_wants_continue());
}

}  // namespace
}  // namespace mayfly
