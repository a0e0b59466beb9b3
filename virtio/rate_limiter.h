#pragma once

#include "virtio/rate_limiter_state.h"
#include "vmm/config/configuration.h"
#include "vmm/io/event_loop.h"
#include "vmm/io/loop_timer.h"
#include "vmm/io/token_bucket.h"

#include <functional>
#include <memory>
#include <optional>

/// Limits bytes and operations of one direction of a device.
///
///   auto limiter = RateLimiter::create(loop, config, [this] { serve(); });
///   if (!limiter->admit(bytes)) return;      // serve() is called when it is worth trying again
///
/// Idle, it costs nothing: its timer is armed only while a device waits.
namespace mayfly {

/// For the loop's thread, under the owner's lock; `retry` is called on that thread without it.
class RateLimiter {
 public:
  /// What admit() took of bytes.
  struct Payment {
    std::uint64_t bytes = 0;
    std::uint64_t from_burst = 0;  ///< Of `bytes`.
    std::uint64_t bucket = 0;      ///< Each that an update brings has another number.
  };

  [[nodiscard]] static Result<std::unique_ptr<RateLimiter>> create(EventLoop& loop,
                                                                   const std::optional<RateLimiterConfig>& config,
                                                                   std::move_only_function<void()> retry);

  /// Whether there is any limit at present.
  [[nodiscard]] bool limited() const noexcept { return bandwidth_.has_value() || ops_.has_value(); }
  /// What one operation of `bytes` has paid, which may go now. nullopt: not yet; nothing is taken, and `retry` is called
  /// once it may.
  [[nodiscard]] std::optional<Payment> admit(std::uint64_t bytes) noexcept;
  /// For operations whose length is known only afterwards: whether another may begin (`retry` follows if not), and
  /// what it then took.
  [[nodiscard]] bool open() noexcept;
  void spend(std::uint64_t bytes) noexcept;
  /// Gives back the last `bytes` of what admit() took, for what then was not done: the burst paid for the first ones. A
  /// bucket that was replaced meanwhile takes nothing back.
  void give_back(const Payment& payment, std::uint64_t bytes) noexcept;

  /// PATCH: a bucket that is present replaces its predecessor, full; one of size 0 removes the limit; an absent one
  /// changes nothing. Waiters try again.
  void update(const RateLimiterConfig& config) noexcept;

  [[nodiscard]] RateLimiterState state() noexcept;
  /// Takes over what was left, as far as the limits are still there.
  void restore(const RateLimiterState& state) noexcept;

 private:
  RateLimiter() = default;
  void set(const RateLimiterConfig& config) noexcept;
  /// Whether both buckets have what an operation of `bytes` takes; if not, `retry` follows when they do.
  [[nodiscard]] bool lets_through(std::uint64_t bytes, std::uint64_t now_ns) noexcept;

  std::optional<TokenBucket> bandwidth_;
  std::uint64_t bucket_ = 0;  // which bandwidth_ is
  std::optional<TokenBucket> ops_;
  std::unique_ptr<LoopTimer> timer_;
};

}  // namespace mayfly
