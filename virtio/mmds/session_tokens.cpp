#include "virtio/mmds/session_tokens.h"

#include "vmm/base/error.h"

#include <charconv>
#include <cstddef>

#include <fmt/format.h>

namespace mayfly {
namespace {

constexpr std::size_t kEndDigits = 16;

bool equal_in_constant_time(std::string_view left, std::string_view right) noexcept {
  if (left.size() != right.size()) return false;
  unsigned difference = 0;
  for (std::size_t i = 0; i < left.size(); ++i)
    difference |= static_cast<unsigned char>(left[i]) ^ static_cast<unsigned char>(right[i]);
  return difference == 0;
}

}  // namespace

std::string SessionTokens::token(std::uint64_t end_ns) const {
  const SipTag tag = siphash(key_, end_ns);
  return fmt::format("{:0{}x}{:02x}", end_ns, kEndDigits, fmt::join(tag, ""));
}

std::string SessionTokens::issue(std::uint64_t seconds, std::uint64_t now_ns) const {
  ensure(seconds >= kShortestSeconds && seconds <= kLongestSeconds, "a token's time was checked");
  return token(now_ns - start_ns_ + seconds * 1'000'000'000);
}

bool SessionTokens::valid(std::string_view given, std::uint64_t now_ns) const {
  const std::string_view end = given.substr(0, kEndDigits);
  std::uint64_t end_ns = 0;
  const auto [after, error] = std::from_chars(end.data(), end.data() + end.size(), end_ns, 16);
  if (error != std::errc{}) return false;
  return equal_in_constant_time(given, token(end_ns)) && now_ns - start_ns_ < end_ns;
}

}  // namespace mayfly
