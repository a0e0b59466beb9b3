#include "virtio/mmds/network_stack.h"

#include "vmm/base/error.h"

#include <algorithm>
#include <utility>

namespace mayfly {

static_assert(FrameResponder::kLongestReceived == kLongestHeaders + TcpConnection::kReceiveBytes);
static_assert(FrameResponder::kLongestTransmitted == kWrittenHeaders + TcpConnection::kMaximumSegment);

NetworkStack::NetworkStack(const MetadataService& service, const SipKey& key, MmdsMetrics& metrics) noexcept
    : service_(service),
      key_(key),
      metrics_(metrics),
      end_{.mac = kMac, .address = service.config().ipv4_address, .port = kPort} {}

bool NetworkStack::claims(std::span<const std::uint8_t> head) const noexcept {
  return frame_is_for(end_.address, head);
}

void NetworkStack::reset() noexcept {
  arp_request_.reset();
  reset_count_ = 0;
  for (TcpConnection& connection : connections_) connection.close();
  if (channels_) channels_->reset();
  note_ends();
}

void NetworkStack::serve_channels(std::unique_ptr<HostStreams> streams, ChannelMetrics& metrics) {
  streams_ = std::move(streams);
  channels_.emplace(*streams_, metrics);
}

void NetworkStack::set_caller(const HostStreams::Caller& caller) noexcept {
  if (streams_) streams_->set_caller(caller);
}

void NetworkStack::on_news(std::uint64_t now_ns) noexcept {
  if (channels_) channels_->pump(now_ns);
}

std::vector<StreamEnd> NetworkStack::stream_ends() const {
  return channels_ ? channels_->ends() : std::vector<StreamEnd>{};
}

void NetworkStack::restore(const std::vector<StreamEnd>& lost) {
  if (channels_) channels_->restore(lost);
}

std::size_t NetworkStack::connection_count() const noexcept {
  return static_cast<std::size_t>(std::ranges::count(connections_, false, &TcpConnection::closed));
}

/// Connections end in many places; here they are counted.
void NetworkStack::note_ends() noexcept {
  const std::size_t alive = connection_count();
  metrics_.connections_destroyed.add(alive_ - alive);
  alive_ = alive;
}

// --- From the guest --------------------------------------------------------------------------------------------------

void NetworkStack::receive(std::span<const std::uint8_t> frame, TcpChecksum checksum, std::uint64_t now_ns) noexcept {
  metrics_.rx_count.add();
  bool accepted = true;
  if (const auto request = read_arp_request(frame))
    arp_request_ = request;
  else
    accepted = receive_segment(frame, checksum, now_ns);
  (accepted ? metrics_.rx_accepted : metrics_.rx_accepted_err).add();
  note_ends();
}

bool NetworkStack::receive_segment(std::span<const std::uint8_t> frame, TcpChecksum checksum,
                                   std::uint64_t now_ns) noexcept {
  if (frame.size() > longest_received()) return false;
  const auto segment = read_tcp_segment(frame, checksum);
  if (!segment) return false;
  if (segment->destination_port == kPort) {
    if (TcpConnection* const connection = find(segment->source)) {
      connection->receive(*segment, now_ns);
      serve(*connection, now_ns);
      return true;
    }
    if (segment->has(kTcpSyn) && !segment->has(kTcpAck) && !segment->has(kTcpRst)) {
      open(*segment, now_ns);
      return true;
    }
  } else if (channels_) {
    using Verdict = ChannelTable::Verdict;
    const bool begins = segment->has(kTcpSyn) && !segment->has(kTcpAck);
    const Verdict verdict = channels_->receive(*segment, begins ? first_sequence() : 0, now_ns);
    if (verdict != Verdict::Refused) return true;
  }
  refuse(*segment);
  return true;
}

TcpConnection* NetworkStack::find(const TcpEnd& peer) noexcept {
  const auto found = std::ranges::find_if(connections_, [&](const TcpConnection& each) {
    return !each.closed() && each.peer().address == peer.address && each.peer().port == peer.port;
  });
  return found == connections_.end() ? nullptr : &*found;
}

/// Where there is no room the SYN is lost, as on a network: the guest's kernel tries again after a second.
void NetworkStack::open(const TcpSegment& syn, std::uint64_t now_ns) noexcept {
  const auto free = std::ranges::find(connections_, true, &TcpConnection::closed);
  const auto place =
      free != connections_.end() ? free : std::ranges::min_element(connections_, {}, &TcpConnection::progress_ns);
  if (!place->closed()) {
    if (now_ns - place->progress_ns() < kStaleNs) return;
    place->close();
    note_ends();
  }
  place->open(syn, first_sequence(), now_ns);
  ++alive_;
  metrics_.connections_created.add();
}

std::uint32_t NetworkStack::first_sequence() noexcept {
  const SipTag tag = siphash(key_, opened_++);
  return std::uint32_t{tag[0]} << 24 | std::uint32_t{tag[1]} << 16 | std::uint32_t{tag[2]} << 8 | tag[3];
}

/// RFC 9293, 3.10.7.1: what belongs to no connection.
void NetworkStack::refuse(const TcpSegment& segment) noexcept {
  if (segment.has(kTcpRst) || reset_count_ == kResets) return;
  Reset& reset = resets_[(first_reset_ + reset_count_++) % kResets];
  reset = {.to = segment.source, .from_port = segment.destination_port, .header = {.flags = kTcpRst}};
  if (segment.has(kTcpAck)) {
    reset.header.sequence = segment.header.acknowledgment;
  } else {
    reset.header.flags |= kTcpAck;
    reset.header.acknowledgment = segment.header.sequence + static_cast<std::uint32_t>(segment.payload.size()) +
                                  (segment.has(kTcpSyn) ? 1U : 0U) + (segment.has(kTcpFin) ? 1U : 0U);
  }
}

/// Answers what has come whole, one request at a time.
void NetworkStack::serve(TcpConnection& connection, std::uint64_t now_ns) noexcept {
  if (!connection.idle()) return;
  const auto request = HttpRequest::parse(connection.received(), TcpConnection::kReceiveBytes);
  if (!request) {
    connection.send(MetadataService::refuse(request.error()).text, true, now_ns);
    connection.consume(connection.received().size());
  } else if (*request) {
    HttpAnswer answer = service_.answer(**request, now_ns);
    connection.consume((*request)->length());
    connection.send(std::move(answer.text), !answer.keep_alive, now_ns);
  } else if (connection.peer_finished()) {
    connection.finish(now_ns);
  }
}

// --- To the guest ----------------------------------------------------------------------------------------------------

bool NetworkStack::ready() const noexcept {
  return arp_request_ || reset_count_ > 0 || (channels_ && channels_->ready()) ||
         std::ranges::any_of(connections_, [](const TcpConnection& each) { return each.next().has_value(); });
}

std::size_t NetworkStack::transmit(std::span<std::uint8_t, kLongestTransmitted> out) noexcept {
  const std::size_t length = write_next(out);
  if (length == 0) return 0;
  metrics_.tx_frames.add();
  metrics_.tx_bytes.add(length);
  note_ends();
  return length;
}

std::size_t NetworkStack::write_next(std::span<std::uint8_t> out) noexcept {
  if (const auto request = std::exchange(arp_request_, std::nullopt)) return write_arp_reply(out, end_, *request);
  if (reset_count_ > 0) {
    const Reset& reset = resets_[first_reset_];
    first_reset_ = (first_reset_ + 1) % kResets;
    --reset_count_;
    TcpEnd from = end_;
    from.port = reset.from_port;
    return write_tcp_segment(out, from, reset.to, reset.header, {});
  }
  for (std::size_t i = 0; i < kConnections; ++i) {
    TcpConnection& connection = connections_[turn_];
    turn_ = (turn_ + 1) % kConnections;
    const auto next = connection.next();
    if (!next) continue;
    const std::size_t length = write_tcp_segment(out, end_, connection.peer(), next->header, next->payload);
    connection.sent(*next);
    return length;
  }
  return channels_ ? channels_->write_next(out, end_) : 0;
}

// --- Time ------------------------------------------------------------------------------------------------------------

std::optional<std::uint64_t> NetworkStack::deadline() const noexcept {
  std::optional<std::uint64_t> first = channels_ ? channels_->deadline() : std::nullopt;
  for (const TcpConnection& connection : connections_)
    if (const auto each = connection.deadline(); each && (!first || *each < *first)) first = each;
  return first;
}

void NetworkStack::on_time(std::uint64_t now_ns) noexcept {
  for (TcpConnection& connection : connections_) connection.on_time(now_ns);
  if (channels_) channels_->on_time(now_ns);
  note_ends();
}

void NetworkStack::stood_still(std::uint64_t since_ns, std::uint64_t now_ns) noexcept {
  for (TcpConnection& connection : connections_) connection.stood_still(since_ns, now_ns);
  if (channels_) channels_->stood_still(since_ns, now_ns);
}

}  // namespace mayfly
