#pragma once

#include "vmm/io/token_bucket_state.h"

#include <optional>

namespace mayfly {

/// What is left in the buckets.
struct RateLimiterState {
  std::optional<TokenBucketState> bandwidth{};
  std::optional<TokenBucketState> ops{};
  friend bool operator==(const RateLimiterState&, const RateLimiterState&) = default;
};

}  // namespace mayfly
