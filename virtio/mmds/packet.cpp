#include "virtio/mmds/packet.h"

#include "vmm/base/error.h"

#include <algorithm>
#include <array>

namespace mayfly {
namespace {

using Bytes = std::span<const std::uint8_t>;

constexpr std::size_t kEthernetHeader = 14;
constexpr std::size_t kIpv4Header = 20;
constexpr std::size_t kTcpHeader = 20;
constexpr std::uint16_t kTypeIpv4 = 0x0800;
constexpr std::uint16_t kTypeArp = 0x0806;
constexpr std::uint16_t kTypeTag = 0x8100;
constexpr std::uint16_t kTypeServiceTag = 0x88A8;
constexpr std::uint8_t kProtocolTcp = 6;
constexpr std::uint16_t kArpRequest = 1;
constexpr std::uint16_t kArpReply = 2;

// Offsets in a frame, and in the headers of IPv4 and TCP.
constexpr std::size_t kEthernetSource = 6;
constexpr std::size_t kEthernetType = 12;
constexpr std::size_t kArpBody = kEthernetHeader;
constexpr std::size_t kArpSenderMac = kArpBody + 8;
constexpr std::size_t kArpSender = kArpBody + 14;
constexpr std::size_t kArpTargetMac = kArpBody + 18;
constexpr std::size_t kArpTarget = kArpBody + 24;
constexpr std::size_t kIpv4Source = 12;
constexpr std::size_t kIpv4Destination = 16;
constexpr std::size_t kIpv4Checksum = 10;
constexpr std::size_t kTcpChecksumAt = 16;

/// The Ethernet and IPv4 halves of ARP: hardware type 1, protocol IPv4, addresses of 6 and 4 bytes.
constexpr std::array<std::uint8_t, 6> kArpKinds = {0, 1, 8, 0, 6, 4};
/// The same without the hardware: IPv4, and how long both addresses are.
constexpr std::array<std::uint8_t, 4> kArpAddresses = {8, 0, 6, 4};

std::uint16_t load16(Bytes bytes, std::size_t at) noexcept {
  return static_cast<std::uint16_t>(bytes[at] << 8 | bytes[at + 1]);
}
std::uint32_t load32(Bytes bytes, std::size_t at) noexcept {
  return static_cast<std::uint32_t>(load16(bytes, at)) << 16 | load16(bytes, at + 2);
}
void store16(std::span<std::uint8_t> bytes, std::size_t at, std::uint16_t value) noexcept {
  bytes[at] = static_cast<std::uint8_t>(value >> 8);
  bytes[at + 1] = static_cast<std::uint8_t>(value);
}
void store32(std::span<std::uint8_t> bytes, std::size_t at, std::uint32_t value) noexcept {
  store16(bytes, at, static_cast<std::uint16_t>(value >> 16));
  store16(bytes, at + 2, static_cast<std::uint16_t>(value));
}
template <std::size_t Length>
std::array<std::uint8_t, Length> load(Bytes bytes, std::size_t at) noexcept {
  std::array<std::uint8_t, Length> value;
  std::ranges::copy(bytes.subspan(at, Length), value.begin());
  return value;
}
void store(std::span<std::uint8_t> bytes, std::size_t at, Bytes value) noexcept {
  std::ranges::copy(value, bytes.subspan(at).begin());
}

/// RFC 1071: the sum so far, of at most 64 KiB.
std::uint32_t add_up(Bytes bytes, std::uint32_t sum = 0) noexcept {
  for (; bytes.size() >= 2; bytes = bytes.subspan(2)) sum += load16(bytes, 0);
  return bytes.empty() ? sum : sum + (std::uint32_t{bytes[0]} << 8);
}
std::uint16_t folded(std::uint32_t sum) noexcept {
  while (sum > 0xFFFF) sum = (sum & 0xFFFF) + (sum >> 16);
  return static_cast<std::uint16_t>(~sum);
}
/// Of TCP, with the pseudo-header of its IPv4 header; 0 where the checksum in it is right.
std::uint16_t tcp_checksum(Bytes ipv4, Bytes tcp) noexcept {
  const auto length = static_cast<std::uint32_t>(tcp.size());
  return folded(add_up(tcp, add_up(ipv4.subspan(kIpv4Source, 8), kProtocolTcp + length)));
}

/// An end that can be answered: no group, and not the service itself.
bool is_plausible_source(const TcpEnd& source, const Ipv4Address& destination) noexcept {
  return (source.mac[0] & 1) == 0 && source.address[0] != 0 && source.address[0] < 224 &&
         source.address != destination && source.port != 0;
}

/// RFC 9293, 3.1: false where the options are malformed.
bool read_options(Bytes options, TcpHeader& header) noexcept {
  constexpr std::uint8_t kEnd = 0;
  constexpr std::uint8_t kNothing = 1;
  constexpr std::uint8_t kMaximumSegment = 2;
  while (!options.empty() && options[0] != kEnd) {
    if (options[0] == kNothing) {
      options = options.subspan(1);
      continue;
    }
    if (options.size() < 2 || options[1] < 2 || options[1] > options.size()) return false;
    if (options[0] == kMaximumSegment) {
      if (options[1] != 4) return false;
      header.maximum_segment = load16(options, 2);
    }
    options = options.subspan(options[1]);
  }
  return true;
}

void write_ethernet(std::span<std::uint8_t> out, const MacAddress& from, const MacAddress& to,
                    std::uint16_t type) noexcept {
  store(out, 0, to);
  store(out, kEthernetSource, from);
  store16(out, kEthernetType, type);
}

/// RFC 791, 3.1: without options; not to be fragmented, so it needs no identification (RFC 6864).
void write_ipv4(std::span<std::uint8_t> out, const TcpEnd& from, const TcpEnd& to, std::size_t payload) noexcept {
  constexpr std::uint16_t kDontFragment = 0x4000;
  constexpr std::uint8_t kTimeToLive = 64;
  std::ranges::fill(out.first(kIpv4Header), std::uint8_t{0});
  out[0] = 4 << 4 | kIpv4Header / 4;
  store16(out, 2, static_cast<std::uint16_t>(kIpv4Header + payload));
  store16(out, 6, kDontFragment);
  out[8] = kTimeToLive;
  out[9] = kProtocolTcp;
  store(out, kIpv4Source, from.address);
  store(out, kIpv4Destination, to.address);
  store16(out, kIpv4Checksum, folded(add_up(out.first(kIpv4Header))));
}

/// Whether the type before `at` is that of a tag: of Linux's two (eth_type_vlan()), which it takes off alike.
bool is_tag_before(Bytes head, std::size_t at) noexcept {
  if (at > head.size()) return false;
  const std::uint16_t type = load16(head, at - 2);
  return type == kTypeTag || type == kTypeServiceTag;
}

}  // namespace

std::size_t network_header_at(Bytes head) noexcept {
  constexpr std::size_t kTag = 4;
  std::size_t at = kEthernetHeader;
  for (int tags = 0; tags < 2 && is_tag_before(head, at); ++tags) at += kTag;
  return at;
}

std::size_t addresses_end_at(Bytes head) noexcept {
  const std::size_t at = network_header_at(head);
  const bool is_arp = head.size() >= at && load16(head, at - 2) == kTypeArp;
  return at + (is_arp ? kArpFrameLength - kArpBody : kIpv4Header);
}

bool has_third_tag(Bytes head) noexcept { return is_tag_before(head, network_header_at(head)); }

bool frame_is_for(const Ipv4Address& address, Bytes head) noexcept {
  const std::size_t at = network_header_at(head);
  if (head.size() < at + kIpv4Header) return false;
  const Bytes body = head.subspan(at);
  switch (load16(head, at - 2)) {
    case kTypeIpv4:
      return load<4>(body, kIpv4Destination) == address;
    case kTypeArp:  // of whatever hardware: hosts do not look
      return body.size() >= kArpFrameLength - kArpBody && load<kArpAddresses.size()>(body, 2) == kArpAddresses &&
             load<4>(body, kArpTarget - kArpBody) == address;
    default:
      return false;
  }
}

std::optional<ArpRequest> read_arp_request(Bytes frame) noexcept {
  if (frame.size() < kArpFrameLength || load16(frame, kEthernetType) != kTypeArp ||
      load<kArpKinds.size()>(frame, kArpBody) != kArpKinds || load16(frame, kArpBody + kArpKinds.size()) != kArpRequest)
    return std::nullopt;
  return ArpRequest{.mac = load<6>(frame, kArpSenderMac), .address = load<4>(frame, kArpSender)};
}

std::optional<TcpSegment> read_tcp_segment(Bytes frame, TcpChecksum checksum) noexcept {
  if (frame.size() < kEthernetHeader + kIpv4Header || load16(frame, kEthernetType) != kTypeIpv4) return std::nullopt;
  Bytes packet = frame.subspan(kEthernetHeader);
  const std::size_t ipv4_length = (packet[0] & 0xFU) * 4U;
  const std::size_t total_length = load16(packet, 2);
  if (packet[0] >> 4 != 4 || ipv4_length < kIpv4Header || total_length < ipv4_length + kTcpHeader ||
      total_length > packet.size())
    return std::nullopt;
  packet = packet.first(total_length);  // a frame may be padded
  const Bytes ipv4 = packet.first(ipv4_length);
  if (folded(add_up(ipv4)) != 0 || ipv4[9] != kProtocolTcp) return std::nullopt;
  constexpr std::uint16_t kFragment = 0x3FFF;  // more of them, or an offset
  if ((load16(ipv4, 6) & kFragment) != 0) return std::nullopt;

  const Bytes tcp = packet.subspan(ipv4_length);
  const std::size_t tcp_length = (tcp[12] >> 4) * 4U;
  if (tcp_length < kTcpHeader || tcp_length > tcp.size()) return std::nullopt;
  if (checksum == TcpChecksum::Complete && tcp_checksum(ipv4, tcp) != 0) return std::nullopt;
  TcpSegment segment{
      .source = {.mac = load<6>(frame, kEthernetSource), .address = load<4>(ipv4, kIpv4Source), .port = load16(tcp, 0)},
      .destination_port = load16(tcp, 2),
      .header = {.sequence = load32(tcp, 4),
                 .acknowledgment = load32(tcp, 8),
                 .flags = tcp[13],
                 .window = load16(tcp, 14)},
      .payload = tcp.subspan(tcp_length)};
  if (!is_plausible_source(segment.source, load<4>(ipv4, kIpv4Destination)) ||
      !read_options(tcp.subspan(kTcpHeader, tcp_length - kTcpHeader), segment.header))
    return std::nullopt;
  return segment;
}

std::size_t write_arp_reply(std::span<std::uint8_t> out, const TcpEnd& from, const ArpRequest& to) noexcept {
  ensure(out.size() >= kArpFrameLength, "there is room for an ARP reply");
  write_ethernet(out, from.mac, to.mac, kTypeArp);
  store(out, kArpBody, kArpKinds);
  store16(out, kArpBody + kArpKinds.size(), kArpReply);
  store(out, kArpSenderMac, from.mac);
  store(out, kArpSender, from.address);
  store(out, kArpTargetMac, to.mac);
  store(out, kArpTarget, to.address);
  return kArpFrameLength;
}

std::size_t write_tcp_segment(std::span<std::uint8_t> out, const TcpEnd& from, const TcpEnd& to,
                              const TcpHeader& header, Bytes payload) noexcept {
  const std::size_t options = header.maximum_segment != 0 ? 4 : 0;
  const std::size_t tcp_length = kTcpHeader + options + payload.size();
  ensure(out.size() >= kEthernetHeader + kIpv4Header + tcp_length, "there is room for a segment");
  write_ethernet(out, from.mac, to.mac, kTypeIpv4);
  const auto ipv4 = out.subspan(kEthernetHeader, kIpv4Header);
  write_ipv4(ipv4, from, to, tcp_length);

  const auto tcp = out.subspan(kEthernetHeader + kIpv4Header, tcp_length);
  store16(tcp, 0, from.port);
  store16(tcp, 2, to.port);
  store32(tcp, 4, header.sequence);
  store32(tcp, 8, header.acknowledgment);
  tcp[12] = static_cast<std::uint8_t>((kTcpHeader + options) / 4 << 4);
  tcp[13] = header.flags;
  store16(tcp, 14, header.window);
  store32(tcp, kTcpChecksumAt, 0);  // and no urgent pointer
  if (options != 0) store32(tcp, kTcpHeader, 2U << 24 | 4U << 16 | header.maximum_segment);
  store(tcp, kTcpHeader + options, payload);
  store16(tcp, kTcpChecksumAt, tcp_checksum(ipv4, tcp));
  return kEthernetHeader + kIpv4Header + tcp_length;
}

}  // namespace mayfly
