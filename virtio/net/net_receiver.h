#pragma once

#include "virtio/net/net_port.h"
#include "virtio/net/net_receive_buffers.h"
#include "virtio/rate_limiter.h"

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
/// busy one gets many frames for one system call: the volley grows while all of it is hit, and shrinks to what was.
///
/// Without buffers nothing is posted: the TAP's queue holds what comes, and drops what exceeds it. With a few, a frame
/// that needs more is parked until the driver has offered them.
///
/// What a responder has to say goes before what the TAP holds, and past the limiter. It needs buffers that nobody reads
/// into, so a volley that waits for the TAP is taken back for it. A frame that needs more than there are waits for the
/// driver to offer them, as one of the TAP does.
namespace mayfly {

/// Under the device's lock, but for what the ring and timers call, which take it.
class NetReceiver {
 public:
  explicit NetReceiver(NetPort& port);

  /// Makes the limiter and the timer. Once, before anything else.
  [[nodiscard]] Status prepare(const std::optional<RateLimiterConfig>& limit);
  void activate(VirtQueue& queue) noexcept { queue_ = &queue; }
  /// Nothing is in flight: all chains are forgotten.
  void reset() noexcept;

  /// Posts what can be posted; at any time.
  void post_reads() noexcept;
  /// The responder may have something to say, now or later.
  void respond() noexcept;
  /// The machine has stood still: what waits for its driver does so anew.
  void thaw() noexcept;
  /// Takes back what is posted.
  void cancel() noexcept;
  [[nodiscard]] bool is_idle() const noexcept { return in_flight_ == 0; }
  /// Held chains of a queue that was reset meanwhile are forgotten.
  void undrain() noexcept;

  [[nodiscard]] RateLimiter& limiter() noexcept { return *limiter_; }
  [[nodiscard]] std::vector<std::uint16_t> held_heads() const { return buffers_.heads(); }
  void hold_again(std::vector<std::uint16_t> heads) { buffers_.restore(std::move(heads)); }

 private:
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

  [[nodiscard]] std::expected<std::span<const ReceiveWindow>, QueueFault> arrange(std::size_t wanted,
                                                                                  std::uint64_t least) noexcept;
  void post(std::span<const ReceiveWindow> windows) noexcept;
  void on_read(Read& read, int result) noexcept;
  void deliver(const ReceiveWindow& window, std::uint64_t length) noexcept;
  [[nodiscard]] bool prepare_header(const ReceiveWindow& window, std::size_t chains) noexcept;
  void on_failure(int result) noexcept;
  void on_timer() noexcept;
  void end_volley() noexcept;
  void park(const ReceiveWindow& window, std::uint64_t length) noexcept;
  [[nodiscard]] bool unpark() noexcept;
  [[nodiscard]] Status prepare_responses();
  [[nodiscard]] bool has_response() const noexcept {
    return port_.responder && (response_until_ || port_.responder->ready());
  }
  [[nodiscard]] bool give_responses() noexcept;
  [[nodiscard]] bool give_response() noexcept;
  void forget_response() noexcept;
  void wait_to_respond() noexcept;
  void on_response_timer() noexcept;

  NetPort& port_;
  VirtQueue* queue_ = nullptr;
  std::unique_ptr<RateLimiter> limiter_;
  std::unique_ptr<LoopTimer> retry_timer_;
  NetReceiveBuffers buffers_;
  std::array<Read, NetReceiveBuffers::kMaximumWindows> reads_;
  Wait wait_;
  std::size_t in_flight_ = 0;  // reads, and the wait
  std::size_t posted_ = 0;     // reads of the present volley
  std::size_t hits_ = 0;       // of which so many brought a frame
  std::size_t wanted_ = 1;     // reads of the next one
  bool cancelling_ = false;
  bool dry_ = false;                 // the last read found no frame and could not wait
  bool throttled_ = false;           // until the limiter calls
  bool failed_ = false;              // in this volley
  bool backing_off_ = false;         // until the timer fires
  std::uint64_t parked_length_ = 0;  // of the frame that waits for buffers; 0: none does
  std::uint64_t parked_at_ = 0;      // from where on it lies in the spill
  std::uint64_t retry_ns_ = 0;       // the present pause between tries

  std::unique_ptr<LoopTimer> response_timer_;       // only with a responder
  std::optional<std::uint64_t> response_timer_at_;  // when it fires
  // A frame that waits for buffers, and how long it does at most; else nullopt.
  std::array<std::uint8_t, FrameResponder::kLongestTransmitted> response_;
  std::size_t response_length_ = 0;
  std::optional<std::uint64_t> response_until_;
};

}  // namespace mayfly
