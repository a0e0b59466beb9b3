#include "virtio/net/net_receiver.h"

#include "virtio/vector_bytes.h"
#include "vmm/base/clock.h"

#include <poll.h>
#include <sys/uio.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <utility>

namespace mayfly {
namespace {

/// Between tries to read from a TAP that fails: not a busy loop, and soon enough for one that comes back.
constexpr std::uint64_t kFirstRetryNs = 100'000'000;
constexpr std::uint64_t kLongestRetryNs = 6'400'000'000;
/// After so long a driver that offers too little for a frame is taken to have no more.
constexpr std::uint64_t kParkNs = 100'000'000;
/// After so many short frames a long one is unlikely.
constexpr unsigned kShortFrames = 256;

}  // namespace

NetReceiver::NetReceiver(NetContext& context) : context_(context), retry_ns_(kFirstRetryNs) {
  for (Read& read : reads_) read.owner = this;
  wait_.owner = this;
}

Status NetReceiver::prepare(const std::optional<RateLimiterConfig>& limit) {
  auto limiter = context_.make_limiter(limit, [this] {
    has_lock();
    if (phase_ == Phase::Throttled) phase_ = Phase::Idle;
    post_reads();
  });
  if (!limiter) return propagate(limiter);
  has_lock();  // nobody else knows it yet
  limiter_ = std::move(*limiter);
  auto timer = LoopTimer::create(context_.loop, [this] {
    const MutexLock held{lock()};
    on_timer();
  });
  if (!timer) return propagate(timer);
  retry_timer_ = std::move(*timer);
  return context_.responder ? prepare_responses() : Status{};
}

void NetReceiver::reset() noexcept {
  buffers_.abandon();
  queue_ = nullptr;
  volley_ = {};
  wanted_ = 1;
  long_frames_ = 0;
  forget_parked();
  if (phase_ == Phase::Throttled) phase_ = Phase::Idle;  // the limiter says so again if it still holds
  forget_response();
}

void NetReceiver::undrain() noexcept {
  if (queue_ == nullptr) return;
  if (queue_->ready()) return wait_for_buffers();
  buffers_.abandon();
  forget_parked();
}

void NetReceiver::forget_parked() noexcept {
  if (phase_ == Phase::Parked) phase_ = Phase::Idle;
}

/// Any thread: a vCPU ends a drain, too.
void NetReceiver::wait_for_buffers() noexcept {
  if (phase_ == Phase::Parked) retry_timer_->arm(monotonic_ns() + kParkNs);
}

void NetReceiver::on_timer() noexcept {
  // Nobody can offer buffers now, or nobody takes them: the wait begins anew with thaw() or undrain().
  if (phase_ == Phase::Parked && (context_.still_since || !context_.is_active())) return;
  if (phase_ == Phase::Parked) context_.metrics.rx_fails.add();
  if (phase_ == Phase::Parked || phase_ == Phase::BackingOff) phase_ = Phase::Idle;
  post_reads();
}

// --- Posting ---------------------------------------------------------------------------------------------------------

void NetReceiver::post_reads() noexcept {
  if (!context_.is_active() || queue_ == nullptr || !queue_->ready() || in_flight()) return;
  if (phase_ == Phase::Parked && !unpark()) return;
  if (context_.responder && !give_responses()) return;
  if (phase_ != Phase::Idle || !context_.tap.exists()) return;
  if (!limiter_->open()) {
    phase_ = Phase::Throttled;
    context_.metrics.rx_rate_limiter_throttled.add();
    return;
  }
  // Each operation of a limited interface needs a token of its own.
  const std::size_t wanted = limiter_->limited() ? 1 : wanted_;
  const bool is_short = wanted == 1 && long_frames_ == 0;
  const auto windows = arrange(wanted, 1, is_short ? NetReceiveBuffers::kShortWindow : NetReceiveBuffers::kFullWindow);
  if (!windows) return context_.host->broken(windows.error().what);
  if (windows->empty()) return context_.metrics.rx_no_buffer_count.add();
  post(*windows);
}

/// While reads are posted, a kick for each buffer that the driver returns would be in vain: only where the first window
/// has less than `least` bytes the driver is asked for one.
std::expected<std::span<const ReceiveWindow>, QueueFault> NetReceiver::arrange(std::size_t wanted, std::uint64_t least,
                                                                               std::uint64_t room) noexcept {
  const bool mergeable = context_.has_feature(net_abi::kMergeable);
  queue_->set_notifications_off(true);
  const auto windows = buffers_.arrange(*queue_, wanted, mergeable, room);
  if (!windows || (!windows->empty() && windows->front().capacity >= least)) return windows;
  queue_->set_notifications_off(false);
  return buffers_.arrange(*queue_, wanted, mergeable, room);  // with what came before the driver saw that
}

void NetReceiver::post(std::span<const ReceiveWindow> windows) noexcept {
  volley_ = {.posted = windows.size()};
  phase_ = Phase::Reading;
  std::span<Read> reads = std::span{reads_}.first(windows.size());
  if (!context_.tap.has_nowait()) {
    windows = windows.subspan(read_at_once(windows.first(windows.size() - 1)));
    windows = windows.first(1);
    reads = reads.last(1);
  }
  for (std::size_t i = 0; i < windows.size(); ++i) {
    Read& read = reads[i];
    read.window = windows[i];
    begin_operation();
    if (i + 1 < windows.size())
      context_.loop.readv_now(context_.file, read.window.vectors, 0, read);
    else
      context_.loop.readv(context_.file, read.window.vectors, 0, read);
  }
}

/// What the TAP holds, into the first windows; how many of them. For a host without RWF_NOWAIT, whose descriptor is
/// non-blocking instead: before Linux 6.4 the ring waits on that all the same, and a frame would wake every read of a
/// volley, for all but one of them to wait again. By preadv2(2), which the loop's filter allows, and not by readv(2).
std::size_t NetReceiver::read_at_once(std::span<const ReceiveWindow> windows) noexcept {
  std::size_t used = 0;
  for (; used < windows.size(); ++used) {
    const std::span<const iovec> vectors = windows[used].vectors;
    const ssize_t result = ::preadv2(context_.tap.fd(), vectors.data(), static_cast<int>(vectors.size()), -1, 0);
    // What else may be wrong, the read that waits finds as well.
    if (result < static_cast<ssize_t>(sizeof(NetHeader))) break;
    deliver(windows[used], static_cast<std::uint64_t>(result));
  }
  return used;
}

void NetReceiver::cancel() noexcept {
  if (!in_flight() || std::exchange(volley_.cancelling, true)) return;
  if (phase_ == Phase::Waiting) return context_.loop.cancel(wait_);
  context_.loop.cancel(reads_[volley_.posted - 1]);  // the others do not wait
}

// --- Completions -----------------------------------------------------------------------------------------------------

void NetReceiver::Read::on_complete(int result, bool /*more*/) noexcept {
  const MutexLock held{owner->lock()};
  owner->on_read(*this, result);
}

void NetReceiver::Wait::on_complete(int /*result*/, bool /*more*/) noexcept {
  const MutexLock held{owner->lock()};
  owner->end_operation();
  owner->end_volley();
}

void NetReceiver::on_read(Read& read, int result) noexcept {
  end_operation();
  if (result >= static_cast<int>(sizeof(NetHeader)))
    deliver(read.window, static_cast<std::uint64_t>(result));
  else if (result == -EAGAIN)
    volley_.dry = volley_.dry || &read == &reads_[volley_.posted - 1];
  else if (result != -ECANCELED && result != -EINTR)
    on_failure(result);
  if (volley_.in_flight == 0) end_volley();
}

/// The volley is over: the next one, a pause, or rest.
void NetReceiver::end_volley() noexcept {
  const Volley ended = std::exchange(volley_, {});
  if (ended.posted > 0) {
    const bool grows = ended.hits == ended.posted && (ended.posted > 1 || tap_has_more());
    wanted_ = grows ? std::min(2 * ended.posted, reads_.size()) : std::max<std::size_t>(ended.hits, 1);
  }
  if (phase_ != Phase::Parked) phase_ = Phase::Idle;
  if (ended.failed) {
    phase_ = Phase::BackingOff;
    retry_timer_->listen();
    retry_timer_->arm(monotonic_ns() + retry_ns_);
    retry_ns_ = std::min(2 * retry_ns_, kLongestRetryNs);
  }
  if (context_.is_draining()) {
    // A frame that a short window has the beginning of is lost if the drain lasts, and to a snapshot's clones.
    if (phase_ == Phase::Parked && queue_->ready()) (void)unpark();
    return context_.end_drain();
  }
  if (!ended.dry || phase_ != Phase::Idle || !context_.is_active() || has_response()) return post_reads();
  phase_ = Phase::Waiting;
  begin_operation();
  context_.loop.poll_once(context_.tap.fd(), POLLIN, wait_);
}

bool NetReceiver::tap_has_more() const noexcept {
  pollfd tap{.fd = context_.tap.fd(), .events = POLLIN, .revents = 0};
  return ::poll(&tap, 1, 0) > 0;
}

void NetReceiver::deliver(const ReceiveWindow& window, std::uint64_t length) noexcept {
  ++volley_.hits;
  retry_ns_ = kFirstRetryNs;
  context_.set_link(true);
  if (length > NetReceiveBuffers::kShortWindow)
    long_frames_ = kShortFrames;
  else if (long_frames_ > 0)
    --long_frames_;
  if (window.narrow && length > window.capacity) return park(window, length);
  // Into our own byte: the rest of the frame is lost, and half a frame is none. A frame for another driver is none
  // for this one. Either way the buffers stay for the next.
  const std::size_t chains = buffers_.chains_for(window, length);
  if (length > window.capacity || !prepare_header(window, chains)) return context_.metrics.rx_fails.add();
  buffers_.use(window, *queue_, length);
  context_.host->used(kNetReceiveQueue);
  const std::uint64_t frame = length - sizeof(NetHeader);
  limiter_->spend(frame);
  context_.metrics.rx_packets_count.add();
  context_.metrics.rx_bytes_count.add(frame);
}

/// A narrow window is its volley's only one, so the spill is this frame's alone.
void NetReceiver::park(const ReceiveWindow& window, std::uint64_t length) noexcept {
  phase_ = Phase::Parked;
  parked_length_ = length;
  parked_at_ = window.capacity;
  retry_timer_->listen();
  wait_for_buffers();
}

/// Delivers the parked frame if there are buffers for all of it. Those that hold its beginning are still the first.
bool NetReceiver::unpark() noexcept {
  const std::uint64_t length = parked_length_;
  const auto windows = arrange(1, length);
  if (!windows) {
    context_.host->broken(windows.error().what);
    return false;
  }
  if (windows->empty() || windows->front().capacity < length) {
    context_.metrics.rx_no_buffer_count.add();
    return false;
  }
  copy_to(windows->front().buffers(), parked_at_, buffers_.spill().first(length - parked_at_));
  phase_ = Phase::Idle;
  retry_timer_->cancel();
  deliver(windows->front(), length);
  return true;
}

/// Completes the header that the TAP wrote (5.1.6.4.1). False: the driver would not understand the frame.
bool NetReceiver::prepare_header(const ReceiveWindow& window, std::size_t chains) noexcept {
  NetHeader header{};
  copy_from(window.buffers(), std::as_writable_bytes(std::span{&header, 1}));
  if (!driver_understands(header.flags, header.gso_type, context_.features)) return false;
  // Without GUEST_CSUM flags are 0, where a TAP may say that it has checked the sum.
  if (!context_.has_feature(net_abi::kGuestCsum)) header.flags = 0;
  header.num_buffers = static_cast<std::uint16_t>(chains);  // the TAP leaves it as it was
  copy_to(window.buffers(), 0, std::as_bytes(std::span{&header, 1}));
  return true;
}

// --- The responder ---------------------------------------------------------------------------------------------------

Status NetReceiver::prepare_responses() {
  auto timer = LoopTimer::create(context_.loop, [this] {
    const MutexLock held{lock()};
    on_response_timer();
  });
  if (!timer) return propagate(timer);
  response_timer_ = std::move(*timer);
  return {};
}

void NetReceiver::respond() noexcept {
  if (!context_.is_active()) return;
  if (!has_response()) return wait_to_respond();
  if (in_flight()) return cancel();  // the volley's end goes on
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
    context_.host->broken(windows.error().what);
    return false;
  }
  if (windows->empty()) {
    context_.metrics.rx_no_buffer_count.add();
    return false;
  }
  const ReceiveWindow& window = windows->front();
  if (!response_until_) response_length_ = context_.responder->transmit(response_);
  const std::uint64_t length = sizeof(NetHeader) + response_length_;
  if (length > window.capacity && window.narrow) {
    if (!response_until_) response_until_ = monotonic_ns() + kParkNs;
    context_.metrics.rx_no_buffer_count.add();
    return false;
  }
  response_until_.reset();
  if (length > window.capacity) {  // lost, as on any network: no buffer of this driver is long enough
    context_.metrics.rx_fails.add();
    return true;
  }
  const NetHeader header{.num_buffers = static_cast<std::uint16_t>(buffers_.chains_for(window, length))};
  copy_to(window.buffers(), 0, std::as_bytes(std::span{&header, 1}));
  copy_to(window.buffers(), sizeof header, std::as_bytes(std::span{response_}.first(response_length_)));
  buffers_.use(window, *queue_, length);
  context_.host->used(kNetReceiveQueue);
  return true;
}

