#include "api/client/top/keys.h"

#include <gtest/gtest.h>

namespace mayfly::top {
namespace {

using Keys = std::vector<Key>;

TEST(KeyReaderTest, KnowsLettersAndSequences) {
  KeyReader reader;
  EXPECT_EQ(reader.take("jkq"), (Keys{Key::Down, Key::Up, Key::Quit}));
  EXPECT_EQ(reader.take("\x1B[A\x1B[B\x1BOA\x1BOB"), (Keys{Key::Up, Key::Down, Key::Up, Key::Down}));
  EXPECT_EQ(reader.take("\x1B[5~\x1B[6~ "), (Keys{Key::PageUp, Key::PageDown, Key::PageDown}));
  EXPECT_EQ(reader.take("\x03"), Keys{Key::Quit}) << "Ctrl-C, which is no signal in raw mode";
  EXPECT_EQ(reader.take("icmbne"),
            (Keys{Key::SortId, Key::SortCpu, Key::SortPrivate, Key::SortBlock, Key::SortNet, Key::SortExits}));
}

TEST(KeyReaderTest, PutsPiecesTogether) {
  KeyReader reader;
  EXPECT_EQ(reader.take("\x1B"), Keys{});
  EXPECT_EQ(reader.take("["), Keys{});
  EXPECT_EQ(reader.take("6"), Keys{});
  EXPECT_EQ(reader.take("~j"), (Keys{Key::PageDown, Key::Down}));
}

TEST(KeyReaderTest, SkipsWhatMeansNothing) {
  KeyReader reader;
  EXPECT_EQ(reader.take("xyz\x1B[Z\x1B[1;5C\x1BOP\x7F\xFF"), Keys{});
  EXPECT_EQ(reader.take("\x1Bq"), Keys{Key::Quit}) << "the Esc key, then q";
  EXPECT_EQ(reader.take("\x1B\x1B[A"), Keys{Key::Up});
  EXPECT_EQ(reader.take("\x1B[" + std::string(100, '1') + "q"), Keys{Key::Quit}) << "nothing grows without end";
}

TEST(ViewAfter, ScrollsWithinTheRows) {
  constexpr ScreenSize kSize{.columns = 80, .lines = 13};  // ten rows
  const auto first_after = [&](Key key, std::size_t first) {
    return view_after(key, {.first = first}, 35, kSize).first;
  };
  EXPECT_EQ(first_after(Key::Up, 0), 0U);
  EXPECT_EQ(first_after(Key::Up, 3), 2U);
  EXPECT_EQ(first_after(Key::Down, 3), 4U);
  EXPECT_EQ(first_after(Key::Down, 25), 25U);
  EXPECT_EQ(first_after(Key::PageDown, 3), 13U);
  EXPECT_EQ(first_after(Key::PageDown, 20), 25U);
  EXPECT_EQ(first_after(Key::PageUp, 13), 3U);
  EXPECT_EQ(first_after(Key::PageUp, 3), 0U);
  EXPECT_EQ(first_after(Key::Last, 0), 25U);
  EXPECT_EQ(first_after(Key::First, 20), 0U);
  EXPECT_EQ(view_after(Key::Down, {}, 5, kSize).first, 0U) << "all are to be seen";
}

TEST(ViewAfter, SortsFromTheTop) {
  const View view = view_after(Key::SortNet, {.sort = SortKey::Cpu, .first = 7, .colours = true}, 100, {});
  EXPECT_EQ(view.sort, SortKey::Net);
  EXPECT_EQ(view.first, 0U);
  EXPECT_TRUE(view.colours);
}

}  // namespace
}  // namespace mayfly::top
