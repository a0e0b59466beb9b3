#pragma once

#include <cstdint>

/// The split virtqueue's structures and flags (virtio 1.2, 2.7), for C++: <linux/virtio_ring.h> is not valid C++.
namespace mayfly::ring_abi {

inline constexpr unsigned kIndirectDescriptors = 28;  ///< VIRTIO_F_INDIRECT_DESC, bit of the features.
inline constexpr unsigned kEventIndex = 29;           ///< VIRTIO_F_EVENT_IDX

inline constexpr std::uint16_t kNext = 1;      ///< VIRTQ_DESC_F_NEXT
inline constexpr std::uint16_t kWrite = 2;     ///< VIRTQ_DESC_F_WRITE: the device writes.
inline constexpr std::uint16_t kIndirect = 4;  ///< VIRTQ_DESC_F_INDIRECT

inline constexpr std::uint16_t kNoInterrupt = 1;  ///< VIRTQ_AVAIL_F_NO_INTERRUPT

/// 2.7.5
struct Descriptor {
  std::uint64_t address;
  std::uint32_t length;
  std::uint16_t flags;
  std::uint16_t next;
};
static_assert(sizeof(Descriptor) == 16);

/// 2.7.8
struct UsedElement {
  std::uint32_t id;
  std::uint32_t length;
};
static_assert(sizeof(UsedElement) == 8);

/// 2.7.7.2: whether moving an index from `before` to `now` passes the one that the other side waits for.
constexpr bool passes(std::uint16_t event, std::uint16_t now, std::uint16_t before) noexcept {
  return static_cast<std::uint16_t>(now - event - 1) < static_cast<std::uint16_t>(now - before);
}

}  // namespace mayfly::ring_abi
