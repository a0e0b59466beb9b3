#pragma once

#include "virtio/mmds/host_streams.h"
#include "virtio/mmds/packet.h"
#include "virtio/mmds/stream_end_state.h"

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

/// What answers some of a guest's frames in the network's place, as a network interface sees it.
///
///   transmitter, for each chain:                       if (responder->claims(head)) {
///                                                        copy the frame, once
///                                                        responder->receive(copy, checksum, now_ns);
///                                                        put the chain back; it never reaches the TAP
///                                                      }
///   receiver, with a buffer, before it reads the TAP:  if (responder->ready()) {
///                                                        length = responder->transmit(frame);
///                                                        copy header and frame into the buffer
///                                                      }
///   loop's timer, at deadline():                       responder->on_time(now_ns), then as the receiver does
///
/// Frames are pulled: nothing is queued but what the responder's own state says, so a guest that takes no frames
/// makes nothing grow. Lengths are without the virtio header; that of a frame for the guest is all zero but for its
/// number of buffers, since checksums are complete. Under the device's lock.
namespace mayfly {

class FrameResponder {
 public:
  /// The longest frame that receive() is interested in where longest_received() does not say otherwise.
  static constexpr std::size_t kLongestReceived = kLongestHeaders + 4096;
  /// And ever: what an IP packet holds.
  static constexpr std::size_t kLongestEver = 14 + 65'535;
  /// Room that transmit() needs: a whole Ethernet frame.
  static constexpr std::size_t kLongestTransmitted = 14 + 1500;

  virtual ~FrameResponder() = default;

  /// Whether the frame that begins with `head` is the responder's: `head` is a copy of all of it or of kFrameHeadLength
  /// bytes.
  [[nodiscard]] virtual bool claims(std::span<const std::uint8_t> head) const noexcept = 0;
  /// The longest frame that receive() can be interested in; a longer one is dropped, not passed on. Constant from the
  /// first receive() on.
  [[nodiscard]] virtual std::size_t longest_received() const noexcept { return kLongestReceived; }
  /// Takes a claimed frame; a copy, which the guest cannot change any more. It may have been left unsegmented.
  virtual void receive(std::span<const std::uint8_t> frame, TcpChecksum checksum, std::uint64_t now_ns) noexcept = 0;

  /// Whether transmit() has a frame.
  [[nodiscard]] virtual bool ready() const noexcept = 0;
  /// Writes the next frame for the guest to the start of `out` and gives its length; 0 where there is none. What it
  /// gives must be delivered; frames that are lost come again, but only after a time-out.
  [[nodiscard]] virtual std::size_t transmit(std::span<std::uint8_t, kLongestTransmitted> out) noexcept = 0;

  /// When on_time() wants to be called next; nullopt: never. Changes with every other call.
  [[nodiscard]] virtual std::optional<std::uint64_t> deadline() const noexcept = 0;
  virtual void on_time(std::uint64_t now_ns) noexcept = 0;

  /// The guest was paused from `since_ns` to `now_ns`: deadlines for its answers move by that time. Frames that it sent
  /// before may have come in meanwhile.
  virtual void stood_still(std::uint64_t since_ns, std::uint64_t now_ns) noexcept = 0;

  /// The driver was reset: its connections are gone. On any thread.
  virtual void reset() noexcept = 0;

  // Of one that speaks to the host as well; others need none of it.
  /// By what it gets the lock when the host has news. Once, before anything else.
  virtual void set_caller(const HostStreams::Caller& /*caller*/) noexcept {}
  /// The host has news.
  virtual void on_news(std::uint64_t /*now_ns*/) noexcept {}
  /// For a snapshot: connections of the guest that a clone does not have; and there.
  [[nodiscard]] virtual std::vector<StreamEnd> stream_ends() const { return {}; }
  virtual void restore(const std::vector<StreamEnd>& /*lost*/) {}
};

}  // namespace mayfly
