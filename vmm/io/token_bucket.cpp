#include "vmm/io/token_bucket.h"

#include "vmm/base/clock.h"

#include <algorithm>
#include <limits>

namespace mayfly {
namespace {

using Wide = unsigned __int128;

/// 146 years: with it, the widest product below (twice 2^64 tokens times this) fits 128 bits.
constexpr std::uint64_t kLongestRefillNs = std::uint64_t{1} << 62;

std::uint64_t saturated(Wide value) noexcept {
  return static_cast<std::uint64_t>(std::min(value, Wide{std::numeric_limits<std::uint64_t>::max()}));
}

}  // namespace

TokenBucket::TokenBucket(const TokenBucketConfig& config, std::uint64_t now_ns) noexcept : refilled_at_ns_(now_ns) {
  if (config.size == 0 || config.refill_time_ms == 0) return;
  size_ = config.size;
  refill_ns_ = std::min(saturated(Wide{config.refill_time_ms} * kNsPerMs), kLongestRefillNs);
  state_.budget = size_;
  state_.burst = config.one_time_burst;
}

bool TokenBucket::take(std::uint64_t tokens, std::uint64_t now_ns) noexcept {
  if (unlimited()) return true;
  refill(now_ns);
  const std::uint64_t from_burst = std::min(tokens, state_.burst);
  const std::uint64_t from_budget = tokens - from_burst;
  if (from_budget > 0 && (state_.debt > 0 || state_.budget < std::min(from_budget, size_))) return false;
  draw(tokens);
  return true;
}

std::uint64_t TokenBucket::spend(std::uint64_t tokens, std::uint64_t now_ns) noexcept {
  if (unlimited()) return 0;
  refill(now_ns);
  return draw(tokens);
}

/// How many came out of the burst.
std::uint64_t TokenBucket::draw(std::uint64_t tokens) noexcept {
  const std::uint64_t from_burst = std::min(tokens, state_.burst);
  const std::uint64_t from_budget = tokens - from_burst;
  const std::uint64_t paid = std::min(from_budget, state_.budget);
  state_.burst -= from_burst;
  state_.budget -= paid;
  state_.debt = saturated(Wide{state_.debt} + (from_budget - paid));
  return from_burst;
}

void TokenBucket::give_back(std::uint64_t tokens, std::uint64_t to_burst) noexcept {
  if (unlimited()) return;
  const std::uint64_t burst = std::min(tokens, to_burst);
  state_.burst = saturated(Wide{state_.burst} + burst);
  credit(tokens - burst);
}

std::uint64_t TokenBucket::ns_until(std::uint64_t tokens, std::uint64_t now_ns) noexcept {
  if (unlimited()) return 0;
  refill(now_ns);
  const std::uint64_t from_budget = tokens - std::min(tokens, state_.burst);
  if (from_budget == 0) return 0;
  const Wide wanted = Wide{std::min(from_budget, size_)} + state_.debt;
  if (wanted <= state_.budget) return 0;
  const Wide missing = (wanted - state_.budget) * refill_ns_ - state_.remainder;
  return saturated((missing + size_ - 1) / size_);
}

TokenBucketState TokenBucket::state(std::uint64_t now_ns) noexcept {
  if (!unlimited()) refill(now_ns);
  return state_;
}

void TokenBucket::restore(const TokenBucketState& state, std::uint64_t now_ns) noexcept {
  state_ = state;
  state_.budget = std::min(state_.budget, size_);
  state_.remainder = state_.budget == size_ ? 0 : state_.remainder % refill_ns_;
  refilled_at_ns_ = now_ns;
}

void TokenBucket::refill(std::uint64_t now_ns) noexcept {
  if (now_ns <= refilled_at_ns_) return;
  const Wide earned = Wide{now_ns - refilled_at_ns_} * size_ + state_.remainder;
  refilled_at_ns_ = now_ns;
  state_.remainder = static_cast<std::uint64_t>(earned % refill_ns_);
  credit(saturated(earned / refill_ns_));
}

void TokenBucket::credit(std::uint64_t tokens) noexcept {
  const std::uint64_t repaid = std::min(tokens, state_.debt);
  state_.debt -= repaid;
  state_.budget += std::min(tokens - repaid, size_ - state_.budget);
  if (state_.budget == size_) state_.remainder = 0;  // a full bucket earns nothing
}

}  // namespace mayfly
