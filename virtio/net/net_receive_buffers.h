#pragma once

#include "virtio/net/net_header.h"
#include "virtio/queue.h"

#include <array>
#include <cstddef>
#include <cstdint>
#include <expected>
#include <memory>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

/// The driver's receive buffers that were taken from the queue and not used yet, laid out as windows to read into.
///
///   auto windows = buffers.arrange(queue, 4, mergeable);     // four reads side by side, as far as buffers go
///   ... read each into (*windows)[i].vectors ...
///   buffers.use((*windows)[0], queue, bytes);                // those that were filled go back, the others stay
///
/// Unused ones stay: a frame's length is known only after its read, so each read has buffers for the longest frame, and
/// most frames need a few of them. The rest serves the next reads, in the driver's order.
namespace mayfly {

/// Room for one frame and its header: whole chains, one after the other.
struct ReceiveWindow {
  /// The chains' segments, and behind them memory of ours: a frame that reaches it was too long for the window, which a
  /// TAP says in no other way. It is one byte, or NetReceiveBuffers::spill() where the window is narrow.
  std::span<iovec> vectors{};
  std::uint64_t capacity = 0;  ///< Bytes of the chains.
  std::size_t first = 0;       ///< Its first chain's position.
  bool narrow = false;         ///< Of mergeable buffers, and shorter than the longest frame.
  /// The driver's buffers alone.
  [[nodiscard]] std::span<const iovec> buffers() const noexcept { return vectors.first(vectors.size() - 1); }
};

/// Under the device's lock. Allocates only when made; memory that is not used is not touched.
class NetReceiveBuffers {
 public:
  static constexpr std::size_t kMaximumWindows = 16;
  /// A window that holds every frame (virtio 1.2, 5.1.6.3.1).
  static constexpr std::uint64_t kFullWindow = kMaximumFrameLength + sizeof(NetHeader);
  /// One that holds a frame of usual length, with a VLAN tag: a buffer of most drivers, where a full one has 44 of them,
  /// each of which costs the monitor and the kernel something at each read.
  static constexpr std::uint64_t kShortWindow = 1518 + sizeof(NetHeader);
  /// Chains that are held at once: a queue's worth.
  static constexpr std::size_t kMaximumChains = 256;

  NetReceiveBuffers() = default;
  NetReceiveBuffers(const NetReceiveBuffers&) = delete;
  NetReceiveBuffers& operator=(const NetReceiveBuffers&) = delete;
  ~NetReceiveBuffers() { abandon(); }

  /// Lays out what is held, and takes from the queue until there are `wanted` windows or nothing is offered any more.
  /// What it costs depends on the windows, not on how much is held. With `mergeable` buffers a window has as many
  /// chains as every frame fits in; one that is shorter is given only if there is no other. Without, each chain is a
  /// window. No windows: the driver has offered nothing. Nothing may be reading into earlier windows. Faults: what no
  /// driver may offer here. `room`: kFullWindow; or kShortWindow for a single window, which is narrow then.
  [[nodiscard]] std::expected<std::span<const ReceiveWindow>, QueueFault> arrange(
      VirtQueue& queue, std::size_t wanted, bool mergeable, std::uint64_t room = kFullWindow) noexcept;
  /// What of a frame did not fit a narrow window: it is whole once there are more buffers.
  [[nodiscard]] std::span<const std::byte> spill() const noexcept { return {spill_.get(), kFullWindow}; }
  /// How many chains of the window hold `length` bytes.
  [[nodiscard]] std::size_t chains_for(const ReceiveWindow& window, std::uint64_t length) const noexcept;
  /// Puts the window's first chains, which hold `length` bytes.
  void use(const ReceiveWindow& window, VirtQueue& queue, std::uint64_t length) noexcept;

  /// The heads of what is held, in order: for snapshots. Nothing may be reading.
  [[nodiscard]] std::vector<std::uint16_t> heads() const;
  /// Holds the chains of these heads again, from the next arrange() on.
  void restore(std::vector<std::uint16_t> heads);
  /// The queue was reset: its chains mean nothing any more.
  void abandon() noexcept;

 private:
  /// Places for chains: twice what a driver can have offered, as used ones leave holes until all before them are used.
  static constexpr std::size_t kRecords = 2 * kMaximumChains;
  /// Segments of all chains. More are not needed: a frame of 64 KiB in buffers of half a page has 32; and one read may
  /// have 1024 (UIO_MAXIOV).
  static constexpr std::size_t kSegments = 1000;
  struct ChainRecord {
    std::optional<Chain> chain;  // empty: used
    std::size_t segments = 0;    // where its segments begin
  };
  class Builder;

  [[nodiscard]] ChainRecord& record(std::size_t position) const noexcept { return records_[position % kRecords]; }
  void forget_used() noexcept;
  /// Where the next chain's segments may lie; empty: there is no room.
  [[nodiscard]] std::span<iovec> storage() noexcept;
  [[nodiscard]] std::expected<bool, QueueFault> take_one(VirtQueue& queue) noexcept;
  [[nodiscard]] std::string_view fault_of(const Chain& chain, const VirtQueue& queue) const noexcept;

  // Two rings: chains, at positions from begin_ to end_, which count on for ever; and their segments.
  std::unique_ptr<ChainRecord[]> records_ = std::make_unique<ChainRecord[]>(kRecords);
  std::size_t begin_ = 0;
  std::size_t end_ = 0;
  std::size_t held_ = 0;  // of those positions, the ones that are not used
  std::unique_ptr<iovec[]> segments_ = std::make_unique_for_overwrite<iovec[]>(kSegments);
  std::size_t segments_end_ = 0;
  // Of the windows: segments, and one vector each for spill_ or overflow_.
  std::unique_ptr<iovec[]> vectors_ = std::make_unique_for_overwrite<iovec[]>(kSegments + kMaximumWindows);
  std::array<ReceiveWindow, kMaximumWindows> windows_{};
  std::vector<std::uint16_t> restored_;
  std::byte overflow_{};  // the last byte of each window; reads may write to it, nothing reads it
  std::unique_ptr<std::byte[]> spill_ = std::make_unique_for_overwrite<std::byte[]>(kFullWindow);
};

}  // namespace mayfly
