#pragma once

#include "virtio/mmds/host_streams.h"
#include "virtio/net/channel_listener.h"
#include "vmm/base/log.h"
#include "vmm/base/mutex.h"
#include "vmm/base/owned_fd.h"
#include "vmm/io/event_loop.h"

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

/// The host's ends of channels: a Unix stream socket for each connection, served by the ring.
///
///   stack->serve_channels(std::make_unique<ChannelSockets>(channels, loop, log, "network interface eth0"), ...);
///
/// A connection is made when the guest's SYN comes. connect(2) does not wait: a Unix socket takes it, refuses it or says
/// that too many wait to be accepted. Where the channel listens, the stream waits without a socket until a host's
/// process has connected, and keeps what the guest says meanwhile; a guest that ends it with nothing said has hung up.
/// With a socket there is one read and at most one write in flight, which wait in the ring. A host that closed its
/// socket is told from one that only ends its direction when its end comes; one that closes later, by the next write. A
/// stream that was closed gives its place back when nothing of it is in flight.
namespace mayfly {

class ChannelSockets final : public HostStreams {
 public:
  /// Of one interface: its connections, and as many that still flush.
  static constexpr std::size_t kStreams = 32;

  struct Channel {
    std::uint16_t port = 0;
    std::string uds_path{};
    ChannelListener* listener = nullptr;  ///< Null: it is connected to. Outlives this.
  };

  /// Loop's thread. Destroyed as the device is: not before EventLoop::close() where it has been in use.
  ChannelSockets(std::vector<Channel> channels, EventLoop& loop, Log& log, std::string name);

  // HostStreams
  void set_caller(Caller caller) noexcept override { caller_ = std::move(caller); }
  [[nodiscard]] std::expected<HostStream*, Refusal> open(std::uint16_t port) noexcept override;

  /// Places that are taken.
  [[nodiscard]] std::size_t taken_count() const noexcept;

 private:
  class Stream final : public HostStream, private ChannelListener::Waiter {
   public:
    Stream() = default;
    /// Takes a connected socket.
    void begin(ChannelSockets& owner, OwnedFd socket);
    /// Waits for one.
    void begin(ChannelSockets& owner, ChannelListener& listener);

    [[nodiscard]] std::span<const std::uint8_t> incoming() const noexcept override { return {in_.get(), in_length_}; }
    void take() noexcept override;
    [[nodiscard]] bool ended() const noexcept override { return ended_; }
    [[nodiscard]] bool gone() const noexcept override { return gone_; }
    [[nodiscard]] std::size_t room() const noexcept override { return kBytes - out_length_; }
    void push(std::span<const std::uint8_t> bytes) noexcept override;
    void finish() noexcept override;
    void close(bool flush) noexcept override;

    [[nodiscard]] bool is_free() const noexcept { return owner_ == nullptr; }
    [[nodiscard]] bool is_closing() const noexcept { return closing_; }
    void stop_flushing() noexcept { flushes_ = false; }
    /// Closing: goes on with that. Loop's thread.
    void go_on_closing() noexcept;

   private:
    enum class Kind : std::uint8_t { Read, Write };
    struct Flight final : Operation {
      void on_complete(int result, bool more) noexcept override;
      Stream* stream = nullptr;
      Kind kind = Kind::Read;
      bool in_flight = false;
      bool cancelled = false;
    };

    void take_host(const std::function<OwnedFd()>& accept) noexcept override;
    void take_place(ChannelSockets& owner);
    void read() noexcept;
    void write() noexcept;
    void on_done(Kind kind, int result) noexcept;
    void on_read(int result) noexcept;
    void on_written(int result) noexcept;
    void end_writing() noexcept;

    ChannelSockets* owner_ = nullptr;
    ChannelListener* waits_at_ = nullptr;  // until it has a socket
    OwnedFd socket_;
    std::unique_ptr<std::uint8_t[]> in_, out_;
    std::size_t in_length_ = 0, out_length_ = 0;
    bool ended_ = false, gone_ = false;
    bool finishing_ = false, finished_ = false;  // the guest's end is to follow, and has
    bool closing_ = false, flushes_ = false;
    Flight read_, write_;
  };

  /// Goes on with streams that are being closed, soon, on the loop's thread.
  void close_soon();
  void sweep() noexcept;
  [[nodiscard]] std::expected<OwnedFd, Refusal> connect(const std::string& path) noexcept;

  const std::vector<Channel> channels_;
  EventLoop& loop_;
  Log& log_;
  const std::string name_;
  LogRate log_rate_{};
  Caller caller_;
  std::array<Stream, kStreams> streams_;
};

}  // namespace mayfly
