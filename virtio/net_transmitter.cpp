#include "virtio/net_transmitter.h"

#include "virtio/vector_bytes.h"

#include <poll.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <utility>

namespace mayfly {
namespace {

/// Vectors before a chain's segments: the header's copy, and that of the Ethernet header.
constexpr std::size_t kOwnVectors = 2;
constexpr std::size_t kVectorsPerSlot = kOwnVectors + VirtQueue::kMaximumSegments;
constexpr std::size_t kSourceOffset = 6;  // in an Ethernet header

}  // namespace

NetTransmitter::NetTransmitter(NetPort& port, const std::optional<MacAddress>& only_source)
    : port_(port),
      only_source_(only_source),
      vectors_(std::make_unique_for_overwrite<iovec[]>(kSlots * kVectorsPerSlot)) {
  for (Slot& slot : slots_) slot.owner = this;
  for (std::size_t i = 0; i < kSlots; ++i) free_[i] = static_cast<std::uint8_t>(kSlots - 1 - i);
}

Status NetTransmitter::prepare(const std::optional<RateLimiterConfig>& limit) {
  auto limiter = RateLimiter::create(port_.loop, limit, [this] {
    const auto lock = port_.lock();
    throttled_ = false;
    go_on();
  });
  if (!limiter) return propagate(limiter);
  limiter_ = std::move(*limiter);
  return {};
}

NetTransmitter::~NetTransmitter() {
  for (Slot& slot : slots_)
    if (slot.chain) std::move(*slot.chain).abandon();  // the ring was closed while they were in flight
}

std::span<iovec> NetTransmitter::vectors_of(const Slot& slot) noexcept {
  const auto index = static_cast<std::size_t>(&slot - slots_.data());
  return {&vectors_[index * kVectorsPerSlot], kVectorsPerSlot};
}

// --- Sending ---------------------------------------------------------------------------------------------------------

void NetTransmitter::go_on() noexcept {
  if (!port_.running || throttled_ || queue_ == nullptr) return;
  starved_ = false;
  for (unsigned looked_at = 0;; ++looked_at) {
    // What is dropped takes no slot; but nothing that is taken here is the driver's again before the round's end.
    if (looked_at > queue_->maximum_size()) return port_.broken("more chains than the queue holds");
    if (free_count_ == 0) {
      starved_ = true;  // the next completion goes on
      return;
    }
    Slot& slot = slots_[free_[free_count_ - 1]];
    auto taken = queue_->take(vectors_of(slot).subspan(kOwnVectors));
    if (!taken) return port_.broken(taken.error().what);
    if (!*taken) return;
    slot.chain.emplace(std::move(**taken));
    const Verdict verdict = check(slot, vectors_of(slot));
    if (verdict == Verdict::Send && !limiter_->admit(slot.frame_length)) {
      throttled_ = true;
      port_.metrics.tx_rate_limiter_throttled.add();
      queue_->untake(std::move(*slot.chain));
      slot.chain.reset();
      return;
    }
    if (verdict == Verdict::Send)
      send(slot);
    else
      drop(*std::exchange(slot.chain, std::nullopt));
  }
}

/// Copies and checks what the host acts on, and lays out what is to be sent.
NetTransmitter::Verdict NetTransmitter::check(Slot& slot, std::span<iovec> vectors) noexcept {
  const Chain& chain = *slot.chain;
  if (chain.writable_length() != 0) return malformed("buffers that the device is to write");
  if (chain.readable_length() < sizeof(NetHeader)) return malformed("no header");
  slot.frame_length = chain.readable_length() - sizeof(NetHeader);
  NetHeader raw{};
  copy_from(chain.readable(), std::as_writable_bytes(std::span{&raw, 1}));
  const auto checked = check_net_header(raw, slot.frame_length, port_.features);
  if (!checked) return malformed(checked.error());
  slot.header = *checked;

  const std::size_t segments = chain.readable().size();
  std::span<iovec> frame = drop_front(vectors.subspan(kOwnVectors, segments), sizeof(NetHeader));
  std::size_t begin = kOwnVectors + segments - frame.size();
  if (only_source_) {
    copy_from(frame, std::as_writable_bytes(std::span{slot.ethernet}));
    if (!std::ranges::equal(*only_source_, std::span{slot.ethernet}.subspan(kSourceOffset, only_source_->size()))) {
      port_.metrics.tx_spoofed_mac_count.add();
      return Verdict::Spoofed;
    }
    frame = drop_front(frame, slot.ethernet.size());
    begin = kOwnVectors + segments - frame.size();
    vectors[--begin] = {.iov_base = slot.ethernet.data(), .iov_len = slot.ethernet.size()};
  }
  vectors[--begin] = {.iov_base = &slot.header, .iov_len = sizeof slot.header};
  slot.out = vectors.subspan(begin, kOwnVectors + segments - begin);
  return Verdict::Send;
}

NetTransmitter::Verdict NetTransmitter::malformed(std::string_view what) noexcept {
  port_.metrics.tx_malformed_frames.add();
  if (port_.log_rate.allow()) port_.log.warning("{}: dropped a frame with {}", port_.name, what);
  return Verdict::Malformed;
}

void NetTransmitter::send(Slot& slot) noexcept {
  --free_count_;
  port_.loop.writev(port_.file, slot.out, 0, slot);
}

void NetTransmitter::drop(Chain chain) noexcept {
  queue_->put(std::move(chain), 0);
  port_.used(kNetTransmitQueue);
}

void NetTransmitter::cancel() noexcept {
  for (Slot& slot : slots_)
    if (slot.chain) port_.loop.cancel(slot);
}

// --- Completions -----------------------------------------------------------------------------------------------------

void NetTransmitter::Slot::on_complete(int result, bool /*more*/) noexcept {
  const auto lock = owner->port_.lock();
  owner->on_written(*this, result);
}

void NetTransmitter::on_written(Slot& slot, int result) noexcept {
  if (std::exchange(slot.waits_for_room, false) && result >= 0 && !port_.quiescing)
    return port_.loop.writev(port_.file, slot.out, 0, slot);
  if (result == -EAGAIN && !port_.quiescing) {  // only from a non-blocking descriptor
    slot.waits_for_room = true;
    return port_.loop.poll_once(port_.tap.fd(), POLLOUT, slot);
  }
  if (result == static_cast<int>(slot.frame_length + sizeof(NetHeader))) {
    port_.metrics.tx_packets_count.add();
    port_.metrics.tx_bytes_count.add(slot.frame_length);
  } else {
    // Gone, down, or refused by the kernel: networks lose frames, and the driver goes on.
    port_.metrics.tx_fails.add();
    if (port_.log_rate.allow())
      port_.log.warning("{}: the TAP {} refused a frame: {}", port_.name, port_.tap.name(),
                        result < 0 ? errno_text(-result) : "it took a part of it");
  }
  free_[free_count_++] = static_cast<std::uint8_t>(&slot - slots_.data());
  drop(*std::exchange(slot.chain, std::nullopt));
  if (port_.quiescing) {
    if (at_rest()) port_.at_rest();
  } else if (starved_) {
    go_on();
  }
}

}  // namespace mayfly
