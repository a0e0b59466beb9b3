#include "snapshot/archive.h"

#include <string>

#include <gtest/gtest.h>

namespace mayfly {
namespace {

enum class Colour { Red = 1, Green, Blue };

struct Inner {
  std::uint16_t number = 0;
  std::string text;
  friend bool operator==(const Inner&, const Inner&) = default;
};

struct Outer {
  std::uint32_t number = 0;
  bool truth = false;
  Colour colour = Colour::Red;
  std::array<std::uint8_t, 3> few{};
  std::vector<std::uint64_t> many;
  std::vector<Inner> inner;
  std::optional<Inner> perhaps;
  std::uint8_t late = 77;  // since version 2
  friend bool operator==(const Outer&, const Outer&) = default;
};

template <typename Archive>
void visit(Archive& archive, Inner& inner) {
  archive.field("inner_number", inner.number);
  archive.field("inner_text", inner.text);
}

template <typename Archive>
void visit(Archive& archive, Outer& outer) {
  archive.field("number", outer.number);
  archive.field("truth", outer.truth);
  archive.field("colour", outer.colour);
  archive.field("few", outer.few);
  archive.field("many", outer.many);
  archive.field("inner", outer.inner);
  archive.field("perhaps", outer.perhaps);
  if (archive.since(2)) archive.field("late", outer.late);
}

}  // namespace

template <>
struct EnumRange<Colour> {
  static constexpr Colour kFirst = Colour::Red;
  static constexpr Colour kLast = Colour::Blue;
};

namespace {

Outer whole() {
  return {.number = 0x0403'0201,
          .truth = true,
          .colour = Colour::Green,
          .few = {7, 8, 9},
          .many = {10},
          .inner = {{.number = 11, .text = "a"}, {.number = 12, .text = ""}},
          .perhaps = Inner{.number = 13, .text = "bc"},
          .late = 14};
}

std::vector<std::byte> written(Outer outer) {
  StateWriter writer;
  writer.field("outer", outer);
  return std::move(writer).take();
}

std::vector<std::byte> byte_values(std::initializer_list<int> values) {
  std::vector<std::byte> bytes;
  for (const int value : values) bytes.push_back(static_cast<std::byte>(value));
  return bytes;
}

TEST(Archive, WritesOnPaperWhatItsDescriptionSays) {
  EXPECT_EQ(written(whole()), byte_values({1, 2,  3, 4,                                     // number
                                           1,                                               // truth
                                           2,                                               // colour
                                           7, 8,  9,                                        // few
                                           1, 0,  0, 0, 10, 0, 0, 0,   0,   0, 0,   0,      // many
                                           2, 0,  0, 0, 11, 0, 1, 0,   0,   0, 'a', 12, 0,  // inner
                                           0, 0,  0, 0,                                     //
                                           1, 13, 0, 2, 0,  0, 0, 'b', 'c',                 // perhaps
                                           14}));
}

TEST(Archive, ReadsWhatWasWritten) {
  for (Outer outer : {whole(), Outer{}}) {
    const auto bytes = written(outer);
    Outer read = whole();  // what a list or an optional value held before is gone
    StateReader reader{bytes, 2};
    reader.field("outer", read);
    EXPECT_FALSE(reader.failed());
    EXPECT_EQ(reader.left(), 0U);
    EXPECT_EQ(read, outer);
  }
}

TEST(Archive, WhatCameLaterKeepsItsDefaultInAnOlderSection) {
  auto bytes = written(whole());
  bytes.pop_back();
  Outer read;
  StateReader reader{bytes, 1};
  reader.field("outer", read);
  EXPECT_FALSE(reader.failed());
  EXPECT_EQ(reader.left(), 0U);
  EXPECT_EQ(read.late, 77);
}

/// Where reading stops.
std::string failure_of(std::span<const std::byte> bytes) {
  Outer read;
  StateReader reader{bytes, 2};
  reader.field("outer", read);
  return reader.failed() ? std::string{reader.where()} : "";
}

TEST(Archive, EveryTruncationIsNoticedAndNamed) {
  const auto bytes = written(whole());
  for (std::size_t length = 0; length < bytes.size(); ++length)
    EXPECT_NE(failure_of(std::span{bytes}.first(length)), "") << length;
  EXPECT_EQ(failure_of(std::span{bytes}.first(3)), "number");
  EXPECT_EQ(failure_of(std::span{bytes}.first(8)), "few");
  EXPECT_EQ(failure_of(std::span{bytes}.first(12)), "many");
  EXPECT_EQ(failure_of(std::span{bytes}.first(26)), "inner");
  EXPECT_EQ(failure_of(std::span{bytes}.first(33)), "inner_number");
  EXPECT_EQ(failure_of(std::span{bytes}.first(31)), "inner_text");
  EXPECT_EQ(failure_of(std::span{bytes}.first(bytes.size() - 1)), "late");
}

TEST(Archive, ValuesThatTheirTypeDoesNotHaveAreRefused) {
  const auto with = [](std::size_t at, int value) {
    auto bytes = written(whole());
    bytes.at(at) = static_cast<std::byte>(value);
    return failure_of(bytes);
  };
  EXPECT_EQ(with(4, 2), "truth");
  EXPECT_EQ(with(5, 0), "colour");
  EXPECT_EQ(with(5, 4), "colour");
  EXPECT_EQ(with(5, 3), "");
  EXPECT_EQ(with(38, 2), "perhaps");
}

TEST(Archive, ACountThatLiesCostsNoMemory) {
  const auto with_count = [](std::size_t at, std::uint32_t count) {
    auto bytes = written(whole());
    std::memcpy(&bytes.at(at), &count, sizeof count);
    return failure_of(bytes);
  };
  for (const std::uint32_t count : {100U, 1U << 24, ~0U}) {
    EXPECT_EQ(with_count(9, count), "many");
    EXPECT_NE(with_count(21, count), "");
    EXPECT_EQ(with_count(27, count), "inner_text");
  }
}

TEST(Archive, AfterAFailureNothingIsTouched) {
  const auto bytes = byte_values({1, 2});
  StateReader reader{bytes, 2};
  std::uint32_t wide = 5;
  std::uint8_t narrow = 6;
  reader.field("wide", wide);
  reader.field("narrow", narrow);
  EXPECT_TRUE(reader.failed());
  EXPECT_EQ(reader.where(), "wide");
  EXPECT_EQ(wide, 5U);
  EXPECT_EQ(narrow, 6U);
}

}  // namespace
}  // namespace mayfly
