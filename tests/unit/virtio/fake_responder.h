#pragma once

#include "virtio/mmds/frame_responder.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <optional>
#include <span>
#include <utility>
#include <vector>

/// A responder that a test speaks for: it claims every frame that begins with kClaimed, and says what it is told to.
namespace mayfly::testing {

class FakeResponder final : public FrameResponder {
 public:
  static constexpr std::uint8_t kClaimed = 0xA5;
  using Frame = std::vector<std::uint8_t>;

  std::vector<std::pair<Frame, TcpChecksum>> received{};
  std::deque<Frame> to_say{};     ///< What transmit() gives, one after the other.
  std::vector<Frame> answer{};    ///< What is to be said to each frame that is received,
  std::vector<Frame> on_timer{};  ///< and when the time has come.
  std::optional<std::uint64_t> wants_time{};
  unsigned timers = 0;
  unsigned resets = 0;

  [[nodiscard]] bool claims(std::span<const std::uint8_t> head) const noexcept override {
    return !head.empty() && head.front() == kClaimed;
  }
  void receive(std::span<const std::uint8_t> frame, TcpChecksum checksum, std::uint64_t /*now_ns*/) noexcept override {
    received.emplace_back(Frame(frame.begin(), frame.end()), checksum);
    to_say.insert(to_say.end(), answer.begin(), answer.end());
  }
  [[nodiscard]] bool ready() const noexcept override { return !to_say.empty(); }
  [[nodiscard]] std::size_t transmit(std::span<std::uint8_t, kLongestTransmitted> out) noexcept override {
    if (to_say.empty()) return 0;
    const Frame frame = std::move(to_say.front());
    to_say.pop_front();
    std::ranges::copy(frame, out.begin());
    return frame.size();
  }
  [[nodiscard]] std::optional<std::uint64_t> deadline() const noexcept override { return wants_time; }
  void on_time(std::uint64_t now_ns) noexcept override {
    if (!wants_time || now_ns < *wants_time) return;
    wants_time.reset();
    ++timers;
    to_say.insert(to_say.end(), on_timer.begin(), on_timer.end());
  }
  void stood_still(std::uint64_t since_ns, std::uint64_t now_ns) noexcept override {
    if (wants_time) *wants_time += now_ns - since_ns;
  }
  void reset() noexcept override {
    ++resets;
    to_say.clear();
    wants_time.reset();
  }
};

}  // namespace mayfly::testing
