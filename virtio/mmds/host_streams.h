#pragma once

#include <cstddef>
#include <cstdint>
#include <expected>
#include <functional>
#include <span>

/// The host's ends of channels, as the stack sees them: sockets (virtio/net/channel_sockets.h), or a test.
///
///   auto stream = streams.open(port);
///   if (!stream) ... refuse, or let the guest try again
///   ... stream->push(bytes of the guest), incoming() and take(), finish() ...
///   stream->close(flush);                            // and forget it
///
/// Nothing waits: what cannot be done now is done when the host lets it, and news of that come by the callback. Both
/// directions have a buffer of a fixed size. Under the device's lock.
namespace mayfly {

/// One connection.
class HostStream {
 public:
  /// What is held for the host,
  static constexpr std::size_t kBytes = 64 * 1024;
  /// and what is read from it at once: half of what a connection has on its way, so that there is room for one piece
  /// while the guest is slow to acknowledge the end of another.
  static constexpr std::size_t kPiece = 32 * 1024;

  /// What has come from the host and was not taken.
  [[nodiscard]] virtual std::span<const std::uint8_t> incoming() const noexcept = 0;
  /// Takes all of that: more may come.
  virtual void take() noexcept = 0;
  /// Nothing will follow incoming().
  [[nodiscard]] virtual bool ended() const noexcept = 0;
  /// The host has gone: it takes nothing any more.
  [[nodiscard]] virtual bool gone() const noexcept = 0;
  /// How many bytes push() takes now.
  [[nodiscard]] virtual std::size_t room() const noexcept = 0;
  virtual void push(std::span<const std::uint8_t> bytes) noexcept = 0;
  /// The guest's end follows what was pushed.
  virtual void finish() noexcept = 0;
  /// Ends it; with `flush`, once the host has taken what was pushed. On any thread.
  virtual void close(bool flush) noexcept = 0;

 protected:
  ~HostStream() = default;
};

class HostStreams {
 public:
  enum class Refusal : std::uint8_t {
    NoChannel,  ///< Nothing was configured for that port,
    NoHost,     ///< nobody listens,
    Busy,       ///< or somebody does and is slow.
  };
  /// Calls its argument under the device's lock, and then lets the responder say what it has to say.
  using Caller = std::function<void(const std::function<void()>& work)>;

  virtual ~HostStreams() = default;
  /// Before open().
  virtual void set_caller(Caller caller) noexcept = 0;
  /// Loop's thread.
  [[nodiscard]] virtual std::expected<HostStream*, Refusal> open(std::uint16_t port) noexcept = 0;
};

}  // namespace mayfly
