#pragma once

#include "virtio/net/net_abi.h"

#include <cstdint>
#include <expected>
#include <string_view>

/// The header before every frame (virtio 1.2, 5.1.6): what a guest may say in it, checked before the host's kernel
/// acts on it.
///
///   NetHeader raw = ...;                                        // copied once from guest memory
///   auto checked = check_net_header(raw, frame_length, features);
///   if (!checked) return drop(checked.error());
///   send(*checked, frame);                                      // the copy goes out, never the guest's own
///
/// Pure; any thread.
namespace mayfly {

using NetHeader = net_abi::Header;

/// Without a VLAN tag or a checksum.
inline constexpr std::uint64_t kEthernetHeaderLength = 14;
inline constexpr std::uint64_t kMinimumFrameLength = kEthernetHeaderLength;
/// 5.1.6.3.1: the largest IP packet and its Ethernet header, rounded up to an even number.
inline constexpr std::uint64_t kMaximumFrameLength = 65'550;

/// The header to send with a frame of `frame_length` bytes (header excluded) by a driver that has accepted `features`;
/// or what is wrong with it, in words that follow "a frame with". What means nothing in this frame comes out as zero.
[[nodiscard]] std::expected<NetHeader, std::string_view> check_net_header(const NetHeader& header,
                                                                          std::uint64_t frame_length,
                                                                          std::uint64_t features) noexcept;

/// Whether a driver that has accepted `features` understands a frame that the host gives with these `flags` and
/// `gso_type`. A TAP may hold frames that were made for the driver before this one.
[[nodiscard]] bool driver_understands(std::uint8_t flags, std::uint8_t gso_type, std::uint64_t features) noexcept;

}  // namespace mayfly
