#include "virtio/mmds/session_tokens.h"

#include <gtest/gtest.h>

namespace mayfly {
namespace {

constexpr std::uint64_t kSecondNs = 1'000'000'000;
constexpr std::uint64_t kStart = 77 * kSecondNs;
constexpr SipKey kKey = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16};

TEST(SessionTokens, AreValidUntilTheyEnd) {
  const SessionTokens tokens{kKey, kStart};
  const std::string token = tokens.issue(60, kStart + kSecondNs);
  EXPECT_TRUE(tokens.valid(token, kStart + kSecondNs));
  EXPECT_TRUE(tokens.valid(token, kStart + 61 * kSecondNs - 1));
  EXPECT_FALSE(tokens.valid(token, kStart + 61 * kSecondNs));
  EXPECT_FALSE(tokens.valid(token, kStart + 1000 * kSecondNs));
  const std::string longest = tokens.issue(SessionTokens::kLongestSeconds, kStart);
  EXPECT_TRUE(tokens.valid(longest, kStart + 21'599 * kSecondNs));
  EXPECT_FALSE(tokens.valid(longest, kStart + 21'600 * kSecondNs));
}

TEST(SessionTokens, NoneThatWasChangedIsValid) {
  const SessionTokens tokens{kKey, kStart};
  const std::string token = tokens.issue(60, kStart);
  for (std::size_t i = 0; i < token.size(); ++i) {
    for (const char c : std::string_view{"0f- \0A\xFF", 7}) {
      std::string changed = token;
      changed[i] = c;
      EXPECT_EQ(tokens.valid(changed, kStart), changed == token) << i;
    }
    EXPECT_FALSE(tokens.valid(std::string_view{token}.substr(0, i), kStart)) << i;
    EXPECT_FALSE(tokens.valid(std::string_view{token}.substr(i + 1), kStart)) << i;
  }
  EXPECT_FALSE(tokens.valid(token + "0", kStart));
  EXPECT_FALSE(tokens.valid(" " + token, kStart));
  EXPECT_FALSE(tokens.valid("", kStart));
}

TEST(SessionTokens, AreNoUseUnderAnotherKey) {
  SipKey other = kKey;
  other[15] ^= 1;
  const std::string token = SessionTokens{kKey, kStart}.issue(60, kStart);
  EXPECT_FALSE((SessionTokens{other, kStart}.valid(token, kStart)));
}

TEST(SessionTokens, SayNothingOfTheHostsClock) {
  EXPECT_EQ((SessionTokens{kKey, kStart}.issue(60, kStart + 5)), (SessionTokens{kKey, 0}.issue(60, 5)));
}

}  // namespace
}  // namespace mayfly
