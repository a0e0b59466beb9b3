#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

/// The headers of a long TCP segment whose cutting and checksums are somebody else's work: what a host that segments
/// (TSO) is given. Used on both sides of a TAP; the addresses are nobody's.
namespace guest {

inline constexpr std::size_t kVirtioHeader = 12;  ///< virtio_net_hdr_v1; a packet socket's is 10, without num_buffers
inline constexpr std::size_t kTcpHeaders = 14 + 20 + 20;

/// The virtio header, and Ethernet, IPv4 and TCP headers behind it, of a frame of `length` bytes (up to 65,535; the
/// virtio header excluded), to be cut to segments of `segment` bytes.
constexpr std::array<std::uint8_t, kVirtioHeader + kTcpHeaders> tcp_frame_headers(std::size_t length,
                                                                                  std::size_t segment) {
  std::array<std::uint8_t, kVirtioHeader + kTcpHeaders> bytes{};
  const auto little = [&bytes](std::size_t at, std::size_t value) {
    bytes[at] = static_cast<std::uint8_t>(value);
    bytes[at + 1] = static_cast<std::uint8_t>(value >> 8);
  };
  const auto big = [&bytes](std::size_t at, std::size_t value) {
    bytes[at] = static_cast<std::uint8_t>(value >> 8);
    bytes[at + 1] = static_cast<std::uint8_t>(value);
  };
  bytes[0] = 1;  // VIRTIO_NET_HDR_F_NEEDS_CSUM
  bytes[1] = 1;  // VIRTIO_NET_HDR_GSO_TCPV4
  little(2, kTcpHeaders);
  little(4, segment);
  little(6, 14 + 20);  // the checksum begins at TCP's header
  little(8, 16);
  constexpr std::size_t kEthernet = kVirtioHeader;
  bytes[kEthernet] = bytes[kEthernet + 6] = 0x06;  // locally administered
  bytes[kEthernet + 5] = 1;
  bytes[kEthernet + 11] = 2;
  big(kEthernet + 12, 0x0800);
  constexpr std::size_t kIp = kEthernet + 14;
  bytes[kIp] = 0x45;
  big(kIp + 2, length - 14);
  bytes[kIp + 8] = 64;  // hops
  bytes[kIp + 9] = 6;   // TCP
  bytes[kIp + 12] = bytes[kIp + 16] = 10;
  bytes[kIp + 15] = 2;
  bytes[kIp + 19] = 1;
  std::size_t sum = 0;
  for (std::size_t i = 0; i < 20; i += 2) sum += std::size_t{bytes[kIp + i]} << 8 | bytes[kIp + i + 1];
  while (sum > 0xFFFF) sum = (sum & 0xFFFF) + (sum >> 16);
  big(kIp + 10, ~sum & 0xFFFF);
  constexpr std::size_t kTcp = kIp + 20;
  big(kTcp, 5001);
  big(kTcp + 2, 5001);
  bytes[kTcp + 12] = 5 << 4;
  bytes[kTcp + 13] = 0x10;  // ACK
  return bytes;
}

}  // namespace guest
