#include "rootfs-tools/agent/protocol.h"

#include <limits>
#include <string>
#include <vector>

#include <gtest/gtest.h>

namespace mayfly::agent {
namespace {

using namespace std::string_literals;

/// No part of a payload, and nothing longer, is taken for it.
template <typename Decode>
void expect_exact(const std::string& payload, Decode decode) {
  for (std::size_t length = 0; length < payload.size(); ++length)
    EXPECT_FALSE(decode(std::string_view{payload}.substr(0, length)).has_value()) << length;
  EXPECT_FALSE(decode(payload + '\0').has_value());
}

TEST(Protocol, RequestsComeOutAsTheyWentIn) {
  const ExecRequest exec{.command = {"sh", "-c", "", "a b"},
                         .environment = {"A=b", "C="},
                         .directory = "/srv",
                         .user = "web:34",
                         .tty = true,
                         .size = {.rows = 1000, .columns = 65535}};
  const auto payload = encode(exec).value();
  EXPECT_EQ(decode_exec(payload).value(), exec);
  expect_exact(payload, decode_exec);

  const ConnectRequest connect{.port = 65535, .wait_ms = kLongestWaitMs};
  EXPECT_EQ(decode_connect(encode(connect)).value(), connect);
  expect_exact(encode(connect), decode_connect);

  const GetRequest get{.path = "/var/log"};
  EXPECT_EQ(decode_get(encode(get).value()).value(), get);
  expect_exact(encode(get).value(), decode_get);

  for (const PutRequest& put : {PutRequest{.path = "/tmp", .name = "file"}, PutRequest{.path = "/", .name = ""}}) {
    EXPECT_EQ(decode_put(encode(put).value()).value(), put);
    expect_exact(encode(put).value(), decode_put);
  }
}

TEST(Protocol, AnswersComeOutAsTheyWentIn) {
  for (const ExitReport& report : {ExitReport{.number = 255}, ExitReport{.by_signal = true, .number = 64}}) {
    EXPECT_EQ(decode_exit(encode(report)).value(), report);
    expect_exact(encode(report), decode_exit);
  }
  const Refusal refusal{.reason = RefusalReason::NotExecutable, .sentence = "no"};
  EXPECT_EQ(decode_refusal(encode(refusal)).value(), refusal);
  expect_exact(encode(refusal), decode_refusal);
  EXPECT_EQ(decode_refusal(encode(Refusal{.sentence = std::string(10'000, 'x')})).value().sentence.size(), 4096U);
  const WindowSize size{.rows = 1, .columns = 2};
  EXPECT_EQ(decode_size(encode(size)).value(), size);
  EXPECT_EQ(decode_number(encode_number(0x01020304)).value(), 0x01020304U);
  EXPECT_EQ(encode_number(0x01020304), "\x04\x03\x02\x01") << "little-endian, on any machine";
  EXPECT_EQ(decode_length(encode_length(~std::uint64_t{0})).value(), ~std::uint64_t{0});
  expect_exact(encode_length(1), decode_length);

  const TreeEntry entry{.type = EntryType::Link,
                        .mode = 07777,
                        .uid = 0xFFFFFFFF,
                        .gid = 1,
                        .seconds = -1,
                        .nanoseconds = 999'999'999,
                        .size = std::numeric_limits<std::uint64_t>::max(),
                        .name = std::string(255, 'n'),
                        .target = "../../somewhere else"};
  EXPECT_EQ(decode_entry(encode(entry)).value(), entry);
  expect_exact(encode(entry), decode_entry);
}

TEST(Protocol, RequestsThatMeanNothingAreRefused) {
  const auto is_taken = [](const ExecRequest& request) { return decode_exec(encode(request).value()).has_value(); };
  EXPECT_TRUE(is_taken({.command = {"a"}}));
  EXPECT_FALSE(is_taken({}));
  EXPECT_FALSE(is_taken({.command = {""}}));
  EXPECT_FALSE(is_taken({.command = {"a\0b"s}}));
  EXPECT_FALSE(is_taken({.command = {"a"}, .environment = {"novalue"}}));
  EXPECT_FALSE(is_taken({.command = {"a"}, .environment = {"=v"}}));
  EXPECT_FALSE(is_taken({.command = {"a"}, .directory = "relative"}));
  EXPECT_FALSE(is_taken({.command = {"a"}, .user = "\0"s}));
  EXPECT_FALSE(decode_connect(encode(ConnectRequest{.port = 0})).has_value());
  EXPECT_FALSE(decode_connect(encode(ConnectRequest{.port = 1, .wait_ms = kLongestWaitMs + 1})).has_value());
  for (const std::string& path : {""s, "relative"s, "/a\0b"s, "/" + std::string(4096, 'x')})
    EXPECT_FALSE(decode_get(encode(GetRequest{.path = path}).value()).has_value()) << path;
  for (const std::string& name : {"."s, ".."s, "a/b"s, "/"s, "a\0"s, std::string(256, 'x')}) {
    EXPECT_FALSE(decode_put(encode(PutRequest{.path = "/", .name = name}).value()).has_value()) << name;
    EXPECT_FALSE(decode_entry(encode(TreeEntry{.name = name})).has_value()) << name;
  }
  EXPECT_FALSE(decode_entry(encode(TreeEntry{.mode = 010000, .name = "n"})).has_value());
  EXPECT_FALSE(decode_entry(encode(TreeEntry{.nanoseconds = 1'000'000'000, .name = "n"})).has_value());
  EXPECT_FALSE(decode_entry(encode(TreeEntry{.type = EntryType::Link, .name = "n"})).has_value()) << "leads nowhere";
  EXPECT_FALSE(decode_entry(encode(TreeEntry{.name = "n", .target = "t"})).has_value()) << "is no link";
  EXPECT_FALSE(decode_exit(encode(ExitReport{.number = 256})).has_value());
  EXPECT_FALSE(decode_exit(encode(ExitReport{.by_signal = true, .number = 0})).has_value());
}

TEST(Protocol, CountsThatCannotBeTrueReserveNothing) {
  // Four billion words in a list, of which there is none.
  const std::string head = std::string(5, '\0') + std::string(8, '\0');
  EXPECT_FALSE(decode_exec(head + "\xff\xff\xff\xff").has_value());
  EXPECT_FALSE(decode_exec(head + "\x01\0\0\0\xff\xff\xff\xff"s).has_value());
}

TEST(Protocol, WhatDoesNotFitIsRefusedWithARemedy) {
  const auto long_one = encode(ExecRequest{.command = {std::string(kLongestPayload, 'x')}});
  ASSERT_FALSE(long_one.has_value());
  EXPECT_TRUE(long_one.error().message.contains("copy a script into the guest")) << long_one.error().message;
  const auto many = encode(ExecRequest{.command = std::vector<std::string>(kMostWords + 1, "x")});
  EXPECT_TRUE(many.error().message.contains("at most 4096 words")) << many.error().message;
}

}  // namespace
}  // namespace mayfly::agent
