#pragma once

#include <cstdint>

/// Numbers and checksums of Ethernet, IPv4 and TCP, as they are on the wire (RFC 791, RFC 793, RFC 1071).
namespace guest {

inline constexpr std::uint32_t kEthernetBytes = 14;
inline constexpr std::uint32_t kIpBytes = 20;   ///< Without options.
inline constexpr std::uint32_t kTcpBytes = 20;  ///< Without options.

inline constexpr std::uint8_t kTcpFin = 0x01;
inline constexpr std::uint8_t kTcpSyn = 0x02;
inline constexpr std::uint8_t kTcpReset = 0x04;
inline constexpr std::uint8_t kTcpPush = 0x08;
inline constexpr std::uint8_t kTcpAck = 0x10;

inline std::uint32_t get16(const std::uint8_t* at) { return std::uint32_t{at[0]} << 8 | at[1]; }
inline std::uint32_t get32(const std::uint8_t* at) { return get16(at) << 16 | get16(at + 2); }
inline void put16(std::uint8_t* at, std::uint32_t value) {
  at[0] = static_cast<std::uint8_t>(value >> 8);
  at[1] = static_cast<std::uint8_t>(value);
}
inline void put32(std::uint8_t* at, std::uint32_t value) {
  put16(at, value >> 16);
  put16(at + 2, value);
}

/// The sum that a checksum is made of; sums of even parts may be added.
inline std::uint32_t sum_of(const std::uint8_t* bytes, std::uint32_t length) {
  std::uint32_t sum = 0;
  for (std::uint32_t i = 0; i + 1 < length; i += 2) sum += get16(bytes + i);
  return length % 2 == 0 ? sum : sum + (std::uint32_t{bytes[length - 1]} << 8);
}
/// The checksum of a sum; 0 where that had a right one in it.
inline std::uint32_t folded(std::uint32_t sum) {
  while (sum > 0xFFFF) sum = (sum & 0xFFFF) + (sum >> 16);
  return ~sum & 0xFFFF;
}

}  // namespace guest
