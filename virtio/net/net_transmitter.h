#pragma once

#include "virtio/net/net_context.h"
#include "virtio/net/net_receiver.h"
#include "virtio/slot_pool.h"

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>

/// Frames from the guest to the host.
///
/// Each chain is one write, from the guest's memory; all that one kick brings go to the kernel together. The header is
/// copied, checked, and the copy is sent, so that a guest cannot change what was checked. The frame itself is read by
/// the kernel alone, once; with a check of the source address, or with a responder, its beginning is copied and sent as
/// a copy, too. A frame that the responder claims is copied for it, and done with.
namespace mayfly {

/// Under the device's lock, but for what the ring and timers call, which take it.
class NetTransmitter {
 public:
  /// Frames in flight. They are as good as always done when the kernel has seen them, so this is how many go with one
  /// system call.
  static constexpr std::size_t kSlots = 64;

  /// `receiver` is told when the responder has been given frames.
  NetTransmitter(NetContext& context, NetReceiver& receiver, const std::optional<MacAddress>& only_source);
  NetTransmitter(const NetTransmitter&) = delete;
  NetTransmitter& operator=(const NetTransmitter&) = delete;
  ~NetTransmitter();

  /// The device's lock.
  [[nodiscard]] Mutex& lock() const noexcept RETURN_CAPABILITY(context_.lock()) { return context_.lock(); }
  /// For clang: its caller has the lock by another name.
  void has_lock() const noexcept ASSERT_CAPABILITY(lock()) {}

  /// Makes the limiter, and room for frames. Once, before anything else.
  [[nodiscard]] Status prepare(const std::optional<RateLimiterConfig>& limit);
  void activate(VirtQueue& queue) noexcept REQUIRES(lock()) { queue_ = &queue; }
  /// Nothing is in flight.
  void reset() noexcept REQUIRES(lock()) {
    queue_ = nullptr;
    starved_ = throttled_ = claimed_ = false;
  }

  /// Sends what is offered, as far as slots and the limiter allow; at any time.
  void process_queue() noexcept REQUIRES(lock());
  /// Gives up what waits for room in the TAP.
  void cancel() noexcept REQUIRES(lock());

  [[nodiscard]] RateLimiter& limiter() noexcept REQUIRES(lock()) { return *limiter_; }

 private:
  /// One frame on its way.
  struct Slot final : Operation {
    explicit Slot(NetTransmitter& owner_in) noexcept : owner(owner_in) {}
    void on_complete(int result, bool more) noexcept override;
    NetTransmitter& owner;
    Slot* next = nullptr;  // the pool's
    std::optional<Chain> chain{};
    NetHeader header{};                                 // the checked copy
    std::array<std::uint8_t, kFrameHeadLength> head{};  // the same, where the frame is looked at
    std::span<const iovec> out{};
    std::uint64_t frame_length = 0;
    bool waits_for_room = false;
  };
  enum class Verdict { Send, Malformed, Spoofed, Claimed };

  void take_offered() noexcept REQUIRES(lock());
  [[nodiscard]] bool take_one(Slot& slot) noexcept REQUIRES(lock());
  [[nodiscard]] Verdict check(Slot& slot, std::span<iovec> vectors) noexcept REQUIRES(lock());
  /// What the frame's beginning says; `head` is the copy of it.
  [[nodiscard]] Verdict judge(std::span<const std::uint8_t> head) noexcept REQUIRES(lock());
  /// Gives the responder its frame: the copied beginning, and what is left in the driver's buffers.
  void hand_over(const Slot& slot, std::size_t head_length, std::span<const iovec> rest) noexcept REQUIRES(lock());
  [[nodiscard]] Verdict malformed(std::string_view what) noexcept REQUIRES(lock());
  void send(Slot& slot) noexcept REQUIRES(lock());
  void drop(Slot& slot) noexcept REQUIRES(lock());
  void on_written(Slot& slot, int result) noexcept REQUIRES(lock());
  /// Our copies' vectors and a chain's segments behind them.
  [[nodiscard]] std::span<iovec> vectors_of(const Slot& slot) noexcept REQUIRES(lock());

  NetContext& context_;
  NetReceiver& receiver_;
  std::optional<MacAddress> only_source_;
  VirtQueue* queue_ GUARDED_BY(lock()) = nullptr;
  std::unique_ptr<RateLimiter> limiter_ GUARDED_BY(lock());
  SlotPool<Slot, kSlots> slots_ GUARDED_BY(lock());
  std::unique_ptr<iovec[]> vectors_;           // apart from the slots: what is not used is not touched
  bool starved_ GUARDED_BY(lock()) = false;    // chains wait for a slot
  bool throttled_ GUARDED_BY(lock()) = false;  // until the limiter calls
  bool claimed_ GUARDED_BY(lock()) = false;    // the responder has been given frames
  std::unique_ptr<std::uint8_t[]> long_frame_ GUARDED_BY(lock());  // of kLongestEver, from the first one on
};

}  // namespace mayfly
