#pragma once

#include "virtio/queue_state.h"
#include "vmm/memory/guest_memory.h"

#include <sys/uio.h>

#include <array>
#include <cstdint>
#include <expected>
#include <optional>
#include <span>
#include <string_view>
#include <utility>

/// The device's side of a split virtqueue (virtio 1.2, 2.7).
///
///   VirtQueue queue{memory, 256};
///   while (auto taken = queue.take(storage)) {            // loop's thread, under the device's lock
///     if (!*taken) break;                                 // nothing more: notifications are on again, see take()
///     serve((*taken)->readable(), (*taken)->writable());
///     queue.put(std::move(**taken), bytes_written);
///   }
///   if (queue.publish()) interrupt();                     // once a batch
///
/// Everything in the ring and in the descriptors is the guest's and may change at any time: each word is read once,
/// checked, and the copy used. Addresses become host addresses here and nowhere else.
namespace mayfly {

/// What a guest did that no driver may do: the device stops until it is reset (DEVICE_NEEDS_RESET).
struct QueueFault {
  std::string_view what;
};

/// A taken descriptor chain: the driver's buffers, as host memory. Given back with VirtQueue::put() (used), put_back()
/// (never seen) or abandon() (the queue is gone), exactly once: the destructor checks it.
class Chain {
 public:
  Chain(std::uint16_t head, std::span<const iovec> segments, std::size_t readable_count, std::uint64_t readable_length,
        std::uint64_t writable_length) noexcept
      : head_(head),
        owned_(true),
        segments_(segments),
        readable_count_(readable_count),
        readable_length_(readable_length),
        writable_length_(writable_length) {}
  Chain(Chain&& other) noexcept { *this = std::move(other); }
  Chain& operator=(Chain&& other) noexcept {
    ensure(!owned_, "a descriptor chain was dropped");
    head_ = other.head_;
    owned_ = std::exchange(other.owned_, false);
    segments_ = other.segments_;
    readable_count_ = other.readable_count_;
    readable_length_ = other.readable_length_;
    writable_length_ = other.writable_length_;
    return *this;
  }
  Chain(const Chain&) = delete;
  Chain& operator=(const Chain&) = delete;
  ~Chain() { ensure(!owned_, "a descriptor chain was dropped"); }

  /// The head descriptor's index: the chain's name in the used ring.
  [[nodiscard]] std::uint16_t head() const noexcept { return head_; }
  /// Buffers that the device reads, then those that it writes; in the driver's order, none of them empty. They lie in
  /// the storage that take() was given.
  [[nodiscard]] std::span<const iovec> readable() const noexcept { return segments_.first(readable_count_); }
  [[nodiscard]] std::span<const iovec> writable() const noexcept { return segments_.subspan(readable_count_); }
  [[nodiscard]] std::uint64_t readable_length() const noexcept { return readable_length_; }  ///< Bytes.
  [[nodiscard]] std::uint64_t writable_length() const noexcept { return writable_length_; }  ///< Bytes.
  /// For a queue that was reset: its chains mean nothing any more.
  void abandon() && noexcept { owned_ = false; }

 private:
  friend class VirtQueue;
  std::uint16_t head_ = 0;
  bool owned_ = false;
  std::span<const iovec> segments_;
  std::size_t readable_count_ = 0;
  std::uint64_t readable_length_ = 0;
  std::uint64_t writable_length_ = 0;
};

/// One queue. Members are called under the device's lock; the data path (take, put_back, put, publish) on one thread.
class VirtQueue {
 public:
  /// Longest chain that is served, in segments: seg_max of a drive, and headroom for any frame.
  static constexpr std::size_t kMaximumSegments = 256;
  using Storage = std::array<iovec, kMaximumSegments>;

  /// `maximum_size`: entries, a power of two of at most 32768. The memory outlives the queue.
  VirtQueue(const GuestMemory& memory, std::uint16_t maximum_size) noexcept;

