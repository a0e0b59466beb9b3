#pragma once

#include "virtio/mmds/host_streams.h"
#include "virtio/mmds/packet.h"
#include "virtio/mmds/stream_end_state.h"
#include "virtio/mmds/tcp_connection.h"
#include "vmm/base/metrics.h"

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

/// The connections of a guest's channels: TCP to the guest on one side, streams of the host on the other.
///
///   switch (table.receive(segment, first_sequence, now_ns)) { Taken: done; Lost: drop; Refused: reset; }
///   while (auto length = table.write_next(out, end)) ...
///   on news of the host, and whenever time has passed: table.pump(now_ns)
///
/// Flow control is by windows alone: what the host does not take stays in the connection, whose window shuts; what the
/// guest does not take stays in the stream, which is then not read. Each connection holds at most what TcpConnection and
/// HostStream hold. A full table loses SYNs, and no connection: an idle one may be of use. Under the device's lock.
namespace mayfly {

class ChannelTable {
 public:
  static constexpr std::size_t kConnections = kMostStreamEnds;
  enum class Verdict : std::uint8_t { Taken, Lost, Refused };

  ChannelTable(HostStreams& streams, ChannelMetrics& metrics) noexcept : streams_(streams), metrics_(metrics) {}
  ChannelTable(const ChannelTable&) = delete;
  ChannelTable& operator=(const ChannelTable&) = delete;
  ~ChannelTable() = default;

  /// A segment for a port that is none of the stack's own. `first_sequence` is for a new connection.
  [[nodiscard]] Verdict receive(const TcpSegment& segment, std::uint32_t first_sequence, std::uint64_t now_ns) noexcept;
  /// Moves what can be moved between guest and host.
  void pump(std::uint64_t now_ns) noexcept;

  [[nodiscard]] bool ready() const noexcept;
  /// Writes the next frame, from `end` but for its port; 0: there is none.
  [[nodiscard]] std::size_t write_next(std::span<std::uint8_t> out, const TcpEnd& end) noexcept;

  [[nodiscard]] std::optional<std::uint64_t> deadline() const noexcept;
  void on_time(std::uint64_t now_ns) noexcept;
  void stood_still(std::uint64_t since_ns, std::uint64_t now_ns) noexcept;
  /// Any thread.
  void reset() noexcept;

  [[nodiscard]] std::size_t connection_count() const noexcept;
  /// For a snapshot; and what it kept: the guest is told that those are gone. At most kConnections.
  [[nodiscard]] std::vector<StreamEnd> ends() const;
  void restore(const std::vector<StreamEnd>& lost);

 private:
  struct Channel {
    TcpConnection tcp{TcpConnection::kMostReceiveBytes, TcpConnection::Kind::Stream};
    std::uint16_t port = 0;
    HostStream* stream = nullptr;
    bool finished = false;  // the guest's end was handed on
  };

  [[nodiscard]] Channel* find(const TcpSegment& segment) noexcept;
  [[nodiscard]] Verdict open(const TcpSegment& syn, std::uint32_t first_sequence, std::uint64_t now_ns) noexcept;
  void pump(Channel& channel, std::uint64_t now_ns) noexcept;
  void give_to_host(Channel& channel) noexcept;
  void give_to_guest(Channel& channel, std::uint64_t now_ns) noexcept;
  void let_go(Channel& channel, bool flush) noexcept;

  HostStreams& streams_;
  ChannelMetrics& metrics_;
  std::array<Channel, kConnections> channels_;
  std::size_t turn_ = 0;
  std::vector<StreamEnd> lost_;
};

}  // namespace mayfly
