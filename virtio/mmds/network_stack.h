#pragma once

#include "virtio/mmds/channel_table.h"
#include "virtio/mmds/frame_responder.h"
#include "virtio/mmds/metadata_service.h"
#include "virtio/mmds/packet.h"
#include "virtio/mmds/siphash.h"
#include "virtio/mmds/tcp_connection.h"

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

/// The metadata service (MMDS), by which a host tells a guest who it is. This is the library's upper end; the parts are
///
///   metadata_store, session_tokens      what is served, and to whom
///   http_request, metadata_service      a request, and its answer
///   packet, tcp_connection              frames of the guest, and frames for it
///   frame_responder                     how a network interface sees all of this
///
/// It is a library of its own below `virtio`, whose network interfaces are its users, and includes of `vmm` what is
/// configured and nothing of a machine.
///
/// Here it is on one network interface: ARP, HTTP on TCP port 80, and channels (channel_table.h) on other ports, at the
/// service's address.
///
///   auto stack = std::make_unique<NetworkStack>(service, key, metrics.mmds);   // key: 16 bytes of getrandom()
///   NetDevice::create(config, tap, std::move(stack), ...);
///
/// Frames in, frames out; there is no socket but those of channels, and no way from here to the host's network. All that
/// a guest can fill has a fixed size: kConnections connections, kResets refusals, one answer to ARP. Only what a
/// connection has received and its answer are allocated, each no longer than its window and than the store allows.
namespace mayfly {

class NetworkStack final : public FrameResponder {
 public:
  static constexpr std::size_t kConnections = 16;
  static constexpr std::size_t kResets = 8;
  /// A full table replaces a connection without progress for so long by a new one.
  static constexpr std::uint64_t kStaleNs = 1'000'000'000;
  static constexpr std::uint16_t kPort = kMetadataPort;
  /// As in the dialect; locally administered, and seen by the guest alone.
  static constexpr MacAddress kMac = {0x06, 0x01, 0x23, 0x45, 0x67, 0x01};

  /// `service` and `metrics` outlive the stack. `key` makes first sequence numbers that cannot be foreseen.
  NetworkStack(const MetadataService& service, const SipKey& key, MmdsMetrics& metrics) noexcept;

  // FrameResponder
  [[nodiscard]] bool claims(std::span<const std::uint8_t> head) const noexcept override;
  [[nodiscard]] std::size_t longest_received() const noexcept override {
    return channels_ ? kLongestEver : kLongestReceived;
  }
  void receive(std::span<const std::uint8_t> frame, TcpChecksum checksum, std::uint64_t now_ns) noexcept override;
  [[nodiscard]] bool ready() const noexcept override;
  [[nodiscard]] std::size_t transmit(std::span<std::uint8_t, kLongestTransmitted> out) noexcept override;
  [[nodiscard]] std::optional<std::uint64_t> deadline() const noexcept override;
  void on_time(std::uint64_t now_ns) noexcept override;
  void stood_still(std::uint64_t since_ns, std::uint64_t now_ns) noexcept override;
  void reset() noexcept override;
  void set_caller(const HostStreams::Caller& caller) noexcept override;
  void on_news(std::uint64_t now_ns) noexcept override;
  [[nodiscard]] std::vector<StreamEnd> stream_ends() const override;
  void restore(const std::vector<StreamEnd>& lost) override;

  /// Other ports are channels from now on: `streams` has the host's ends. Once, before anything else; `metrics` outlive it.
  void serve_channels(std::unique_ptr<HostStreams> streams, ChannelMetrics& metrics);
  /// Null: there are none.
  [[nodiscard]] const ChannelTable* channels() const noexcept { return channels_ ? &*channels_ : nullptr; }

  /// Connections to the metadata service that are open, or being opened or closed.
  [[nodiscard]] std::size_t connection_count() const noexcept;

 private:
  struct Reset {
    TcpEnd to;
    std::uint16_t from_port = 0;
    TcpHeader header;
  };

  [[nodiscard]] bool receive_segment(std::span<const std::uint8_t> frame, TcpChecksum checksum,
                                     std::uint64_t now_ns) noexcept;
  [[nodiscard]] TcpConnection* find(const TcpEnd& peer) noexcept;
  void open(const TcpSegment& syn, std::uint64_t now_ns) noexcept;
  void refuse(const TcpSegment& segment) noexcept;
  void serve(TcpConnection& connection, std::uint64_t now_ns) noexcept;
  [[nodiscard]] std::uint32_t first_sequence() noexcept;
  [[nodiscard]] std::size_t write_next(std::span<std::uint8_t> out) noexcept;
  void note_ends() noexcept;

  const MetadataService& service_;
  const SipKey key_;
  MmdsMetrics& metrics_;
  const TcpEnd end_;

  std::optional<ArpRequest> arp_request_;  // the latest that was not answered yet
  std::array<Reset, kResets> resets_{};    // a ring
  std::size_t first_reset_ = 0;
  std::size_t reset_count_ = 0;
  std::array<TcpConnection, kConnections> connections_;
  std::size_t turn_ = 0;   // whose turn it is to send
  std::size_t alive_ = 0;  // connections as counted by the metrics
  std::unique_ptr<HostStreams> streams_;
  std::optional<ChannelTable> channels_;
  std::uint64_t opened_ = 0;  // makes each first sequence number another one
};

}  // namespace mayfly
