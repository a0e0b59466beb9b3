#include "virtio/net/net_header.h"

namespace mayfly {
namespace {

using net_abi::bit;

/// Where the checksum lies in the transport's header (RFC 793, RFC 768).
constexpr std::uint16_t kTcpChecksumOffset = 16;
constexpr std::uint16_t kUdpChecksumOffset = 6;
/// The kernel's own mark in a segment size (GSO_BY_FRAGS): not a size.
constexpr std::uint16_t kReservedSegmentSize = 0xFFFF;

/// A type of segmentation, and the features that let each direction use it.
struct Segmentation {
  std::uint64_t to_host;
  std::uint64_t to_guest;
  std::uint16_t checksum_offset;
  std::uint8_t type;
  bool may_have_ecn;
};
constexpr Segmentation kSegmentations[] = {
    {bit(net_abi::kHostTso4), bit(net_abi::kGuestTso4), kTcpChecksumOffset, net_abi::kGsoTcp4, true},
    {bit(net_abi::kHostTso6), bit(net_abi::kGuestTso6), kTcpChecksumOffset, net_abi::kGsoTcp6, true},
    {bit(net_abi::kHostUso), bit(net_abi::kGuestUso4) | bit(net_abi::kGuestUso6), kUdpChecksumOffset,
     net_abi::kGsoUdpSegments, false},
};

const Segmentation* segmentation(std::uint8_t gso_type) noexcept {
  for (const Segmentation& known : kSegmentations)
    if (known.type == (gso_type & ~net_abi::kGsoEcn)) return &known;
  return nullptr;
}

/// 5.1.6.2: NEEDS_CSUM and its two fields; empty, or what is wrong.
std::string_view checksum_fault(const NetHeader& header, std::uint64_t frame_length, std::uint64_t features) noexcept {
  if ((features & bit(net_abi::kCsum)) == 0) return "a checksum to fill in, which was not negotiated";
  if (header.csum_start < kEthernetHeaderLength) return "a checksum that begins in the Ethernet header";
  if (std::uint64_t{header.csum_start} + header.csum_offset + sizeof(std::uint16_t) > frame_length)
    return "a checksum beyond its end";
  return {};
}

/// 5.1.6.2: gso_type and what belongs to it; empty, or what is wrong.
std::string_view segmentation_fault(const NetHeader& header, std::uint64_t frame_length,
                                    std::uint64_t features) noexcept {
  const Segmentation* const known = segmentation(header.gso_type);
  if (known == nullptr) return "an unknown type of segmentation";
  if ((features & known->to_host) == 0) return "a type of segmentation that was not negotiated";
  if ((header.gso_type & net_abi::kGsoEcn) != 0 && (!known->may_have_ecn || (features & bit(net_abi::kHostEcn)) == 0))
    return "ECN where it was not negotiated";
  if (header.gso_size == 0 || header.gso_size == kReservedSegmentSize) return "segments of no size";
  // A MUST for drivers; without it the kernel would have to guess where the transport's header is.
  if ((header.flags & net_abi::kNeedsCsum) == 0) return "segments without a checksum to fill in";
  if (header.csum_offset != known->checksum_offset) return "a checksum that is not where its transport has it";
  if (header.hdr_len != 0 && (header.hdr_len < kEthernetHeaderLength || header.hdr_len > frame_length))
    return "headers beyond its end";
  return {};
}

}  // namespace

std::expected<NetHeader, std::string_view> check_net_header(const NetHeader& header, std::uint64_t frame_length,
                                                            std::uint64_t features) noexcept {
  if (frame_length < kMinimumFrameLength) return std::unexpected("no room for an Ethernet header");
  if (frame_length > kMaximumFrameLength) return std::unexpected("more bytes than any packet has");
  if ((header.flags & (net_abi::kDataValid | net_abi::kRscInfo)) != 0)
    return std::unexpected("flags that only a device may set");
  NetHeader checked{};  // 5.1.6.2.2: flags that nobody knows are ignored, and so is num_buffers
  if ((header.flags & net_abi::kNeedsCsum) != 0) {
    if (const auto wrong = checksum_fault(header, frame_length, features); !wrong.empty())
      return std::unexpected(wrong);
    checked.flags = net_abi::kNeedsCsum;
    checked.csum_start = header.csum_start;
    checked.csum_offset = header.csum_offset;
  }
  if (header.gso_type != net_abi::kGsoNone) {
    if (const auto wrong = segmentation_fault(header, frame_length, features); !wrong.empty())
      return std::unexpected(wrong);
    checked.gso_type = header.gso_type;
    checked.gso_size = header.gso_size;
    checked.hdr_len = header.hdr_len;
  }
  return checked;
}

bool driver_understands(std::uint8_t flags, std::uint8_t gso_type, std::uint64_t features) noexcept {
  // 5.1.6.4.1: without GUEST_CSUM every checksum is complete.
  if ((flags & net_abi::kNeedsCsum) != 0 && (features & bit(net_abi::kGuestCsum)) == 0) return false;
  if (gso_type == net_abi::kGsoNone) return true;
  const Segmentation* const known = segmentation(gso_type);
  if (known == nullptr || (features & known->to_guest) == 0) return false;
  return (gso_type & net_abi::kGsoEcn) == 0 || (features & bit(net_abi::kGuestEcn)) != 0;
}

}  // namespace mayfly