  [[nodiscard]] std::uint16_t maximum_size() const noexcept { return maximum_size_; }
  [[nodiscard]] bool ready() const noexcept { return state_.ready; }

  /// The registers' part of the state: size and the three addresses are taken as they are given. Not while ready.
  [[nodiscard]] QueueState& registers() noexcept { return state_; }
  /// Checks size, alignment and that all three parts lie in RAM, and starts the queue at index 0 of its rings.
  [[nodiscard]] std::expected<void, QueueFault> enable(bool event_index) noexcept;
  /// As made: not ready, addresses 0.
  void reset() noexcept;

  /// The next chain that the driver offers, its segments in `storage`, which must live as long as the chain. Without
  /// one, asks to be notified of the next (and looks once more, as 2.7.10 wants) unless it is polled, and returns
  /// nullopt.
  /// A fault is sticky: the queue gives nothing more until it is reset.
  [[nodiscard]] std::expected<std::optional<Chain>, QueueFault> take(std::span<iovec> storage) noexcept;
  /// A chain that was taken and not put before the queue's state was saved: `head` is the chain's name then. Faults as
  /// take().
  [[nodiscard]] std::expected<Chain, QueueFault> retake(std::uint16_t head, std::span<iovec> storage) noexcept;
  /// Gives back the chain that was taken last, as if it had not been taken.
  void put_back(Chain chain) noexcept;
  /// While a queue is polled, drivers with EVENT_IDX are not asked for kicks. Ending it asks; look at has_more() then.
  void set_polled(bool polled) noexcept;
  /// The same, where the device has no use for more chains for the time being; independent of polling.
  void set_notifications_off(bool notifications_off) noexcept;
  /// How many chains were taken since the queue was enabled, modulo 2^16.
  [[nodiscard]] std::uint16_t taken() const noexcept { return state_.next_available; }
  /// Whether the driver offers something that has not been taken.
  [[nodiscard]] bool has_more() const noexcept;

  /// Returns a chain to the driver, of whose writable part the device filled the first `written` bytes. The driver
  /// sees it at the next publish().
  void put(Chain chain, std::uint32_t written) noexcept;
  /// Shows the driver all that was put; true where it wants an interrupt for that (2.7.7).
  [[nodiscard]] bool publish() noexcept;

  [[nodiscard]] QueueState state() const noexcept { return state_; }
  /// Takes a saved queue over. Faults as enable(), where it is ready.
  [[nodiscard]] std::expected<void, QueueFault> restore(const QueueState& state) noexcept;

 private:
  [[nodiscard]] std::expected<void, QueueFault> map() noexcept;
  [[nodiscard]] std::uint16_t available_index() const noexcept;
  void request_notification() noexcept;
  /// For diff snapshots: the device may write there. A device may have moved the vectors' begins by when it puts the
  /// chain, and a snapshot may be taken between taking and putting it: so both are noted.
  void note_writable(const Chain& chain) const noexcept;
  [[nodiscard]] std::unexpected<QueueFault> fault(std::string_view what) noexcept;
  [[nodiscard]] std::expected<Chain, QueueFault> chain_at(std::uint16_t head, std::span<iovec> storage) noexcept;
  struct Walk;
  [[nodiscard]] std::string_view walk(std::uint16_t head, Walk& walk) const noexcept;
  [[nodiscard]] std::string_view add(Walk& walk, GuestAddress at, std::uint32_t length, bool writable) const noexcept;
  [[nodiscard]] std::string_view walk_table(std::span<std::byte> table, std::uint16_t first, Walk& walk,
                                            bool indirect) const noexcept;

  const GuestMemory& memory_;
  std::uint16_t maximum_size_;
  QueueState state_;
  bool faulty_ = false;
  bool polled_ = false;
  bool notifications_off_ = false;
  // Host addresses of the three parts while ready: regions do not move.
  std::byte* descriptors_ = nullptr;
  std::byte* available_ = nullptr;
  std::byte* used_ = nullptr;
};

}  // namespace mayfly
