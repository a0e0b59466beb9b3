#include "virtio/net/net_context.h"

#include <utility>

namespace mayfly {

NetContext::NetContext(EventLoop& loop_in, NetMetrics& metrics_in, Log& log_in, std::string name_in, Tap tap_in,
                       std::unique_ptr<FrameResponder> responder_in)
    : loop(loop_in),
      metrics(metrics_in),
      log(log_in),
      name(std::move(name_in)),
      tap(std::move(tap_in)),
      responder(std::move(responder_in)) {}

void NetContext::end_drain() noexcept {
  if (is_draining() && in_flight == 0) host->drained();
}

void NetContext::set_link(bool up) noexcept {
  if (up == link_up) return;
  link_up = up;
  if (!up) metrics.tap_gone_count.add();
  if (log_rate.allow()) log.warning("{}: the TAP {} is {}", name, tap.name(), up ? "back" : "gone");
  if (has_feature(net_abi::kStatus)) host->config_changed();
}

Result<std::unique_ptr<RateLimiter>> NetContext::make_limiter(const std::optional<RateLimiterConfig>& limit,
                                                              std::move_only_function<void()> retry) {
  return RateLimiter::create(loop, limit, [this, retry = std::move(retry)]() mutable {
    const MutexLock held{lock()};
    retry();
  });
}

}  // namespace mayfly
