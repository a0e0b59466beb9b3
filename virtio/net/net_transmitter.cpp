#include "virtio/net/net_transmitter.h"

#include "virtio/vector_bytes.h"
#include "vmm/base/clock.h"

#include <poll.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <utility>

namespace mayfly {
namespace {

/// Vectors before a chain's segments: the header's copy, and that of the frame's beginning.
constexpr std::size_t kOwnVectors = 2;
constexpr std::size_t kVectorsPerSlot = kOwnVectors + VirtQueue::kMaximumSegments;
constexpr std::size_t kSourceOffset = 6;  // in an Ethernet header

}  // namespace

NetTransmitter::NetTransmitter(NetContext& context, NetReceiver& receiver, const std::optional<MacAddress>& only_source)
    : context_(context),
      receiver_(receiver),
      only_source_(only_source),
      vectors_(std::make_unique_for_overwrite<iovec[]>(kSlots * kVectorsPerSlot)) {}

Status NetTransmitter::prepare(const std::optional<RateLimiterConfig>& limit) {
  auto limiter = context_.make_limiter(limit, [this] {
    has_lock();
    throttled_ = false;
    process_queue();
  });
  if (!limiter) return propagate(limiter);
  has_lock();  // nobody else knows it yet
  limiter_ = std::move(*limiter);
  if (!slots_.reserve()) return fail_errno(ErrorKind::System, "no memory for its frames");
  return {};
}

NetTransmitter::~NetTransmitter() {
  for (Slot& slot : slots_.made())
    if (slot.chain) std::move(*slot.chain).abandon();  // the ring was closed while they were in flight
}

std::span<iovec> NetTransmitter::vectors_of(const Slot& slot) noexcept {
  return {&vectors_[slots_.index_of(slot) * kVectorsPerSlot], kVectorsPerSlot};
}

// --- Sending ---------------------------------------------------------------------------------------------------------

void NetTransmitter::process_queue() noexcept {
  if (!context_.is_active() || throttled_ || queue_ == nullptr) return;
  take_offered();
  receiver_.has_lock();
  if (std::exchange(claimed_, false)) receiver_.respond();
}

void NetTransmitter::take_offered() noexcept {
  starved_ = false;
  for (unsigned looked_at = 0;; ++looked_at) {
    // What is dropped takes no slot; but nothing that is taken here is the driver's again before the round's end.
    if (looked_at > queue_->maximum_size()) return context_.host->broken("more chains than the queue holds");
    Slot* const slot = slots_.take(*this);
    if (slot == nullptr) {
      starved_ = true;  // the next completion goes on
      return;
    }
    auto taken = queue_->take(vectors_of(*slot).subspan(kOwnVectors));
    if (!taken || !*taken) {
      slots_.give_back(*slot);
      if (!taken) context_.host->broken(taken.error().what);
      return;
    }
    slot->chain.emplace(std::move(**taken));
    if (!take_one(*slot)) return;
  }
}

/// False where the limiter holds it, and all behind it, back.
bool NetTransmitter::take_one(Slot& slot) noexcept {
  const Verdict verdict = check(slot, vectors_of(slot));
  if (verdict != Verdict::Send) {
    drop(slot);
    return true;
  }
  if (!context_.tap.exists()) {
    context_.metrics.tx_no_tap_count.add();
    drop(slot);
    return true;
  }
  if (limiter_->admit(slot.frame_length)) {
    send(slot);
    return true;
  }
  throttled_ = true;
  context_.metrics.tx_rate_limiter_throttled.add();
  queue_->put_back(std::move(*slot.chain));
  slot.chain.reset();
  slots_.give_back(slot);
  return false;
}

/// Copies and checks what the host acts on, and lays out what is to be sent.
NetTransmitter::Verdict NetTransmitter::check(Slot& slot, std::span<iovec> vectors) noexcept {
  const Chain& chain = *slot.chain;
  if (chain.writable_length() != 0) return malformed("buffers that the device is to write");
  if (chain.readable_length() < sizeof(NetHeader)) return malformed("no header");
  slot.frame_length = chain.readable_length() - sizeof(NetHeader);
  NetHeader raw{};
  copy_from(chain.readable(), std::as_writable_bytes(std::span{&raw, 1}));
  const auto checked = check_net_header(raw, slot.frame_length, context_.features);
  if (!checked) return malformed(checked.error());
  slot.header = *checked;

  const std::size_t segments = chain.readable().size();
  std::span<iovec> frame = drop_front(vectors.subspan(kOwnVectors, segments), sizeof(NetHeader));
  std::size_t begin = kOwnVectors + segments - frame.size();
  if (only_source_ || context_.responder) {
    const std::size_t wanted = context_.responder ? slot.head.size() : kEthernetHeaderLength;
    const std::size_t length = copy_from(frame, std::as_writable_bytes(std::span{slot.head}.first(wanted)));
    const auto head = std::span{slot.head}.first(length);
    // Behind it may be what is for the responder; the host would look there.
    if (context_.responder && has_third_tag(head)) return malformed("a third VLAN tag");
    // The kernel would write it where an address is that has been looked at.
    if (context_.responder && (slot.header.flags & net_abi::kNeedsCsum) != 0 &&
        slot.header.csum_start < addresses_end_at(head))
      return malformed("a checksum that begins in its network header");
    const Verdict verdict = judge(head);
    frame = drop_front(frame, length);
    if (verdict == Verdict::Claimed) hand_over(slot, length, frame);
    if (verdict != Verdict::Send) return verdict;
    begin = kOwnVectors + segments - frame.size();
    vectors[--begin] = {.iov_base = slot.head.data(), .iov_len = length};
  }
  vectors[--begin] = {.iov_base = &slot.header, .iov_len = sizeof slot.header};
  slot.out = vectors.subspan(begin, kOwnVectors + segments - begin);
  return Verdict::Send;
}

NetTransmitter::Verdict NetTransmitter::judge(std::span<const std::uint8_t> head) noexcept {
  if (only_source_ && !std::ranges::equal(*only_source_, head.subspan(kSourceOffset, only_source_->size()))) {
    context_.metrics.tx_spoofed_mac_count.add();
    return Verdict::Spoofed;
  }
  return context_.responder && context_.responder->claims(head) ? Verdict::Claimed : Verdict::Send;
}

void NetTransmitter::hand_over(const Slot& slot, std::size_t head_length, std::span<const iovec> rest) noexcept {
  if (slot.frame_length > context_.responder->longest_received()) return;  // of no interest to it
  claimed_ = true;
  std::array<std::uint8_t, FrameResponder::kLongestReceived> usual;
  std::span<std::uint8_t> frame{usual};
  if (slot.frame_length > usual.size()) {  // one that the driver left unsegmented
    if (!long_frame_) long_frame_ = std::make_unique_for_overwrite<std::uint8_t[]>(FrameResponder::kLongestEver);
    frame = {long_frame_.get(), FrameResponder::kLongestEver};
  }
  const auto head = std::span{slot.head}.first(head_length);
  std::ranges::copy(head, frame.begin());
  const std::span<std::uint8_t> behind = frame.subspan(head_length, slot.frame_length - head_length);
  copy_from(rest, std::as_writable_bytes(behind));
  const bool complete = (slot.header.flags & net_abi::kNeedsCsum) == 0;
  context_.responder->receive(frame.first(slot.frame_length), complete ? TcpChecksum::Complete : TcpChecksum::LeftToUs,
                              monotonic_ns());
}

NetTransmitter::Verdict NetTransmitter::malformed(std::string_view what) noexcept {
  context_.metrics.tx_malformed_frames.add();
  if (context_.log_rate.allow()) context_.log.warning("{}: dropped a frame with {}", context_.name, what);
  return Verdict::Malformed;
}

void NetTransmitter::send(Slot& slot) noexcept {
  ++context_.in_flight;
  context_.loop.writev(context_.file, slot.out, 0, slot);
}

/// Done with, sent or not.
void NetTransmitter::drop(Slot& slot) noexcept {
  queue_->put(std::move(*slot.chain), 0);
  slot.chain.reset();
  slots_.give_back(slot);
  context_.host->used(kNetTransmitQueue);
}

void NetTransmitter::cancel() noexcept {
  for (Slot& slot : slots_.made())
    if (slot.chain) context_.loop.cancel(slot);
}

// --- Completions -----------------------------------------------------------------------------------------------------

void NetTransmitter::Slot::on_complete(int result, bool /*more*/) noexcept {
  const MutexLock held{owner.lock()};
  owner.on_written(*this, result);
}

void NetTransmitter::on_written(Slot& slot, int result) noexcept {
  const bool waited = std::exchange(slot.waits_for_room, false);
  if (waited && result >= 0 && !context_.is_draining()) return context_.loop.writev(context_.file, slot.out, 0, slot);
  if (result == -EAGAIN && !context_.is_draining()) {  // only from a non-blocking descriptor
    slot.waits_for_room = true;
    return context_.loop.poll_once(context_.tap.fd(), POLLOUT, slot);
  }
  if (result == static_cast<int>(slot.frame_length + sizeof(NetHeader))) {
    context_.metrics.tx_packets_count.add();
    context_.metrics.tx_bytes_count.add(slot.frame_length);
  } else if (!context_.is_draining() || !(waited || result == -ECANCELED || result == -EINTR || result == -EAGAIN)) {
    // Gone, down, or refused by the kernel: networks lose frames, and the driver goes on. So it does where a pause or a
    // reset finds one that waits for room; but that is no failure of the TAP's.
    context_.metrics.tx_fails.add();
    if (context_.log_rate.allow())
      context_.log.warning("{}: the TAP {} refused a frame: {}", context_.name, context_.tap.name(),
                           result < 0 ? errno_text(-result) : "it took a part of it");
  }
  --context_.in_flight;
  drop(slot);
  context_.end_drain();
  if (starved_) process_queue();
}

}  // namespace mayfly
