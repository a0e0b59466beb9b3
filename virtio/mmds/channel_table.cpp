#include "virtio/mmds/channel_table.h"

#include <algorithm>
#include <string>
#include <utility>

namespace mayfly {

// --- From the guest --------------------------------------------------------------------------------------------------

ChannelTable::Verdict ChannelTable::receive(const TcpSegment& segment, std::uint32_t first_sequence,
                                            std::uint64_t now_ns) noexcept {
  Channel* const channel = find(segment);
  if (channel == nullptr) {
    if (segment.has(kTcpSyn) && !segment.has(kTcpAck) && !segment.has(kTcpRst))
      return open(segment, first_sequence, now_ns);
    return Verdict::Refused;
  }
  channel->tcp.receive(segment, now_ns);
  // The connection keeps nothing any more that comes behind the host's end.
  if (channel->stream != nullptr && channel->stream->gone() && !segment.payload.empty()) channel->tcp.refuse();
  if (channel->stream != nullptr) pump(*channel, now_ns);
  return Verdict::Taken;
}

ChannelTable::Channel* ChannelTable::find(const TcpSegment& segment) noexcept {
  const auto found = std::ranges::find_if(channels_, [&](const Channel& each) {
    return !each.tcp.closed() && each.port == segment.destination_port && each.tcp.peer().port == segment.source.port &&
           each.tcp.peer().address == segment.source.address;
  });
  return found == channels_.end() ? nullptr : &*found;
}

ChannelTable::Verdict ChannelTable::open(const TcpSegment& syn, std::uint32_t first_sequence,
                                         std::uint64_t now_ns) noexcept {
  const auto free = std::ranges::find_if(channels_, [](const Channel& each) { return each.tcp.closed(); });
  if (free == channels_.end()) {
    metrics_.full_count.add();
    return Verdict::Lost;
  }
  const auto stream = streams_.open(syn.destination_port);
  if (!stream) {
    // The guest's kernel tries again after a second where the host is slow to accept.
    if (stream.error() == HostStreams::Refusal::Busy) return Verdict::Lost;
    metrics_.refused_count.add();
    return Verdict::Refused;
  }
  free->stream = *stream;
  free->port = syn.destination_port;
  free->finished = false;
  free->tcp.open(syn, first_sequence, now_ns);
  metrics_.connections_created.add();
  return Verdict::Taken;
}

// --- Between the two -------------------------------------------------------------------------------------------------

void ChannelTable::pump(std::uint64_t now_ns) noexcept {
  for (Channel& channel : channels_)
    if (channel.stream != nullptr) pump(channel, now_ns);
}

void ChannelTable::pump(Channel& channel, std::uint64_t now_ns) noexcept {
  if (channel.tcp.closed()) return let_go(channel, channel.finished);
  give_to_host(channel);
  give_to_guest(channel, now_ns);
  if (channel.stream->gone()) {
    // What the host has said before it went is still the guest's, and its end. What the guest says now is nobody's.
    const bool in_vain = channel.tcp.failed() || !channel.tcp.received().empty();
    if (in_vain || !channel.stream->ended()) {
      channel.tcp.refuse();
      return let_go(channel, false);
    }
    if (channel.tcp.sends_no_more()) channel.tcp.expect_end(now_ns);
  }
  if (channel.tcp.closed()) let_go(channel, channel.finished);
}

void ChannelTable::give_to_host(Channel& channel) noexcept {
  if (channel.stream->gone()) return;
  const std::string_view received = channel.tcp.received();
  const std::size_t length = std::min(received.size(), channel.stream->room());
  const bool last = channel.tcp.peer_finished() && length == received.size();  // consume() may complete the connection
  if (length > 0) {
    channel.stream->push({reinterpret_cast<const std::uint8_t*>(received.data()), length});
    metrics_.rx_bytes.add(length);
    channel.tcp.consume(length);
  }
  if (last && !channel.finished) {
    channel.finished = true;
    channel.stream->finish();
  }
}

void ChannelTable::give_to_guest(Channel& channel, std::uint64_t now_ns) noexcept {
  if (const auto bytes = channel.stream->incoming(); !bytes.empty()) {
    if (!channel.tcp.has_room(bytes.size())) return;
    metrics_.tx_bytes.add(bytes.size());
    channel.tcp.add({reinterpret_cast<const char*>(bytes.data()), bytes.size()}, now_ns);
    channel.stream->take();
  } else if (channel.stream->ended() && channel.tcp.idle()) {
    channel.tcp.finish_sending(now_ns);
  }
}

void ChannelTable::let_go(Channel& channel, bool flush) noexcept {
  metrics_.connections_destroyed.add();
  std::exchange(channel.stream, nullptr)->close(flush);
}

// --- To the guest ----------------------------------------------------------------------------------------------------

bool ChannelTable::ready() const noexcept {
  return !lost_.empty() ||
         std::ranges::any_of(channels_, [](const Channel& each) { return each.tcp.next().has_value(); });
}

std::size_t ChannelTable::write_next(std::span<std::uint8_t> out, const TcpEnd& end) noexcept {
  TcpEnd from = end;
  if (!lost_.empty()) {
    const StreamEnd lost = lost_.back();
    lost_.pop_back();
    from.port = lost.channel_port;
    return write_tcp_segment(out, from, {.mac = lost.mac, .address = lost.address, .port = lost.guest_port},
                             {.sequence = lost.sequence,
                              .acknowledgment = lost.acknowledgment,
                              .flags = static_cast<std::uint8_t>(kTcpRst | kTcpAck)},
                             {});
  }
  for (std::size_t i = 0; i < kConnections; ++i) {
    Channel& channel = channels_[turn_];
    turn_ = (turn_ + 1) % kConnections;
    const auto next = channel.tcp.next();
    if (!next) continue;
    from.port = channel.port;
    const std::size_t length = write_tcp_segment(out, from, channel.tcp.peer(), next->header, next->payload);
    channel.tcp.sent(*next);
    if (channel.stream != nullptr && channel.tcp.closed()) let_go(channel, channel.finished);
    return length;
  }
  return 0;
}

// --- Time ------------------------------------------------------------------------------------------------------------

std::optional<std::uint64_t> ChannelTable::deadline() const noexcept {
  std::optional<std::uint64_t> first;
  for (const Channel& channel : channels_)
    if (const auto each = channel.tcp.deadline(); each && (!first || *each < *first)) first = each;
  return first;
}

void ChannelTable::on_time(std::uint64_t now_ns) noexcept {
  for (Channel& channel : channels_) channel.tcp.on_time(now_ns);
  pump(now_ns);
}

void ChannelTable::stood_still(std::uint64_t since_ns, std::uint64_t now_ns) noexcept {
  for (Channel& channel : channels_) channel.tcp.stood_still(since_ns, now_ns);
}

void ChannelTable::reset() noexcept {
  lost_.clear();
  for (Channel& channel : channels_) {
    channel.tcp.close();
    if (channel.stream != nullptr) let_go(channel, false);
  }
}

std::size_t ChannelTable::connection_count() const noexcept {
  return static_cast<std::size_t>(
      std::ranges::count_if(channels_, [](const Channel& each) { return !each.tcp.closed(); }));
}

// --- Snapshot --------------------------------------------------------------------------------------------------------

std::vector<StreamEnd> ChannelTable::ends() const {
  std::vector<StreamEnd> ends = lost_;  // which the guest has not heard of yet
  for (const Channel& channel : channels_) {
    if (channel.tcp.closed() || ends.size() == kConnections) continue;
    const TcpEnd& peer = channel.tcp.peer();
    ends.push_back({.mac = peer.mac,
                    .address = peer.address,
                    .guest_port = peer.port,
                    .channel_port = channel.port,
                    .sequence = channel.tcp.send_next(),
                    .acknowledgment = channel.tcp.receive_next()});
  }
  return ends;
}

void ChannelTable::restore(const std::vector<StreamEnd>& lost) { lost_ = lost; }

}  // namespace mayfly
