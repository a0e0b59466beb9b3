#pragma once

#include "virtio/block/block_device.h"
#include "virtio/block/drive_layers.h"

#include <array>
#include <cstdint>
#include <memory>
#include <optional>

/// What a BlockDevice keeps of a request in flight. For its own sources.
namespace mayfly {

/// One request in flight.
struct BlockDevice::Slot final : Operation {
  explicit Slot(BlockDevice& owner_in) noexcept : owner(owner_in) {}
  void on_complete(int result, bool more) noexcept override;

  /// What is under way. All but Main are of a touch: a write of blocks that the overlay does not have yet.
  enum class Step : std::uint8_t {
    Main,       ///< What the guest asked for.
    ReadEdge,   ///< A block of which only a part is to be written, from the layer below,
    WriteEdge,  ///< and into the overlay.
    WriteMap,
  };

  BlockDevice& owner;
  Slot* next = nullptr;  // free, a flush that waits, or one who waits for a sync or a touch
  std::optional<Chain> chain;
  std::shared_ptr<Backing> backing;
  BlockRequest request;  // `data` and `offset` move on with what was transferred
  std::uint64_t transferred = 0;
  std::size_t range = 0;  // of request.range_count: at work
  RateLimiter::Payment payment{};
  unsigned retries = 0;
  bool buffered = false;  // a direct image refused the alignment
  bool syncing = false;   // a write-through drive's data is stored, and on its way to stable storage

  // Of a drive in layers
  Step step = Step::Main;
  bool touches = false;           // is in touching_
  std::size_t layer = 0;          // of a read: who has all that is left
  std::uint64_t shift = 0;        // from places in the drive to places in the file
  std::uint64_t touch_begin = 0;  // bytes of the drive
  std::uint64_t touch_end = 0;    // the same
  unsigned edge = 0;              // the first block, the last, none
  std::uint64_t edge_at = 0;      // the block's first byte
  std::uint64_t edge_done = 0;    // bytes of it
  iovec vector{};                 // of a step
  Slot* waiters = nullptr;        // touches that overlap this one

  std::array<BlockRange, kMaximumBlockRanges> ranges;  // filled as far as it is used
  VirtQueue::Storage segments;                         // the same
};

/// A read of several layers: all parts in one submission, straight to guest memory.
struct BlockDevice::Spread final {
  /// More follow when these are back.
  static constexpr std::size_t kParts = 16;
  struct Part final : Operation {
    void on_complete(int result, bool more) noexcept override;
    Spread* spread = nullptr;
    std::size_t layer = 0;
    std::uint64_t place = 0;
    std::span<iovec> data{};
    unsigned retries = 0;
  };

  explicit Spread(BlockDevice& owner_in) noexcept : owner(owner_in) {}
  BlockDevice& owner;
  Spread* next = nullptr;  // free
  Slot* slot = nullptr;
  std::size_t in_flight = 0;
  std::uint64_t length = 0;  // of all parts
  int error_number = 0;      // the first
  std::array<Part, kParts> parts;
  // Segments, some of them cut in two.
  std::array<iovec, VirtQueue::kMaximumSegments + kParts> vectors;
};

}  // namespace mayfly
