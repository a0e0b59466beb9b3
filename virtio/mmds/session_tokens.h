#pragma once

#include "virtio/mmds/siphash.h"

#include <cstdint>
#include <string>
#include <string_view>

/// Tokens of sessions (MMDS V2): a guest that got one by PUT may read for as long as it asked for.
///
///   SessionTokens tokens{key, now_ns};                       // the key: 16 bytes of getrandom()
///   const std::string token = tokens.issue(21'600, now_ns);
///   if (!tokens.valid(token, now_ns)) return unauthorized();
///
/// A token is its end and a tag of that, which only this process can make. So none is stored: a guest can ask for as
/// many as it likes, and none replaces another. A clone has another key, and knows no token of the machine it was made
/// from. Tokens are never logged. Any thread.
namespace mayfly {

class SessionTokens {
 public:
  static constexpr std::uint64_t kShortestSeconds = 1;
  static constexpr std::uint64_t kLongestSeconds = 21'600;

  /// `now_ns`: a clock that does not go back, here and below; the guest sees only what has passed since.
  SessionTokens(const SipKey& key, std::uint64_t now_ns) noexcept : key_(key), start_ns_(now_ns) {}

  /// `seconds` from kShortestSeconds to kLongestSeconds.
  [[nodiscard]] std::string issue(std::uint64_t seconds, std::uint64_t now_ns) const;
  /// Whether `token` was issued here and has not ended. Takes as long wherever a wrong one begins to be wrong.
  [[nodiscard]] bool valid(std::string_view token, std::uint64_t now_ns) const;

 private:
  /// The only token that ends then.
  [[nodiscard]] std::string token(std::uint64_t end_ns) const;

  SipKey key_;
  std::uint64_t start_ns_;
};

}  // namespace mayfly