void NetReceiver::forget_response() noexcept {
  response_until_.reset();
  response_length_ = 0;
}

/// A timer that fires too early is harmless, and cheaper than arming it each time that the deadline moves.
void NetReceiver::wait_to_respond() noexcept {
  auto deadline = context_.responder->deadline();
  if (response_until_) deadline = std::min(deadline.value_or(*response_until_), *response_until_);
  if (!deadline || (response_timer_at_ && *response_timer_at_ <= *deadline)) return;
  response_timer_at_ = deadline;
  response_timer_->listen();
  response_timer_->arm(*deadline);
}

void NetReceiver::on_response_timer() noexcept {
  response_timer_at_.reset();
  if (!context_.is_active() || context_.still_since) return;  // who goes on looks at the deadline again
  const std::uint64_t now = monotonic_ns();
  context_.responder->on_time(now);
  if (!response_until_ || now < *response_until_) return respond();
  forget_response();
  context_.metrics.rx_fails.add();
  post_reads();  // with what had to wait behind it
}

void NetReceiver::thaw() noexcept {
  wait_for_buffers();
  if (!context_.responder) return;
  if (response_until_) response_until_ = monotonic_ns() + kParkNs;
  respond();
}

// --- Failures --------------------------------------------------------------------------------------------------------

void NetReceiver::on_failure(int result) noexcept {
  volley_.failed = true;
  context_.metrics.rx_fails.add();
  // A TAP that was deleted says EBADFD, or EIO while it goes; the end of a socket is nothing read.
  // That is logged once, by set_link(), however many reads were waiting.
  if (result == -EBADFD || result == -EIO || result == -ENODEV || result == 0) return context_.set_link(false);
  if (context_.log_rate.allow())
    context_.log.warning("{}: reading from the TAP {} failed: {}", context_.name, context_.tap.name(),
                         errno_text(-result));
}

}  // namespace mayfly
