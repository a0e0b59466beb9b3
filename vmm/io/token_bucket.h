#pragma once

#include "vmm/config/configuration.h"
#include "vmm/io/token_bucket_state.h"

#include <cstdint>

namespace mayfly {

/// Limits a rate: tokens are taken for what is done, and come back evenly over time.
///
///   TokenBucket bytes{{.size = 1 << 20, .refill_time_ms = 1000}, now_ns};   // 1 MiB a second
///   if (bytes.take(request.length, now_ns)) submit(request);
///   else retry_at(now_ns + bytes.ns_until(request.length, now_ns));
///
/// The dialect is Firecracker's: the bucket starts full with `size` tokens, an empty one is full again after
/// `refill_time_ms`, and `one_time_burst` is spent before anything else and never refilled. Size or refill time 0: no
/// limit. A request larger than bucket and burst together would wait for ever: it is let through when the bucket is
/// full, takes what is there and leaves a debt, which refilling pays first; so the average rate still holds.
///
/// A take is all or nothing. Time is the caller's, in nanoseconds of a monotonic clock; earlier times than the last are
/// taken for the last. Arithmetic is exact: fractions of tokens are carried, nothing drifts or overflows. Not locked:
/// one thread, or the owner's lock.
class TokenBucket {
 public:
  TokenBucket(const TokenBucketConfig& config, std::uint64_t now_ns) noexcept;

  /// Takes `tokens`, or takes nothing and says false.
  [[nodiscard]] bool take(std::uint64_t tokens, std::uint64_t now_ns) noexcept;
  /// Takes `tokens` for something that is done already, or that ns_until() lets through; a shortage becomes a debt. How
  /// many of them came out of the burst.
  std::uint64_t spend(std::uint64_t tokens, std::uint64_t now_ns) noexcept;
  /// Gives back what was taken for something that then was not done, `to_burst` of it to the burst, out of which it came.
  /// A full bucket stays full.
  void give_back(std::uint64_t tokens, std::uint64_t to_burst = 0) noexcept;
  /// How long until take(tokens) succeeds if nothing else is taken; 0: now.
  [[nodiscard]] std::uint64_t ns_until(std::uint64_t tokens, std::uint64_t now_ns) noexcept;
  [[nodiscard]] bool unlimited() const noexcept { return size_ == 0; }

  [[nodiscard]] TokenBucketState state(std::uint64_t now_ns) noexcept;
  void restore(const TokenBucketState& state, std::uint64_t now_ns) noexcept;

 private:
  void refill(std::uint64_t now_ns) noexcept;
  void credit(std::uint64_t tokens) noexcept;
  std::uint64_t draw(std::uint64_t tokens) noexcept;

  std::uint64_t size_ = 0;       // 0: no limit
  std::uint64_t refill_ns_ = 1;  // time in which `size_` tokens come back
  TokenBucketState state_;
  std::uint64_t refilled_at_ns_ = 0;
};

}  // namespace mayfly
