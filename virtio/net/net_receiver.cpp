#include "virtio/net/net_receiver.h"

#include "virtio/vector_bytes.h"
#include "vmm/base/clock.h"

#include <poll.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <utility>

namespace mayfly {
namespace {

/// Between tries to read from a TAP that fails: not a busy loop, and soon enough for one that comes back.
constexpr std::uint64_t kFirstRetryNs = 100'000'000;
constexpr std::uint64_t kLongestRetryNs = 6'400'000'000;
/// A driver that offers too little for a frame for so long has not got more.
constexpr std::uint64_t kParkNs = 100'000'000;

}  // namespace

NetReceiver::NetReceiver(NetPort& port) : port_(port), retry_ns_(kFirstRetryNs) {
  for (Read& read : reads_) read.owner = this;
  wait_.owner = this;
}

Status NetReceiver::prepare(const std::optional<RateLimiterConfig>& limit) {
  auto limiter = RateLimiter::create(port_.loop, limit, [this] {
    const auto lock = port_.lock();
    throttled_ = false;
    post_reads();
  });
  if (!limiter) return propagate(limiter);
  limiter_ = std::move(*limiter);
  auto timer = LoopTimer::create(port_.loop, [this] {
    const auto lock = port_.lock();
    on_timer();
  });
  if (!timer) return propagate(timer);
  retry_timer_ = std::move(*timer);
  return port_.responder ? prepare_responses() : Status{};
}

void NetReceiver::reset() noexcept {
  buffers_.abandon();
  queue_ = nullptr;
  wanted_ = 1;
  parked_length_ = 0;
  cancelling_ = dry_ = failed_ = false;
  forget_response();
}

void NetReceiver::undrain() noexcept {
  if (queue_ == nullptr || queue_->ready()) return;
  buffers_.abandon();
  parked_length_ = 0;
}

void NetReceiver::on_timer() noexcept {
  backing_off_ = false;
  if (parked_length_ > 0) port_.metrics.rx_fails.add();
  parked_length_ = 0;
  post_reads();
}

// --- Posting ---------------------------------------------------------------------------------------------------------

void NetReceiver::post_reads() noexcept {
  if (!port_.running || queue_ == nullptr || !queue_->ready() || in_flight_ > 0) return;
  if (parked_length_ > 0 && !unpark()) return;
  if (port_.responder && !give_responses()) return;
  if (throttled_ || backing_off_) return;
  if (!limiter_->open()) {
    throttled_ = true;
    port_.metrics.rx_rate_limiter_throttled.add();
    return;
  }
  // Each operation of a limited interface is asked for by itself.
  const std::size_t wanted = limiter_->limited() ? 1 : wanted_;
  const auto windows = arrange(wanted, 1);
  if (!windows) return port_.broken(windows.error().what);
  if (windows->empty()) return port_.metrics.rx_no_buffer_count.add();
  post(*windows);
}

/// While reads are posted, a kick for each buffer that the driver returns would be in vain: only where the first window
/// has less than `least` bytes the driver is asked for one.
std::expected<std::span<const ReceiveWindow>, QueueFault> NetReceiver::arrange(std::size_t wanted,
                                                                               std::uint64_t least) noexcept {
  const bool mergeable = port_.has_feature(net_abi::kMergeable);
  queue_->set_notifications_off(true);
  const auto windows = buffers_.arrange(*queue_, wanted, mergeable);
  if (!windows || (!windows->empty() && windows->front().capacity >= least)) return windows;
  queue_->set_notifications_off(false);
  return buffers_.arrange(*queue_, wanted, mergeable);  // with what came before the driver saw that
}

void NetReceiver::post(std::span<const ReceiveWindow> windows) noexcept {
  posted_ = windows.size();
  hits_ = 0;
  // A host without RWF_NOWAIT has a non-blocking descriptor instead, where a read fails at once or the ring waits for
  // it, as the kernel has it.
  const bool nowait = port_.tap.has_nowait();
  for (std::size_t i = 0; i < windows.size(); ++i) {
    Read& read = reads_[i];
    read.window = windows[i];
    ++in_flight_;
    if (nowait && i + 1 < windows.size())
      port_.loop.readv_now(port_.file, read.window.vectors, 0, read);
    else
      port_.loop.readv(port_.file, read.window.vectors, 0, read);
  }
}

void NetReceiver::cancel() noexcept {
  if (in_flight_ == 0 || std::exchange(cancelling_, true)) return;
  // All of a volley may wait: before Linux 6.4 the ring waits on a non-blocking TAP as well.
  for (Read& read : std::span{reads_}.first(posted_)) port_.loop.cancel(read);
  if (posted_ == 0) port_.loop.cancel(wait_);
}

// --- Completions -----------------------------------------------------------------------------------------------------

void NetReceiver::Read::on_complete(int result, bool /*more*/) noexcept {
  const auto lock = owner->port_.lock();
  owner->on_read(*this, result);
}

void NetReceiver::Wait::on_complete(int /*result*/, bool /*more*/) noexcept {
  const auto lock = owner->port_.lock();
  --owner->in_flight_;
  owner->end_volley();
}

void NetReceiver::on_read(Read& read, int result) noexcept {
  --in_flight_;
  if (result >= static_cast<int>(sizeof(NetHeader)))
    deliver(read.window, static_cast<std::uint64_t>(result));
  else if (result == -EAGAIN)
    dry_ = dry_ || &read == &reads_[posted_ - 1];
  else if (result != -ECANCELED && result != -EINTR)
    on_failure(result);
  if (in_flight_ == 0) end_volley();
}

/// The volley is over: the next one, a pause, or rest.
void NetReceiver::end_volley() noexcept {
  if (posted_ > 0) wanted_ = hits_ == posted_ ? std::min(2 * posted_, reads_.size()) : std::max<std::size_t>(hits_, 1);
  posted_ = 0;
  cancelling_ = false;
  const bool dry = std::exchange(dry_, false);
  if (std::exchange(failed_, false) && !backing_off_) {
    backing_off_ = true;
    retry_timer_->listen();
    retry_timer_->arm(monotonic_ns() + retry_ns_);
    retry_ns_ = std::min(2 * retry_ns_, kLongestRetryNs);
  }
  if (port_.draining) return port_.direction_drained();
  if (!dry || !port_.running || has_response()) return post_reads();
  ++in_flight_;
  port_.loop.poll_once(port_.tap.fd(), POLLIN, wait_);
}

void NetReceiver::deliver(const ReceiveWindow& window, std::uint64_t length) noexcept {
  ++hits_;
  retry_ns_ = kFirstRetryNs;
  port_.set_link(true);
  // Into our own byte: the rest of the frame is lost, and half a frame is none. A frame for another driver is none
  // for this one. Either way the buffers stay for the next.
  if (window.narrow && length > window.capacity) return park(window, length);
  const std::size_t chains = buffers_.chains_for(window, length);
  if (length > window.capacity || !prepare_header(window, chains)) return port_.metrics.rx_fails.add();
  buffers_.use(window, *queue_, length);
  port_.used(kNetReceiveQueue);
  const std::uint64_t frame = length - sizeof(NetHeader);
  limiter_->spend(frame);
  port_.metrics.rx_packets_count.add();
  port_.metrics.rx_bytes_count.add(frame);
}

/// A narrow window is its volley's only one, so the spill is this frame's alone.
void NetReceiver::park(const ReceiveWindow& window, std::uint64_t length) noexcept {
  parked_length_ = length;
  parked_at_ = window.capacity;
  retry_timer_->listen();
  retry_timer_->arm(monotonic_ns() + kParkNs);
}

/// Delivers the parked frame if there are buffers for all of it. Those that hold its beginning are still the first.
bool NetReceiver::unpark() noexcept {
  const std::uint64_t length = parked_length_;
  const auto windows = arrange(1, length);
  if (!windows) {
    port_.broken(windows.error().what);
    return false;
  }
  if (windows->empty() || windows->front().capacity < length) {
    port_.metrics.rx_no_buffer_count.add();
    return false;
  }
  copy_to(windows->front().buffers(), parked_at_, buffers_.spill().first(length - parked_at_));
  parked_length_ = 0;
  retry_timer_->cancel();
  deliver(windows->front(), length);
  return true;
}

/// Completes the header that the TAP wrote (5.1.6.4.1). False: the driver would not understand the frame.
bool NetReceiver::prepare_header(const ReceiveWindow& window, std::size_t chains) noexcept {
  NetHeader header{};
  copy_from(window.buffers(), std::as_writable_bytes(std::span{&header, 1}));
  if (!driver_understands(header.flags, header.gso_type, port_.features)) return false;
  // Without GUEST_CSUM flags are 0, where a TAP may say that it has checked the sum.
  if (!port_.has_feature(net_abi::kGuestCsum)) header.flags = 0;
  header.num_buffers = static_cast<std::uint16_t>(chains);  // the TAP leaves it as it was
  copy_to(window.buffers(), 0, std::as_bytes(std::span{&header, 1}));
  return true;
}

// --- The responder ---------------------------------------------------------------------------------------------------

Status NetReceiver::prepare_responses() {
  auto timer = LoopTimer::create(port_.loop, [this] {
    const auto lock = port_.lock();
    on_response_timer();
  });
  if (!timer) return propagate(timer);
  response_timer_ = std::move(*timer);
  return {};
}

void NetReceiver::respond() noexcept {
  if (!port_.running) return;
  if (!has_response()) return wait_to_respond();
  if (in_flight_ > 0) return cancel();  // the volley's end goes on
  post_reads();
}

/// False where the driver has no more buffers, or has broken the protocol.
bool NetReceiver::give_responses() noexcept {
  // Nothing that is used here is the driver's again before the round's end, so an honest one has no more than this.
  const unsigned most = queue_->maximum_size();
  bool goes_on = true;
  for (unsigned given = 0; goes_on && given < most && has_response(); ++given) goes_on = give_response();
  wait_to_respond();
  return goes_on;
}

bool NetReceiver::give_response() noexcept {
  const auto windows = arrange(1, sizeof(NetHeader) + FrameResponder::kLongestTransmitted);
  if (!windows) {
    port_.broken(windows.error().what);
    return false;
  }
  if (windows->empty()) {
    port_.metrics.rx_no_buffer_count.add();
    return false;
  }
  const ReceiveWindow& window = windows->front();
  if (!response_until_) response_length_ = port_.responder->transmit(response_);
  const std::uint64_t length = sizeof(NetHeader) + response_length_;
  if (length > window.capacity && window.narrow) {
    if (!response_until_) response_until_ = monotonic_ns() + kParkNs;
    port_.metrics.rx_no_buffer_count.add();
    return false;
  }
  response_until_.reset();
  if (length > window.capacity) {  // lost, as on any network: no buffer of this driver is long enough
    port_.metrics.rx_fails.add();
    return true;
  }
  const NetHeader header{.num_buffers = static_cast<std::uint16_t>(buffers_.chains_for(window, length))};
  copy_to(window.buffers(), 0, std::as_bytes(std::span{&header, 1}));
  copy_to(window.buffers(), sizeof header, std::as_bytes(std::span{response_}.first(response_length_)));
  buffers_.use(window, *queue_, length);
  port_.used(kNetReceiveQueue);
  return true;
}

void NetReceiver::forget_response() noexcept {
  response_until_.reset();
  response_length_ = 0;
}

/// A timer that fires too early is harmless, and cheaper than setting it anew whenever the deadline moves.
void NetReceiver::wait_to_respond() noexcept {
  auto deadline = port_.responder->deadline();
  if (response_until_) deadline = std::min(deadline.value_or(*response_until_), *response_until_);
  if (!deadline || (response_timer_at_ && *response_timer_at_ <= *deadline)) return;
  response_timer_at_ = deadline;
  response_timer_->listen();
  response_timer_->arm(*deadline);
}

void NetReceiver::on_response_timer() noexcept {
  response_timer_at_.reset();
  if (!port_.running || port_.still_since) return;  // who goes on looks at the deadline again
  const std::uint64_t now = monotonic_ns();
  port_.responder->on_time(now);
  if (!response_until_ || now < *response_until_) return respond();
  forget_response();
  port_.metrics.rx_fails.add();
  post_reads();  // with what had to wait behind it
}

void NetReceiver::thaw() noexcept {
  if (response_until_) response_until_ = monotonic_ns() + kParkNs;
  respond();
}

// --- Failures --------------------------------------------------------------------------------------------------------

void NetReceiver::on_failure(int result) noexcept {
  failed_ = true;
  port_.metrics.rx_fails.add();
  // A TAP that was deleted says EBADFD, or EIO while it goes; the end of a socket is nothing read.
  // That is logged once, by set_link(), however many reads were waiting.
  if (result == -EBADFD || result == -EIO || result == -ENODEV || result == 0) return port_.set_link(false);
  if (port_.log_rate.allow())
    port_.log.warning("{}: reading from the TAP {} failed: {}", port_.name, port_.tap.name(), errno_text(-result));
}

}  // namespace mayfly
