#pragma once

#include <cstdint>

/// The network device's structures, features and flags (virtio 1.2, 5.1; segmentation of UDP: 1.3), for C++:
/// <linux/virtio_net.h> is not valid C++, and may be too old.
namespace mayfly::net_abi {

/// Bits of the features (5.1.3).
enum Feature : unsigned {
  kCsum = 0,        ///< VIRTIO_NET_F_CSUM: the device fills checksums in.
  kGuestCsum = 1,   ///< VIRTIO_NET_F_GUEST_CSUM: the driver takes frames whose checksum is not filled in.
  kMtu = 3,         ///< VIRTIO_NET_F_MTU
  kMac = 5,         ///< VIRTIO_NET_F_MAC
  kGuestTso4 = 7,   ///< VIRTIO_NET_F_GUEST_TSO4: the driver takes unsegmented TCP over IPv4...
  kGuestTso6 = 8,   ///< VIRTIO_NET_F_GUEST_TSO6
  kGuestEcn = 9,    ///< VIRTIO_NET_F_GUEST_ECN
  kHostTso4 = 11,   ///< VIRTIO_NET_F_HOST_TSO4: the device segments TCP over IPv4...
  kHostTso6 = 12,   ///< VIRTIO_NET_F_HOST_TSO6
  kHostEcn = 13,    ///< VIRTIO_NET_F_HOST_ECN
  kMergeable = 15,  ///< VIRTIO_NET_F_MRG_RXBUF: a frame may fill several receive buffers.
  kStatus = 16,     ///< VIRTIO_NET_F_STATUS
  kGuestUso4 = 54,  ///< VIRTIO_NET_F_GUEST_USO4
  kGuestUso6 = 55,  ///< VIRTIO_NET_F_GUEST_USO6
  kHostUso = 56,    ///< VIRTIO_NET_F_HOST_USO
};
constexpr std::uint64_t bit(Feature feature) noexcept { return 1ULL << feature; }

/// 5.1.4: what the features above make valid.
struct Config {
  std::uint8_t mac[6];
  std::uint16_t status;
  std::uint16_t max_virtqueue_pairs;
  std::uint16_t mtu;
};
static_assert(sizeof(Config) == 12);
inline constexpr std::uint16_t kLinkUp = 1;  ///< VIRTIO_NET_S_LINK_UP, in Config::status.

/// 5.1.6: before every frame; little-endian. A TAP speaks the same once TUNSETVNETHDRSZ has said so.
struct Header {
  std::uint8_t flags = 0;
  std::uint8_t gso_type = 0;
  std::uint16_t hdr_len = 0;      ///< Bytes of all headers of the frame; a hint.
  std::uint16_t gso_size = 0;     ///< Bytes of a segment's payload.
  std::uint16_t csum_start = 0;   ///< From where in the frame the checksum is taken,
  std::uint16_t csum_offset = 0;  ///< and where from there it goes.
  std::uint16_t num_buffers = 0;  ///< Receive buffers that the frame fills.
};
static_assert(sizeof(Header) == 12);

// Header::flags
inline constexpr std::uint8_t kNeedsCsum = 1;  ///< VIRTIO_NET_HDR_F_NEEDS_CSUM
inline constexpr std::uint8_t kDataValid = 2;  ///< VIRTIO_NET_HDR_F_DATA_VALID
inline constexpr std::uint8_t kRscInfo = 4;    ///< VIRTIO_NET_HDR_F_RSC_INFO

// Header::gso_type
inline constexpr std::uint8_t kGsoNone = 0;         ///< VIRTIO_NET_HDR_GSO_NONE
inline constexpr std::uint8_t kGsoTcp4 = 1;         ///< VIRTIO_NET_HDR_GSO_TCPV4
inline constexpr std::uint8_t kGsoTcp6 = 4;         ///< VIRTIO_NET_HDR_GSO_TCPV6
inline constexpr std::uint8_t kGsoUdpSegments = 5;  ///< VIRTIO_NET_HDR_GSO_UDP_L4
inline constexpr std::uint8_t kGsoEcn = 0x80;       ///< VIRTIO_NET_HDR_GSO_ECN: a bit beside those of TCP.

}  // namespace mayfly::net_abi
