#include "virtio/mmds/tcp_connection.h"

#include "vmm/base/error.h"

#include <algorithm>
#include <cstring>
#include <utility>

namespace mayfly {
namespace {

/// RFC 9293, 3.7.1: of who says nothing.
constexpr std::uint16_t kDefaultSegment = 536;
/// How far behind what was received a segment may begin to be a late one rather than nonsense.
constexpr std::int32_t kLate = 65'535;

/// How far `to` lies ahead of `from`; negative: behind. Sequence numbers wrap (RFC 9293, 3.4).
std::int32_t distance(std::uint32_t from, std::uint32_t to) noexcept { return static_cast<std::int32_t>(to - from); }

}  // namespace

void TcpConnection::open(const TcpSegment& syn, std::uint32_t first_sequence, std::uint64_t now_ns) noexcept {
  close();
  received_ = std::make_unique_for_overwrite<char[]>(receive_bytes_);
  state_ = State::SynReceived;
  peer_ = syn.source;
  const std::uint16_t wanted = syn.header.maximum_segment != 0 ? syn.header.maximum_segment : kDefaultSegment;
  maximum_segment_ = std::clamp(wanted, kMinimumSegment, kMaximumSegment);
  unacknowledged_ = send_next_ = send_highest_ = first_sequence;
  answer_at_ = first_sequence + 1;
  send_window_ = syn.header.window;
  receive_next_ = syn.header.sequence + 1;
  progress(now_ns);
}

void TcpConnection::close() noexcept {
  state_ = State::Closed;
  acknowledge_ = finishing_ = keeps_ = peer_finished_ = forced_ = failed_ = false;
  answer_ = {};
  received_.reset();
  received_length_ = 0;
  deadline_ns_.reset();
}

// --- What comes ------------------------------------------------------------------------------------------------------

void TcpConnection::receive(const TcpSegment& segment, std::uint64_t now_ns) noexcept {
  const std::int32_t ahead = distance(receive_next_, segment.header.sequence);
  const bool near = ahead >= -kLate && ahead <= static_cast<std::int32_t>(receive_bytes_);
  if (segment.has(kTcpRst)) {
    // RFC 5961, 3.2: whoever only guesses is asked first.
    if (ahead == 0) return close();
    acknowledge_ = acknowledge_ || near;
    return;
  }
  if (segment.has(kTcpSyn)) {
    if (state_ == State::SynReceived && ahead == -1)
      send_next_ = unacknowledged_;  // it has not seen our SYN
    else
      acknowledge_ = true;  // RFC 5961, 4.2
    return;
  }
  if (!segment.has(kTcpAck)) return;
  if (!near || distance(send_highest_, segment.header.acknowledgment) > 0) {
    acknowledge_ = acknowledge_ || state_ == State::Open;
    return;
  }
  take_acknowledgment(segment, now_ns);
  if (state_ == State::Open) take_payload(segment, now_ns);
  close_if_complete();
}

void TcpConnection::take_acknowledgment(const TcpSegment& segment, std::uint64_t now_ns) noexcept {
  const std::uint32_t upto = segment.header.acknowledgment;
  const std::int32_t news = distance(unacknowledged_, upto);
  if (news < 0) return;  // an old one
  const bool opened = std::exchange(send_window_, segment.header.window) == 0 && send_window_ > 0;
  if (news == 0) {
    if (opened && state_ == State::Open && !all_acknowledged()) {
      // A byte that went out while it was shut was not taken. This is no progress: windows are opened at no cost.
      send_next_ = unacknowledged_;
      timeout_ns_ = kTimeoutNs;
      deadline_ns_ = now_ns + timeout_ns_;
    } else if (kind_ == Kind::Stream && state_ == State::Open && send_window_ == 0) {
      attempts_ = 0;
    }
    return;
  }
  state_ = State::Open;
  unacknowledged_ = upto;
  if (distance(send_next_, upto) > 0) send_next_ = upto;
  free_acknowledged();
  progress(now_ns);
}

/// All of the answer, or its front where that is the greater part: no more bytes are moved than are freed.
void TcpConnection::free_acknowledged() noexcept {
  const std::size_t acknowledged = std::min<std::size_t>(unacknowledged_ - answer_at_, answer_.size());
  if (acknowledged == answer_.size())
    answer_ = {};
  else if (acknowledged > answer_.size() / 2)
    answer_.erase(0, acknowledged);
  else
    return;
  answer_at_ += static_cast<std::uint32_t>(acknowledged);
}

void TcpConnection::take_payload(const TcpSegment& segment, std::uint64_t now_ns) noexcept {
  const std::int32_t ahead = distance(receive_next_, segment.header.sequence);
  if (!segment.payload.empty() || segment.has(kTcpFin) || ahead != 0) acknowledge_ = true;
  if (ahead > 0 || peer_finished_) return;
  const auto known = std::min(static_cast<std::size_t>(-ahead), segment.payload.size());
  const auto fresh = segment.payload.subspan(known);
  const bool discards = finishing_ && !keeps_;
  const std::size_t taken = discards ? fresh.size() : std::min(fresh.size(), receive_bytes_ - received_length_);
  if (taken > 0 && !discards) {
    std::memcpy(&received_[received_length_], fresh.data(), taken);
    received_length_ += taken;
  }
  receive_next_ += static_cast<std::uint32_t>(taken);
  const std::uint32_t end = segment.header.sequence + static_cast<std::uint32_t>(segment.payload.size());
  if (segment.has(kTcpFin) && end == receive_next_) {
    peer_finished_ = true;
    ++receive_next_;
  }
  if (taken > 0) progress_ns_ = now_ns;
}

void TcpConnection::consume(std::size_t length) noexcept {
  ensure(length <= received_length_, "no more is consumed than was received");
  // Tells a peer that waits for room that there is some.
  if (received_length_ > receive_bytes_ / 2) acknowledge_ = true;
  received_length_ -= length;
  std::memmove(received_.get(), received_.get() + length, received_length_);
  if (keeps_) close_if_complete();
}

/// Progress: the count of tries starts again.
void TcpConnection::progress(std::uint64_t now_ns) noexcept {
  progress_ns_ = now_ns;
  attempts_ = 0;
  timeout_ns_ = kTimeoutNs;
  if (!all_acknowledged())
    deadline_ns_ = now_ns + timeout_ns_;
  else if (finishing_ && !keeps_)
    deadline_ns_ = now_ns + kFinishNs;
  else
    deadline_ns_.reset();
}

bool TcpConnection::all_acknowledged() const noexcept {
  return unacknowledged_ == answer_at_ + static_cast<std::uint32_t>(answer_.size()) + (finishing_ ? 1U : 0U);
}

void TcpConnection::close_if_complete() noexcept {
  if (keeps_ && received_length_ > 0) return;
  if (state_ == State::Open && finishing_ && peer_finished_ && !acknowledge_ && all_acknowledged()) close();
}

// --- What goes -------------------------------------------------------------------------------------------------------

void TcpConnection::send(std::string answer, bool last, std::uint64_t now_ns) noexcept {
  ensure(idle() && !answer.empty(), "one answer at a time");
  answer_ = std::move(answer);
  finishing_ = last;
  progress(now_ns);
}

void TcpConnection::add(std::string_view bytes, std::uint64_t now_ns) noexcept {
  ensure(has_room(bytes.size()), "a piece is added where there is room for it");
  if (!answer_.empty()) {
    answer_ += bytes;
    return;
  }
  std::string answer;
  answer.reserve(kMostAdded);  // grown piece by piece it would take twice as much
  send(std::move(answer.append(bytes)), false, now_ns);
}

void TcpConnection::finish(std::uint64_t now_ns) noexcept {
  ensure(idle(), "a connection ends after its answers");
  finishing_ = true;
  progress(now_ns);
}

void TcpConnection::finish_sending(std::uint64_t now_ns) noexcept {
  keeps_ = true;
  finish(now_ns);
}

void TcpConnection::expect_end(std::uint64_t now_ns) noexcept {
  ensure(finishing_, "our end comes first");
  if (!std::exchange(keeps_, false)) return;
  progress(now_ns);
  close_if_complete();
}

void TcpConnection::refuse() noexcept {
  if (closed()) return;
  failed_ = true;
  deadline_ns_.reset();
}

std::uint16_t TcpConnection::window() const noexcept {
  return static_cast<std::uint16_t>(receive_bytes_ - received_length_);
}

TcpConnection::Outgoing TcpConnection::segment(std::uint8_t flags,
                                               std::span<const std::uint8_t> payload) const noexcept {
  return {.header = {.sequence = send_next_,
                     .acknowledgment = receive_next_,
                     .flags = static_cast<std::uint8_t>(flags | kTcpAck),
                     .window = window(),
                     .maximum_segment = (flags & kTcpSyn) != 0 ? kMaximumSegment : std::uint16_t{0}},
          .payload = payload};
}

std::optional<TcpConnection::Outgoing> TcpConnection::next() const noexcept {
  if (closed()) return std::nullopt;
  if (failed_) return segment(kTcpRst);
  if (state_ == State::SynReceived && send_next_ == unacknowledged_) return segment(kTcpSyn);
  if (state_ == State::Open)
    if (auto next = next_of_answer()) return next;
  if (acknowledge_) return segment(0);
  return std::nullopt;
}

std::optional<TcpConnection::Outgoing> TcpConnection::next_of_answer() const noexcept {
  const std::size_t done = send_next_ - answer_at_;
  if (done > answer_.size()) return std::nullopt;  // our end as well
  const std::size_t left = answer_.size() - done;
  const std::int32_t room = distance(send_next_, unacknowledged_ + send_window_);
  const auto allowed = static_cast<std::size_t>(std::max(room, forced_ ? 1 : 0));
  const std::size_t length = std::min({left, allowed, std::size_t{maximum_segment_}});
  // RFC 9293, 3.8.6.2.1: crumbs of a window are left until more of it is open.
  const bool crumb = length < left && length < maximum_segment_ && send_next_ != unacknowledged_;
  const bool ends = finishing_ && length == left;
  if ((length == 0 || crumb) && !ends) return std::nullopt;
  std::uint8_t flags = 0;
  if (length > 0 && length == left) flags |= kTcpPsh;
  if (ends) flags |= kTcpFin;
  const auto* const bytes = reinterpret_cast<const std::uint8_t*>(answer_.data());
  return segment(flags, {bytes + done, length});
}

void TcpConnection::sent(const Outgoing& segment) noexcept {
  if ((segment.header.flags & kTcpRst) != 0) return close();
  const bool counts = (segment.header.flags & (kTcpSyn | kTcpFin)) != 0;
  send_next_ += static_cast<std::uint32_t>(segment.payload.size()) + (counts ? 1 : 0);
  if (distance(send_highest_, send_next_) > 0) send_highest_ = send_next_;
  acknowledge_ = forced_ = false;
  close_if_complete();
}

void TcpConnection::on_time(std::uint64_t now_ns) noexcept {
  if (!deadline_ns_ || now_ns < *deadline_ns_) return;
  if (all_acknowledged()) return close();  // the peer has had its time to finish
  if (++attempts_ > kAttempts) {
    failed_ = true;
    deadline_ns_.reset();
    return;
  }
  send_next_ = unacknowledged_;
  forced_ = true;
  timeout_ns_ = std::min(2 * timeout_ns_, kLongestTimeoutNs);
  deadline_ns_ = now_ns + timeout_ns_;
}

void TcpConnection::stood_still(std::uint64_t since_ns, std::uint64_t now_ns) noexcept {
  // One that began meanwhile has not waited so long.
  const std::uint64_t longest = all_acknowledged() ? kFinishNs : timeout_ns_;
  if (deadline_ns_) deadline_ns_ = std::min(*deadline_ns_ + (now_ns - since_ns), now_ns + longest);
  progress_ns_ = std::min(progress_ns_ + (now_ns - since_ns), now_ns);
}

}  // namespace mayfly
