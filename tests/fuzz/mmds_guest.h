#pragma once

#include "tests/fuzz/input.h"
#include "tests/unit/virtio/mmds/fake_guest.h"
#include "tests/unit/virtio/mmds/fake_streams.h"
#include "virtio/mmds/network_stack.h"

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace mayfly::testing {

inline void must(bool holds) {
  if (!holds) std::abort();
}

inline constexpr std::array<std::uint8_t, 4> kHostile = {172, 16, 0, 3};
inline constexpr std::size_t kPorts = 20;  // more than there are connections
inline constexpr std::uint64_t kSecond = 1'000'000'000;

inline constexpr std::string_view kRequests[] = {
    "GET /latest/meta-data/ami-id HTTP/1.1\r\n\r\n",
    "GET /latest/big HTTP/1.1\r\nConnection: close\r\n\r\n",
    "GET / HTTP/1.0\r\nAccept: application/json\r\n\r\n",
    "PUT /latest/api/token HTTP/1.1\r\nX-metadata-token-ttl-seconds: 1\r\n\r\n",
    "PUT / HTTP/1.1\r\nContent-Length: 100\r\n\r\n",
    "GET /",
    "HEAD /x HTTP/1.1\r\n\r\n",
    "\r\n\r\n",
};

/// A metadata service, and a guest that does to it what the bytes of an input say.
class HostileGuest {
 public:
  /// `metadata` outlives it.
  HostileGuest(const MmdsConfig& config, const MetadataStore& metadata, std::uint8_t key)
      : address_(config.ipv4_address),
        service_(config, metadata, {SessionTokens{SipKey{key}, 0}, key}, metrics_),
        stack_(service_, SipKey{key}, metrics_) {
    auto streams = std::make_unique<FakeStreams>();
    streams_ = streams.get();
    stack_.serve_channels(std::move(streams), channel_metrics_);
  }

  void step(std::span<const std::uint8_t>& input) {
    const auto what = take<std::uint8_t>(input);
    switch (what % 8) {
      case 0:  // anything
        give(take_bytes(input, take<std::uint16_t>(input) % 2000U));
        break;
      case 1:  // a segment with anything in it
      case 2: {
        GuestSegment segment = segment_of(input);
        const Frame bytes = take_bytes(input, what / 8 * 8U);
        segment.payload.assign(bytes.begin(), bytes.end());
        give(frame_of(segment));
        break;
      }
      case 3: {
        GuestSegment segment = segment_of(input);
        segment.payload = kRequests[what / 8 % std::size(kRequests)];
        give(frame_of(segment));
        break;
      }
      case 4:
        drain(what / 8 == 0 ? 100'000 : what / 8);
        break;
      case 5:
        now_ns_ = what / 8 == 0 ? std::max(now_ns_, stack_.deadline().value_or(now_ns_))
                                : now_ns_ + (kSecond / 32 << what / 8 % 16);
        stack_.on_time(now_ns_);
        break;
      case 6: {  // a segment with a few bytes changed
        Frame frame = frame_of(segment_of(input));
        for (unsigned i = 0; i < what / 8 % 4U; ++i) {
          const auto at = take<std::uint8_t>(input);
          frame[at % frame.size()] = take<std::uint8_t>(input);
        }
        if (what / 64 == 0 && frame.size() >= 54) frame.resize(frame.size() - take<std::uint8_t>(input) % 54U);
        give(frame);
        break;
      }
      default:
        if (what / 8 == 0) {
          stack_.reset();
          must(stack_.connection_count() == 0 && !stack_.ready() && !stack_.deadline());
        } else if (what / 8 == 1) {
          give(arp_frame(address_));
        } else if (what / 8 == 2) {
          host_step(input);
        } else {
          GuestSegment syn = segment_of(input);
          syn.flags = kSyn;
          syn.tcp_options = {2, 4, take<std::uint8_t>(input), take<std::uint8_t>(input)};
          give(frame_of(syn));
        }
        break;
    }
    must(stack_.connection_count() <= NetworkStack::kConnections);
    must(stack_.channels()->connection_count() <= ChannelTable::kConnections);
    must(streams_->open_count() <= ChannelTable::kConnections);
    must(channel_metrics_.connections_created.value() - channel_metrics_.connections_destroyed.value() ==
         streams_->open_count());
    must(metrics_.connections_created.value() - metrics_.connections_destroyed.value() == stack_.connection_count());
  }

  /// All that is unfinished ends by itself, and then there is room for another client, whose answer is `good`.
  void finish(bool (*good)(std::string_view answer)) {
    for (FakeStream& stream : streams_->streams) stream.host_ended = stream.host_gone = true;
    stack_.on_news(now_ns_);
    drain(100'000);
    for (unsigned rounds = 0; stack_.deadline(); ++rounds) {
      must(rounds < 1000);
      now_ns_ = std::max(now_ns_, *stack_.deadline());
      stack_.on_time(now_ns_);
      drain(100'000);
    }
    must(stack_.channels()->connection_count() == 0 && streams_->open_count() == 0);
    now_ns_ += 10 * kSecond;
    // An input may have a connection on one of these ports by chance.
    const auto serves = [&](std::uint16_t port) { return good(ask(kRequests[0], port)); };
    must(serves(64'001) || serves(64'002) || serves(64'003));
  }

  /// What a guest that keeps the rules is answered on a new connection; empty where there was no room for it.
  std::string ask(std::string_view request, std::uint16_t port) {
    TcpClient client{port};
    std::vector<Frame> frames = client.resend();
    for (unsigned round = 0; round < 100 && !frames.empty(); ++round) {
      for (Frame& frame : std::exchange(frames, {})) give(addressed(std::move(frame)));
      for (const ServiceSegment& segment : drain(100'000)) {
        if (segment.destination_port != port) continue;
        for (Frame& frame : client.take(segment)) frames.push_back(std::move(frame));
      }
      if (client.open() && round == 0)
        for (Frame& frame : client.send(request)) frames.push_back(std::move(frame));
    }
    give(addressed(client.reset()));
    drain(100'000);
    return client.received();
  }

 private:
  static Frame take_bytes(std::span<const std::uint8_t>& input, std::size_t length) {
    const auto bytes = input.first(std::min(length, input.size()));
    input = input.subspan(bytes.size());
    return {bytes.begin(), bytes.end()};
  }

  /// Something that a host does at its end of a channel.
  void host_step(std::span<const std::uint8_t>& input) {
    const auto kind = take<std::uint8_t>(input);
    FakeStream& stream = streams_->streams[kind / 16];
    switch (kind % 8) {
      case 0:
        if (!stream.host_ended) stream.say(std::string(take<std::uint16_t>(input), 'x'));
        break;
      case 1:
        stream.takes = std::min(stream.takes + take<std::uint16_t>(input), HostStream::kBytes);
        break;
      case 2:
        stream.takes = 0;
        break;
      case 3:
        stream.host_ended = true;
        break;
      case 4:
        stream.host_ended = stream.host_gone = true;
        break;
      case 5:
        stream.host_gone = true;
        break;
      case 6:
        streams_->refusal = kind / 16 == 0   ? std::optional{HostStreams::Refusal::Busy}
                            : kind / 16 == 1 ? std::optional{HostStreams::Refusal::NoHost}
                                             : std::nullopt;
        break;
      default: {  // a clone, whose guest hears that its connections are gone
        const auto ends = stack_.stream_ends();
        must(ends.size() <= kMostStreamEnds);
        stack_.reset();
        stack_.restore(ends);
        break;
      }
    }
    stack_.on_news(now_ns_);
  }

  /// What a guest knows of one of its connections.
  struct Known {
    std::uint32_t ours = 0;
    std::uint32_t theirs = 0;
  };

  /// A segment on one of a few connections, near to what the service expects there.
  GuestSegment segment_of(std::span<const std::uint8_t>& input) {
    const auto which = take<std::uint8_t>(input);
    const auto port = which % kPorts;
    const bool of_channel = which / kPorts % 2 == 1;
    const Known& known = (of_channel ? known_channels_ : known_)[port];
    const auto kind = take<std::uint8_t>(input);
    const auto sequence = take<std::int8_t>(input);
    const auto acknowledgment = take<std::int8_t>(input);
    // Mostly in the middle of a conversation.
    const auto flags = kind % 4 != 0 ? kAck : static_cast<std::uint8_t>(kind / 4);
    const auto far = [](std::int8_t by) {
      return static_cast<std::uint32_t>(by > 100 ? by << 24 : by < -100 ? by * 100 : by);
    };
    return {.source_port = static_cast<std::uint16_t>(1000 + port),
            .destination_port = of_channel ? kChannelPorts[port % 2] : NetworkStack::kPort,
            .sequence = known.ours + (kind & 64 ? far(sequence) : 0),
            .acknowledgment = known.theirs + (kind & 128 ? far(acknowledgment) : 0),
            .flags = flags,
            .window = static_cast<std::uint16_t>(kind & 32 ? sequence * 8 : 65'535),
            .source = kHostile,
            .destination = address_};
  }

  void give(const Frame& frame) {
    if (!stack_.claims(std::span{frame}.first(std::min(frame.size(), kFrameHeadLength)))) return;
    stack_.receive(Frame(frame), TcpChecksum::LeftToUs, now_ns_);
  }

  /// Takes up to `most` frames, each of which must be right.
  std::vector<ServiceSegment> drain(std::size_t most) {
    std::vector<ServiceSegment> segments;
    for (; most > 0 && stack_.ready(); --most) {
      Frame frame(FrameResponder::kLongestTransmitted);
      const std::size_t length = stack_.transmit(std::span<std::uint8_t, FrameResponder::kLongestTransmitted>{frame});
      must(length >= kArpFrameLength);
      frame.resize(length);
      if (get16(frame, 12) != 0x0800) continue;
      // To whatever address the frame was from.
      std::ranges::copy(kGuestMac, frame.begin());
      const auto segment = read_service_segment(from_usual(std::move(frame)));
      must(segment.has_value());
      if (segment->destination_port - 1000U < kPorts) {
        const auto length_of =
            segment->payload.size() + (segment->has(kSyn) ? 1U : 0U) + (segment->has(kFin) ? 1U : 0U);
        (segment->source_port != NetworkStack::kPort ? known_channels_ : known_)[segment->destination_port - 1000U] = {
            .ours = segment->acknowledgment, .theirs = segment->sequence + static_cast<std::uint32_t>(length_of)};
      }
      segments.push_back(*segment);
    }
    must(most > 0 || segments.size() < 100'000);  // there is an end to what it sends
    return segments;
  }

  /// The same frame, to the address that the service has here.
  [[nodiscard]] Frame addressed(Frame frame) const {
    if (address_ == kServiceIp) return frame;
    std::ranges::copy(address_, frame.begin() + 30);
    fix_checksums(frame);
    return frame;
  }
  /// The other way; the frame must be right as it comes.
  [[nodiscard]] Frame from_usual(Frame frame) const {
    if (address_ == kServiceIp) return frame;
    Frame fixed = frame;
    fix_checksums(fixed);
    must(fixed == frame && std::equal(address_.begin(), address_.end(), frame.begin() + 26));
    std::ranges::copy(kServiceIp, frame.begin() + 26);
    fix_checksums(frame);
    return frame;
  }

  static constexpr std::array<std::uint16_t, 2> kChannelPorts = {1000, 1002};  // FakeStreams'

  MmdsMetrics metrics_;
  ChannelMetrics channel_metrics_;
  Ipv4Address address_;
  MetadataService service_;
  NetworkStack stack_;
  std::uint64_t now_ns_ = 1000 * kSecond;
  FakeStreams* streams_ = nullptr;
  std::array<Known, kPorts> known_{}, known_channels_{};
};

}  // namespace mayfly::testing
