#include "jailer/seccomp/filter_text.h"

#include <algorithm>
#include <map>

#include <gtest/gtest.h>

namespace mayfly::seccomp {
namespace {

std::optional<std::uint64_t> constant(std::string_view name) {
  static const std::map<std::string_view, std::uint64_t> known = {{"READ", 1}, {"WRITE", 2}, {"ENOSYS", 38}};
  const auto found = known.find(name);
  return found == known.end() ? std::nullopt : std::optional{found->second};
}

FilterText parsed(std::string_view text) {
  auto result = parse_filters(text, constant);
  EXPECT_TRUE(result) << result.error().message;
  return result ? std::move(*result) : FilterText{};
}

std::string refusal_of(std::string_view text) {
  const auto result = parse_filters(text, constant);
  return result ? "" : result.error().message;
}

TEST(FilterText, AnEntryHasACallItsConditionsAndItsLine) {
  const FilterText text =
      parsed("# first\n\n[loop]\n  map(_, READ|WRITE, within 0x4|WRITE, own-process)  # why\nfutex");
  ASSERT_EQ(text.threads.size(), 1U);
  EXPECT_EQ(text.threads[0].name, "loop");
  ASSERT_EQ(text.threads[0].entries.size(), 2U);
  const Entry& map = text.threads[0].entries[0];
  EXPECT_EQ(map.line, 4U);
  EXPECT_EQ(map.call, "map");
  EXPECT_EQ(map.conditions, (std::vector<Condition>{{1, Condition::Kind::Equals, 3},
                                                    {2, Condition::Kind::Within, 6},
                                                    {3, Condition::Kind::OwnProcess, 0}}));
  EXPECT_FALSE(map.rare);
  EXPECT_TRUE(text.threads[0].entries[1].conditions.empty());
}

TEST(FilterText, ACallCanBeAnsweredInsteadOfMade) {
  EXPECT_EQ(parsed("[a]\nclone3 -> ENOSYS").threads[0].entries[0].answer, 38);
  EXPECT_EQ(parsed("[a]\nclone3 -> 1 # one").threads[0].entries[0].answer, 1);
  EXPECT_EQ(refusal_of("[a]\nclone3 -> 0"), "line 2: the answer 0 is no error number (1 to 4095)");
  EXPECT_NE(refusal_of("[a]\nclone3 ->"), "");
}

TEST(FilterText, ARareEntrySaysWhy) {
  EXPECT_TRUE(parsed("[a]\nmremap(_, READ) rare: large blocks, in place").threads[0].entries[0].rare);
  EXPECT_EQ(refusal_of("[a]\nmremap rare:"), "line 2: 'rare:' wants a reason why no test makes this call");
  EXPECT_EQ(refusal_of("[a]\nmremap rare: # none"), "line 2: 'rare:' wants a reason why no test makes this call");
}

TEST(FilterText, AFilterHoldsItsOwnEveryonesAndThoseOfWhomItMakes) {
  const FilterText text =
      parsed("[every]\nfutex\n[loop]\nopen\nmap(_, within 3)\n[vcpu] made by loop\nrun\nmap(_, READ)");
  const auto calls = [&](std::size_t thread) {
    std::vector<std::string> names;
    for (const Entry& entry : entries_of(text, text.threads[thread])) names.push_back(entry.call);
    std::ranges::sort(names);
    return names;
  };
  // The narrower map of the vCPU is within the loop's.
  EXPECT_EQ(calls(0), (std::vector<std::string>{"futex", "map", "open", "run"}));
  EXPECT_EQ(calls(1), (std::vector<std::string>{"futex", "map", "run"}));
}

TEST(FilterText, KnowsWhatASecondFilterWithdraws) {
  const auto withdrawn = [](std::string_view text) -> std::optional<std::vector<std::string>> {
    const FilterText both = parsed(text);
    const auto entries = withdrawn_by(both, both.threads.back());
    if (!entries) return std::nullopt;
    std::vector<std::string> lines;
    for (const Entry& entry : *entries) lines.push_back(entry.call + " " + std::to_string(entry.line));
    return lines;
  };
  EXPECT_EQ(withdrawn("[loop]\nset-up"), std::nullopt);
  EXPECT_EQ(withdrawn("[every]\nfutex\n[loop]\nset-up\nmap(_, 3)\n[running] on loop\nread\nmap(_, 1)"),
            (std::vector<std::string>{"set-up 4", "map 5"}));
  EXPECT_EQ(withdrawn("[loop]\nmap(_, 4)\n[running] on loop\nmap(_, within 3)"), std::vector<std::string>{"map 2"});
  // Of a call that is withdrawn whole, one line is enough.
  EXPECT_EQ(withdrawn("[loop]\nmap(1)\nmap(2)\n[running] on loop\nread"), std::vector<std::string>{"map 2"});
  // Refusing the line of [loop] would refuse what [running] lets through, too.
  EXPECT_EQ(withdrawn("[loop]\nmap\n[running] on loop\nmap(_, 1)"), std::nullopt);
  EXPECT_EQ(withdrawn("[loop]\nmap(_, within 3)\n[running] on loop\nmap(_, 1)"), std::nullopt);
  EXPECT_EQ(withdrawn("[loop]\nmap(1)\n[running] on loop\nmap(_, 1)"), std::nullopt);
}

TEST(FilterText, WhatASecondFilterLetsThroughTheFirstDoes) {
  const FilterText text = parsed("[loop]\nset-up\nmap(_, 3)\n[running] on loop\nread\nmap(_, 1)");
  const auto calls = [&](std::size_t thread) {
    std::vector<std::string> names;
    for (const Entry& entry : entries_of(text, text.threads[thread])) names.push_back(entry.call);
    std::ranges::sort(names);
    return names;
  };
  EXPECT_EQ(calls(0), (std::vector<std::string>{"map", "map", "read", "set-up"}));
  EXPECT_EQ(calls(1), (std::vector<std::string>{"map", "read"}));
  EXPECT_EQ(text.threads[1].under, "loop");
}

TEST(FilterText, AnotherSecondFilterHasTheLinesOfTheOneThatItIsAs) {
  const FilterText text =
      parsed("[every]\nfutex\n[loop]\nset-up\n[running] on loop\nread\n[revertible] on loop as running\nset-registers");
  const auto calls = [&](std::size_t thread) {
    std::vector<std::string> names;
    for (const Entry& entry : entries_of(text, text.threads[thread])) names.push_back(entry.call);
    std::ranges::sort(names);
    return names;
  };
  EXPECT_EQ(calls(0), (std::vector<std::string>{"futex", "read", "set-registers", "set-up"}));
  EXPECT_EQ(calls(1), (std::vector<std::string>{"futex", "read"}));
  EXPECT_EQ(calls(2), (std::vector<std::string>{"futex", "read", "set-registers"}));
  const auto withdrawn = withdrawn_by(text, text.threads[2]);
  ASSERT_TRUE(withdrawn);
  ASSERT_EQ(withdrawn->size(), 1U);
  EXPECT_EQ(withdrawn->front().call, "set-up");
}

TEST(FilterText, ASecondFilterMayBeAsSeveralAndAsWhatTheyAreAs) {
  const FilterText text = parsed(
      "[loop]\nset-up\n[running] on loop\nread\n[revertible] on loop as running\nset-registers\n"
      "[live] on loop as running\nfork\n[both] on loop as live revertible");
  std::vector<std::string> names;
  for (const Entry& entry : entries_of(text, text.threads[4])) names.push_back(entry.call);
  std::ranges::sort(names);
  EXPECT_EQ(names, (std::vector<std::string>{"fork", "read", "set-registers"}));
}

TEST(FilterText, AFilterIsAsOneAboveItOnTheSameThread) {
  EXPECT_EQ(refusal_of("[a]\nx\n[b] on a as"), "line 3: 'as' wants the names of filters");
  EXPECT_EQ(refusal_of("[a]\nx\n[b] on a as (d"), "line 3: 'as' wants the names of filters");
  EXPECT_EQ(refusal_of("[a]\nx\n[b] on a like c"), "line 3: after '[b] on a' only 'as FILTER' can follow");
  EXPECT_EQ(refusal_of("[a]\nx\n[b] on a as c\ny"), "[b] is as c, which is no filter on a above it");
  EXPECT_EQ(refusal_of("[a]\nx\n[b] on a as a\ny"), "[b] is as a, which is no filter on a above it");
  EXPECT_EQ(refusal_of("[a]\nx\n[b] on a\ny\n[c] on a as b\ny"),
            "line 6: line 4 of [b] lets this y through already; remove one of them");
}

TEST(FilterText, AFilterOfItsOwnMayBeAsOthersAboveItAndReachOtherProcesses) {
  const FilterText text =
      parsed("[every]\nkill(own-process)\n[loop]\nread\n[vcpu] made by loop\nrun\n[brancher] as loop vcpu\nkill\nfork");
  EXPECT_EQ(text.threads[2].under, "");
  std::vector<std::string> names;
  for (const Entry& entry : entries_of(text, text.threads[2])) {
    names.push_back(entry.call);
    EXPECT_TRUE(entry.conditions.empty()) << entry.call;
  }
  std::ranges::sort(names);
  EXPECT_EQ(names, (std::vector<std::string>{"fork", "kill", "read", "run"}));
  EXPECT_EQ(entries_of(text, text.threads[0]).size(), 3U) << "[loop] has nothing of it";
  EXPECT_EQ(refusal_of("[a]\nx\n[b] as"), "line 3: 'as' wants the names of filters");
  EXPECT_EQ(refusal_of("[a]\nx\n[b] as (d"), "line 3: 'as' wants the names of filters");
  EXPECT_EQ(refusal_of("[a]\nx\n[b] as c\ny"), "[b] is as c, which is no filter above it");
  EXPECT_EQ(refusal_of("[a]\nx\n[b] as a\nx"), "line 4: line 2 of [a] lets this x through already; remove one of them");
  EXPECT_EQ(refusal_of("[every]\nkill(1)\n[a]\nkill"), "line 4: this kill makes line 2 needless; remove one of them");
}

TEST(FilterText, AMakersNarrowEntryGivesWayToAWiderOneOfWhomItMakes) {
  const FilterText text = parsed("[loop]\nmap(_, READ)\n[vcpu] made by loop\nmap");
  const auto entries = entries_of(text, text.threads[0]);
  ASSERT_EQ(entries.size(), 1U);
  EXPECT_TRUE(entries[0].conditions.empty());
}

TEST(FilterText, ErrorsSayLineWordAndRemedy) {
  EXPECT_EQ(refusal_of("[a]\nmap(_, EXECUTE)"),
            "line 2: the constant 'EXECUTE' is not known; write its number, or add it to jailer/seccomp/constants.cpp");
  EXPECT_EQ(refusal_of("[a]\nmap(_, READ"), "line 2: ')' or ',' is missing before ''");
  EXPECT_EQ(refusal_of("[a]\nmap(_, )"), "line 2: a constant or a number is missing before ')'");
  EXPECT_EQ(refusal_of("[a]\nmap(_, 0x1g)"), "line 2: '0x1g' is no number of 64 bits; write it as 12 or 0xc");
  EXPECT_EQ(refusal_of("[a]\nmap(99999999999999999999)"),
            "line 2: '99999999999999999999' is no number of 64 bits; write it as 12 or 0xc");
  EXPECT_EQ(refusal_of("[a]\nmap(_,_,_,_,_,_,1)"), "line 2: a system call has at most 6 arguments");
  EXPECT_EQ(refusal_of("[a]\nread write"), "line 2: 'write' is too much; a comment begins with '#'");
  EXPECT_EQ(refusal_of("[a]\n*"), "line 2: '*' is no system call's name");
  EXPECT_EQ(refusal_of("read"), "line 1: a section such as [every] or [loop] must come first");
  EXPECT_EQ(refusal_of("[a\n"), "line 1: a section begins as in '[vcpu]'");
  EXPECT_EQ(refusal_of("[a] born of b"),
            "line 1: after '[a]' only 'made by THREAD', 'on THREAD' or 'as FILTER' can follow");
  EXPECT_EQ(refusal_of("[a] made of b"),
            "line 1: after '[a]' only 'made by THREAD', 'on THREAD' or 'as FILTER' can follow");
  EXPECT_EQ(refusal_of("[a] on"), "line 1: 'on' wants one thread's name");
  EXPECT_EQ(refusal_of("[a] on b c"), "line 1: after '[a] on b' only 'as FILTER' can follow");
  EXPECT_EQ(refusal_of("[a] made by"), "line 1: 'made by' wants one thread's name");
  EXPECT_EQ(refusal_of("[a]\n[a]"), "line 2: [a] has a section already; put the lines there");
  EXPECT_EQ(refusal_of("[a]\n[every]"), "line 2: [every] comes first, once, and on top of nothing");
  EXPECT_EQ(refusal_of("[a] made by b"), "[a] comes on top of b, which has no section; add [b]");
  EXPECT_EQ(refusal_of("[a] made by b\n[b] made by a"),
            "[a] comes on top of b, which is on top of another itself; only one step is understood");
  EXPECT_EQ(refusal_of(""), "there is no section of a thread, such as [loop]");
  EXPECT_EQ(refusal_of("[a]\n\x1b[2J"), "line 2: '?[2J' is no system call's name");
}

TEST(FilterText, ALineThatChangesNothingIsRefused) {
  EXPECT_EQ(refusal_of("[a]\nread\nread"), "line 3: line 2 lets this read through already; remove one of them");
  EXPECT_EQ(refusal_of("[a]\nread\nread(1)"), "line 3: line 2 lets this read through already; remove one of them");
  EXPECT_EQ(refusal_of("[a]\nread(1)\nread"), "line 3: this read makes line 2 needless; remove one of them");
  EXPECT_EQ(refusal_of("[every]\nread\n[a]\nread(1)"),
            "line 4: line 2 lets this read through already; remove one of them");
  EXPECT_EQ(refusal_of("[a]\nread(1)\nread -> 1"), "line 3: read has another outcome in line 2; a call has one");
  EXPECT_EQ(refusal_of("[a]\nread(1)\nread(2)\nread(_, 1)"), "");
}

TEST(FilterText, ATextOfAnyLengthIsBounded) {
  EXPECT_NE(refusal_of(std::string(1 << 17, '#')).find("bytes; 65536 are allowed"), std::string::npos);
}

}  // namespace
}  // namespace mayfly::seccomp
