#pragma once

#include "vmm/memory/guest_address.h"

#include <cstdint>

namespace mayfly {

/// A queue as a snapshot keeps it, and as the transport's registers set it up.
struct QueueState {
  std::uint16_t size = 0;  ///< QueueNum: entries, a power of two.
  bool ready = false;      ///< QueueReady
  GuestAddress descriptors{};
  GuestAddress available{};
  GuestAddress used{};
  std::uint16_t next_available = 0;  ///< Of the available ring, the index to take next.
  std::uint16_t next_used = 0;       ///< Of the used ring, the index to fill next: our copy of used.idx.
  std::uint16_t signalled_used = 0;  ///< next_used when the driver was last interrupted or found not to want it.
  bool event_index = false;          ///< VIRTIO_F_EVENT_IDX was negotiated.
  friend bool operator==(const QueueState&, const QueueState&) = default;
};

}  // namespace mayfly
