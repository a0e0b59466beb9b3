#pragma once

#include <cstdint>

namespace mayfly {

/// What a bucket holds, without any host time: what had been earned by the moment of the call is in it.
struct TokenBucketState {
  std::uint64_t budget = 0;     ///< Tokens that can be taken; at most the bucket's size.
  std::uint64_t debt = 0;       ///< Tokens owed by a request that was larger than the bucket.
  std::uint64_t burst = 0;      ///< What is left of the one-time burst.
  std::uint64_t remainder = 0;  ///< The earned fraction of the next token, in parts of the refill time's nanoseconds.
  friend bool operator==(const TokenBucketState&, const TokenBucketState&) = default;
};

}  // namespace mayfly
