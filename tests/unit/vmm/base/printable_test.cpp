#include "vmm/base/printable.h"

#include <gtest/gtest.h>

namespace mayfly {
namespace {

TEST(Printable, LeavesTextAndReplacesWhatATerminalObeys) {
  EXPECT_EQ(printable("/srv/gr\u00F6\u00DFe \u20AC", 100), "/srv/gr\u00F6\u00DFe \u20AC");
  EXPECT_EQ(printable("\x1B[2Jgone\r\n\x7F", 100), "?[2Jgone???");
  EXPECT_EQ(printable("\xC2\x9B"
                      "2J",
                      100),
            "?2J")
      << "U+009B is ESC [ as well";
  EXPECT_EQ(printable("\x9B"
                      "2J\xFF\xC3",
                      100),
            "?2J??")
      << "and so is its byte, where a terminal knows no UTF-8";
  EXPECT_EQ(printable(std::string_view{"a\0b", 3}, 100), "a?b");
  EXPECT_EQ(printable("", 100), "");
}

TEST(Printable, CutsBetweenCharacters) {
  EXPECT_EQ(printable("abc", 3), "abc");
  EXPECT_EQ(printable("abcd", 3), "abc...");
  EXPECT_EQ(printable("ab\u20AC", 4), "ab...");
}

TEST(Printable, LinesKeepTheirEnds) { EXPECT_EQ(printable_lines("a\tb\nc\x1B\r\n"), "a\tb\nc??\n"); }

}  // namespace
}  // namespace mayfly
