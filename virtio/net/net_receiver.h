#pragma once

#include "virtio/net/net_context.h"
#include "virtio/net/net_receive_buffers.h"

#include <array>
#include <expected>
#include <memory>
#include <optional>
#include <span>
#include <vector>

/// Frames from the host to the guest.
///
/// Frames are read by the ring straight into the driver's buffers. Reads go out as a volley: all but the last take only
/// what the TAP holds already, the last one waits for the next frame. When the last has come back, the used buffers are
/// returned and the next volley goes out. So frames keep their order, an idle interface has one read waiting, and a
/// busy one gets many frames for one system call: the volley grows while all of it is hit, and shrinks to what was. A
/// lone read says nothing of a second frame, so the TAP is asked.
///
/// A lone read has buffers for a frame of usual length. A longer frame ends in memory of ours and is copied; after one,
/// reads have buffers for the longest frame until many short ones have come.
///
/// Without buffers nothing is posted: the TAP's queue holds what comes, and drops what exceeds it. With a few, a frame
/// that needs more is parked until the driver has offered them.
///
/// What a responder has to say goes before what the TAP holds, and past the limiter. It needs buffers that nobody reads
/// into, so a volley that waits for the TAP is cancelled for it. A frame that needs more than there are waits for the
/// driver to offer them, as one of the TAP does.
namespace mayfly {

/// Under the device's lock, but for what the ring and timers call, which take it.
class NetReceiver {
 public:
  explicit NetReceiver(NetContext& context);

  /// The device's lock.
  [[nodiscard]] Mutex& lock() const noexcept RETURN_CAPABILITY(context_.lock()) { return context_.lock(); }
  /// For clang: its caller has the lock by another name.
  void has_lock() const noexcept ASSERT_CAPABILITY(lock()) {}

  /// Makes the limiter and the timer. Once, before anything else.
  [[nodiscard]] Status prepare(const std::optional<RateLimiterConfig>& limit);
  void activate(VirtQueue& queue) noexcept REQUIRES(lock()) { queue_ = &queue; }
  /// Nothing is in flight: all chains are forgotten.
  void reset() noexcept REQUIRES(lock());

  /// Posts what can be posted; at any time.
  void post_reads() noexcept REQUIRES(lock());
  /// The responder may have something to say, now or later.
  void respond() noexcept REQUIRES(lock());
  /// The machine has stood still: what waits for its driver does so anew.
  void thaw() noexcept REQUIRES(lock());
  /// Takes back what is posted.
  void cancel() noexcept REQUIRES(lock());
  /// Held chains of a queue that was reset meanwhile are forgotten. What waits for its driver does so anew.
  void undrain() noexcept REQUIRES(lock());

  [[nodiscard]] RateLimiter& limiter() noexcept REQUIRES(lock()) { return *limiter_; }
  [[nodiscard]] std::vector<std::uint16_t> held_heads() const REQUIRES(lock()) { return buffers_.heads(); }
  void hold_again(std::vector<std::uint16_t> heads) REQUIRES(lock()) { buffers_.restore(std::move(heads)); }

 private:
  enum class Phase {
    Idle,        ///< Reads may be posted.
    Reading,     ///< A volley is in flight.
    Waiting,     ///< For the TAP to have a frame.
    Parked,      ///< A frame waits for buffers.
    Throttled,   ///< Until the limiter calls.
    BackingOff,  ///< Until the timer fires: the TAP failed.
  };
  /// What is in flight, and what has come of it.
  struct Volley {
    std::size_t posted = 0;     ///< Reads; 0: a wait.
    std::size_t hits = 0;       ///< So many of them brought a frame.
    std::size_t in_flight = 0;  ///< Reads, or the wait.
    bool cancelling = false;
    bool dry = false;  ///< The last read found no frame and could not wait.
    bool failed = false;
  };
  struct Read final : Operation {
    void on_complete(int result, bool more) noexcept override;
    NetReceiver* owner = nullptr;
    ReceiveWindow window{};
  };
  /// For hosts where a read cannot wait in the ring: waits for the TAP to have a frame.
  struct Wait final : Operation {
    void on_complete(int result, bool more) noexcept override;
    NetReceiver* owner = nullptr;
  };

