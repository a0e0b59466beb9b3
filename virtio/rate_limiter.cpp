#include "virtio/rate_limiter.h"

#include "vmm/base/clock.h"

#include <algorithm>
#include <limits>

namespace mayfly {
namespace {

void replace(std::optional<TokenBucket>& bucket, const std::optional<TokenBucketConfig>& config, std::uint64_t now_ns) {
  if (!config) return;
  bucket.reset();
  if (TokenBucket made{*config, now_ns}; !made.unlimited()) bucket.emplace(made);
}

}  // namespace

Result<std::unique_ptr<RateLimiter>> RateLimiter::create(EventLoop& loop,
                                                         const std::optional<RateLimiterConfig>& config,
                                                         std::move_only_function<void()> retry) {
  std::unique_ptr<RateLimiter> limiter{new RateLimiter};
  // The timer is there even without a limit: PATCH may bring one while the machine runs, and must not fail.
  auto timer = LoopTimer::create(loop, std::move(retry));
  if (!timer) return propagate(timer);
  limiter->timer_ = std::move(*timer);
  if (config) limiter->set(*config);
  return limiter;
}

bool RateLimiter::lets_through(std::uint64_t bytes, std::uint64_t now_ns) noexcept {
  const std::uint64_t for_bytes = bandwidth_ ? bandwidth_->ns_until(bytes, now_ns) : 0;
  const std::uint64_t for_operation = ops_ ? ops_->ns_until(1, now_ns) : 0;
  const std::uint64_t wait_ns = std::max(for_bytes, for_operation);
  if (wait_ns == 0) return true;
  timer_->listen();
  timer_->arm(now_ns + std::min(wait_ns, std::numeric_limits<std::uint64_t>::max() - now_ns));
  return false;
}

// Neither bucket is taken from before both let it through: what one gave back would not go into its burst again.
std::optional<RateLimiter::Payment> RateLimiter::admit(std::uint64_t bytes) noexcept {
  if (!limited()) return Payment{};
  const std::uint64_t now_ns = monotonic_ns();
  if (!lets_through(bytes, now_ns)) return std::nullopt;
  if (ops_) ops_->spend(1, now_ns);
  if (!bandwidth_) return Payment{};
  return Payment{.bytes = bytes, .from_burst = bandwidth_->spend(bytes, now_ns), .bucket = bucket_};
}

bool RateLimiter::open() noexcept { return !limited() || lets_through(1, monotonic_ns()); }

void RateLimiter::spend(std::uint64_t bytes) noexcept {
  if (!limited()) return;
  const std::uint64_t now_ns = monotonic_ns();
  if (ops_) ops_->spend(1, now_ns);
  if (bandwidth_) bandwidth_->spend(bytes, now_ns);
}

void RateLimiter::give_back(const Payment& payment, std::uint64_t bytes) noexcept {
  if (!bandwidth_ || payment.bucket != bucket_) return;
  const std::uint64_t back = std::min(bytes, payment.bytes);
  const std::uint64_t from_budget = payment.bytes - payment.from_burst;
  bandwidth_->give_back(back, back - std::min(back, from_budget));
  // Waiters computed their time from the full debt.
  timer_->listen();
  timer_->arm(monotonic_ns());
}

void RateLimiter::set(const RateLimiterConfig& config) noexcept {
  const std::uint64_t now_ns = monotonic_ns();
  if (config.bandwidth) ++bucket_;
  replace(bandwidth_, config.bandwidth, now_ns);
  replace(ops_, config.ops, now_ns);
}

void RateLimiter::update(const RateLimiterConfig& config) noexcept {
  set(config);
  timer_->listen();
  timer_->arm(monotonic_ns());
}

RateLimiterState RateLimiter::state() noexcept {
  const std::uint64_t now_ns = monotonic_ns();
  RateLimiterState state;
  if (bandwidth_) state.bandwidth = bandwidth_->state(now_ns);
  if (ops_) state.ops = ops_->state(now_ns);
  return state;
}

void RateLimiter::restore(const RateLimiterState& state) noexcept {
  const std::uint64_t now_ns = monotonic_ns();
  if (bandwidth_ && state.bandwidth) bandwidth_->restore(*state.bandwidth, now_ns);
  if (ops_ && state.ops) ops_->restore(*state.ops, now_ns);
}

}  // namespace mayfly
