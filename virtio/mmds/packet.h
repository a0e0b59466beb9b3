#pragma once

#include "vmm/config/configuration.h"

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

/// Frames of the metadata service: Ethernet with ARP (RFC 826), or with TCP (RFC 9293) over IPv4 (RFC 791).
///
///   if (!frame_is_for(address, head)) return pass_on();
///   if (const auto request = read_arp_request(frame)) ... write_arp_reply(out, ...)
///   if (const auto segment = read_tcp_segment(frame, checksum)) ... write_tcp_segment(out, ...)
///
/// What is read is checked whole before anything of it is given. Pure; any thread.
namespace mayfly {

/// One end of a connection.
struct TcpEnd {
  MacAddress mac{};
  Ipv4Address address{};
  std::uint16_t port = 0;
};

/// Bits of a TCP header.
inline constexpr std::uint8_t kTcpFin = 1;
inline constexpr std::uint8_t kTcpSyn = 2;
inline constexpr std::uint8_t kTcpRst = 4;
inline constexpr std::uint8_t kTcpPsh = 8;
inline constexpr std::uint8_t kTcpAck = 16;

/// A TCP header but for its ports.
struct TcpHeader {
  std::uint32_t sequence = 0;
  std::uint32_t acknowledgment = 0;
  std::uint8_t flags = 0;
  std::uint16_t window = 0;
  std::uint16_t maximum_segment = 0;  ///< The option of that name; 0: absent.
};

struct TcpSegment {
  TcpEnd source;
  std::uint16_t destination_port = 0;
  TcpHeader header;
  std::span<const std::uint8_t> payload;

  [[nodiscard]] bool has(std::uint8_t flags) const noexcept { return (header.flags & flags) == flags; }
};

struct ArpRequest {
  MacAddress mac{};
  Ipv4Address address{};
};

/// Whether somebody filled a frame's TCP checksum in. A guest that leaves this to its device (VIRTIO_NET_F_CSUM) has
/// put something else there; such a frame comes from memory, where nothing is lost.
enum class TcpChecksum : std::uint8_t { Complete, LeftToUs };

/// Bytes from a frame's start that frame_is_for() looks at: an ARP frame with two tags.
inline constexpr std::size_t kFrameHeadLength = 50;
/// Ethernet, IPv4 and TCP headers, with all the options that they can have.
inline constexpr std::size_t kLongestHeaders = 14 + 60 + 60;
/// Ethernet, IPv4 and TCP headers as they are written here, the option of a SYN included.
inline constexpr std::size_t kWrittenHeaders = 14 + 20 + 20;
inline constexpr std::size_t kWrittenSynHeaders = kWrittenHeaders + 4;
inline constexpr std::size_t kArpFrameLength = 42;

/// Where the network header begins: behind the Ethernet header and, at most two, tags (IEEE 802.1Q, 802.1ad). Past the
/// end of a `head` that is shorter.
[[nodiscard]] std::size_t network_header_at(std::span<const std::uint8_t> head) noexcept;

/// Where what frame_is_for() looks at ends, at the latest: behind ARP's addresses, else behind IPv4's shortest header. No
/// checksum of a transport begins before.
[[nodiscard]] std::size_t addresses_end_at(std::span<const std::uint8_t> head) noexcept;

/// Whether a third tag follows. Linux takes off any number of tags that name no VLAN, so such a frame can be for
/// anybody, and must not leave the device where frame_is_for() has a say.
[[nodiscard]] bool has_third_tag(std::span<const std::uint8_t> head) noexcept;

/// Whether a frame that begins with `head` asks for `address` by ARP or goes there by IPv4: it must then not leave the
/// device, well-formed or not. It may have up to two tags; of more, has_third_tag() tells. `head` is all of the frame,
/// or its first kFrameHeadLength bytes.
[[nodiscard]] bool frame_is_for(const Ipv4Address& address, std::span<const std::uint8_t> head) noexcept;

/// nullopt: no ARP, or no request. Whose address is asked for is frame_is_for()'s.
[[nodiscard]] std::optional<ArpRequest> read_arp_request(std::span<const std::uint8_t> frame) noexcept;

/// The segment in a frame, whose payload lies in `frame`. nullopt: no TCP over IPv4; a length that lies; a checksum
/// that is wrong; a fragment; a source that nobody can answer to.
[[nodiscard]] std::optional<TcpSegment> read_tcp_segment(std::span<const std::uint8_t> frame,
                                                         TcpChecksum checksum) noexcept;

/// Writes a frame to the start of `out`, which has room for it, and gives its length.
std::size_t write_arp_reply(std::span<std::uint8_t> out, const TcpEnd& from, const ArpRequest& to) noexcept;
std::size_t write_tcp_segment(std::span<std::uint8_t> out, const TcpEnd& from, const TcpEnd& to,
                              const TcpHeader& header, std::span<const std::uint8_t> payload) noexcept;

}  // namespace mayfly