  [[nodiscard]] std::expected<std::span<const ReceiveWindow>, QueueFault> arrange(
      std::size_t wanted, std::uint64_t least, std::uint64_t room = NetReceiveBuffers::kFullWindow) noexcept
      REQUIRES(lock());
  void post(std::span<const ReceiveWindow> windows) noexcept REQUIRES(lock());
  [[nodiscard]] std::size_t read_at_once(std::span<const ReceiveWindow> windows) noexcept REQUIRES(lock());
  void on_read(Read& read, int result) noexcept REQUIRES(lock());
  void deliver(const ReceiveWindow& window, std::uint64_t length) noexcept REQUIRES(lock());
  [[nodiscard]] bool prepare_header(const ReceiveWindow& window, std::size_t chains) noexcept REQUIRES(lock());
  void on_failure(int result) noexcept REQUIRES(lock());
  [[nodiscard]] bool tap_has_more() const noexcept;
  void on_timer() noexcept REQUIRES(lock());
  void end_volley() noexcept REQUIRES(lock());
  void park(const ReceiveWindow& window, std::uint64_t length) noexcept REQUIRES(lock());
  [[nodiscard]] bool unpark() noexcept REQUIRES(lock());
  void forget_parked() noexcept REQUIRES(lock());
  void wait_for_buffers() noexcept REQUIRES(lock());
  [[nodiscard]] bool in_flight() const noexcept REQUIRES(lock()) { return volley_.in_flight > 0; }
  void begin_operation() noexcept REQUIRES(lock()) {
    ++volley_.in_flight;
    ++context_.in_flight;
  }
  void end_operation() noexcept REQUIRES(lock()) {
    --volley_.in_flight;
    --context_.in_flight;
  }
  [[nodiscard]] Status prepare_responses();
  [[nodiscard]] bool has_response() const noexcept REQUIRES(lock()) {
    return context_.responder && (response_until_ || context_.responder->ready());
  }
  [[nodiscard]] bool give_responses() noexcept REQUIRES(lock());
  [[nodiscard]] bool give_response() noexcept REQUIRES(lock());
  void forget_response() noexcept REQUIRES(lock());
  void wait_to_respond() noexcept REQUIRES(lock());
  void on_response_timer() noexcept REQUIRES(lock());

  NetContext& context_;
  VirtQueue* queue_ GUARDED_BY(lock()) = nullptr;
  std::unique_ptr<RateLimiter> limiter_ GUARDED_BY(lock());
  std::unique_ptr<LoopTimer> retry_timer_;
  NetReceiveBuffers buffers_ GUARDED_BY(lock());
  std::array<Read, NetReceiveBuffers::kMaximumWindows> reads_;
  Wait wait_;
  Phase phase_ GUARDED_BY(lock()) = Phase::Idle;
  Volley volley_ GUARDED_BY(lock());
  std::size_t wanted_ GUARDED_BY(lock()) = 1;           // reads of the next volley
  unsigned long_frames_ GUARDED_BY(lock()) = 0;         // not 0: another long frame is likely
  std::uint64_t parked_length_ GUARDED_BY(lock()) = 0;  // of the frame that waits for buffers
  std::uint64_t parked_at_ GUARDED_BY(lock()) = 0;      // from where on it lies in the spill
  std::uint64_t retry_ns_ GUARDED_BY(lock()) = 0;       // the present pause between tries

  std::unique_ptr<LoopTimer> response_timer_;                          // only with a responder
  std::optional<std::uint64_t> response_timer_at_ GUARDED_BY(lock());  // when it fires
  // A frame that waits for buffers, and how long it does at most; else nullopt.
  std::array<std::uint8_t, FrameResponder::kLongestTransmitted> response_ GUARDED_BY(lock());
  std::size_t response_length_ GUARDED_BY(lock()) = 0;
  std::optional<std::uint64_t> response_until_ GUARDED_BY(lock());
};

}  // namespace mayfly
