#pragma once

#include "virtio/mmds/packet.h"

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>

/// The server's end of a TCP connection (RFC 9293) to the guest.
///
///   connection.open(syn, first_sequence, now_ns);
///   connection.receive(segment, now_ns);                      // whatever comes
///   if (connection.idle()) ... received(), consume(), send() or finish()
///   while (auto out = connection.next()) { write(*out); connection.sent(*out); }
///   ... at deadline(): connection.on_time(now_ns);
///
/// The way to a guest is one link that loses little and keeps the order. So there is no congestion window; what comes
/// out of order is asked for again; what is not acknowledged in time is sent again from there on. There is one answer
/// at a time, which is freed as it is acknowledged; a stream's next piece may be added to it. Of TCP's options the
/// maximum segment size alone is used.
///
/// What the guest can make of one: its receive_bytes, the answer, and kAttempts tries without progress, after which it is
/// reset; a guest that keeps its window shut is no different, but for a stream. Pure; one thread at a time.
namespace mayfly {

class TcpConnection {
 public:
  /// What is kept of what came and was not consumed yet, the window: of a connection for requests, and the most that
  /// one can keep, as windows are not scaled.
  static constexpr std::size_t kReceiveBytes = 4096;
  static constexpr std::size_t kMostReceiveBytes = 65'535;
  /// What add() makes of an answer at most.
  static constexpr std::size_t kMostAdded = 65'536;
  /// What one Ethernet frame holds.
  static constexpr std::uint16_t kMaximumSegment = 1460;
  /// With a smaller one most of each packet would be headers; no link needs that.
  static constexpr std::uint16_t kMinimumSegment = 88;
  /// Until the first try again; each further one takes twice as long.
  static constexpr std::uint64_t kTimeoutNs = 200'000'000;
  static constexpr unsigned kAttempts = 8;
  static constexpr std::uint64_t kLongestTimeoutNs = kTimeoutNs << kAttempts;
  /// How long the peer may take to end its direction when ours is at its end.
  static constexpr std::uint64_t kFinishNs = 10'000'000'000;

  struct Outgoing {
    TcpHeader header;
    std::span<const std::uint8_t> payload{};  ///< Of the answer; valid until the next call.
  };

  enum class Kind : std::uint8_t {
    Requests,
    Stream,  ///< A peer that acknowledges may keep its window shut (RFC 9293, 3.8.6.1): it is slow to read, and there.
  };

  /// `receive_bytes`, of at most kMostReceiveBytes, is allocated while a connection is open.
  explicit TcpConnection(std::size_t receive_bytes = kReceiveBytes, Kind kind = Kind::Requests) noexcept
      : receive_bytes_(receive_bytes), kind_(kind) {}

  /// Starts a new connection; the old one is forgotten. `syn` has SYN and not ACK.
  void open(const TcpSegment& syn, std::uint32_t first_sequence, std::uint64_t now_ns) noexcept;
  /// Forgets everything.
  void close() noexcept;
  [[nodiscard]] bool closed() const noexcept { return state_ == State::Closed; }
  [[nodiscard]] const TcpEnd& peer() const noexcept { return peer_; }
  /// Our end is on its way, or there.
  [[nodiscard]] bool sends_no_more() const noexcept { return finishing_; }
  /// The sequence numbers that the peer expects, and that we expect.
  [[nodiscard]] std::uint32_t send_next() const noexcept { return send_next_; }
  [[nodiscard]] std::uint32_t receive_next() const noexcept { return receive_next_; }
  /// When the connection last made progress.
  [[nodiscard]] std::uint64_t progress_ns() const noexcept { return progress_ns_; }

  /// A segment from peer(), at any time but when closed.
  void receive(const TcpSegment& segment, std::uint64_t now_ns) noexcept;

  /// What has come, in order.
  [[nodiscard]] std::string_view received() const noexcept { return {received_.get(), received_length_}; }
  /// Nothing will follow what has come.
  [[nodiscard]] bool peer_finished() const noexcept { return peer_finished_; }
  /// Takes `length` bytes away from the front of received().
  void consume(std::size_t length) noexcept;

  /// Whether send() and finish() may be called: there is no answer on its way, and none was the last.
  [[nodiscard]] bool idle() const noexcept { return state_ == State::Open && answer_.empty() && !finishing_; }
  /// `answer` is not empty. After the `last` one comes the end; what the peer sends from then on is not kept.
  void send(std::string answer, bool last, std::uint64_t now_ns) noexcept;
  void finish(std::uint64_t now_ns) noexcept;
  /// Whether add() may be called with so much: a stream's peer may be slow to acknowledge (RFC 9293, 3.8.6.3), and what
  /// follows need not wait for that.
  [[nodiscard]] bool has_room(std::size_t length) const noexcept {
    return state_ == State::Open && !finishing_ && answer_.size() + length <= kMostAdded;
  }
  /// Adds to the answer, or begins one. `bytes` is not empty.
  void add(std::string_view bytes, std::uint64_t now_ns) noexcept;
  /// As finish(), of a stream: what the peer sends from then on is kept, for as long as it likes to send.
  void finish_sending(std::uint64_t now_ns) noexcept;
  /// After finish_sending(): from now on the peer has kFinishNs to end its direction, too.
  void expect_end(std::uint64_t now_ns) noexcept;
  /// The next segment is a reset, and the last.
  void refuse() noexcept;
  [[nodiscard]] bool failed() const noexcept { return failed_; }

  /// The segment to send now, if any. The sender reports it by sent().
  [[nodiscard]] std::optional<Outgoing> next() const noexcept;
  void sent(const Outgoing& segment) noexcept;

  /// When on_time() wants to be called; nullopt: never.
  [[nodiscard]] std::optional<std::uint64_t> deadline() const noexcept { return deadline_ns_; }
  void on_time(std::uint64_t now_ns) noexcept;
  /// See FrameResponder.
  void stood_still(std::uint64_t since_ns, std::uint64_t now_ns) noexcept;

 private:
  enum class State : std::uint8_t { Closed, SynReceived, Open };

  void take_acknowledgment(const TcpSegment& segment, std::uint64_t now_ns) noexcept;
  void take_payload(const TcpSegment& segment, std::uint64_t now_ns) noexcept;
  void progress(std::uint64_t now_ns) noexcept;
  void free_acknowledged() noexcept;
  [[nodiscard]] bool all_acknowledged() const noexcept;
  void close_if_complete() noexcept;
  [[nodiscard]] std::uint16_t window() const noexcept;
  [[nodiscard]] Outgoing segment(std::uint8_t flags, std::span<const std::uint8_t> payload = {}) const noexcept;
  [[nodiscard]] std::optional<Outgoing> next_of_answer() const noexcept;

  const std::size_t receive_bytes_;
  const Kind kind_;
  State state_ = State::Closed;
  bool acknowledge_ = false;    // the peer wants to hear what we have
  bool finishing_ = false;      // our end follows the answer
  bool keeps_ = false;          // what comes behind our end is kept, and may take its time
  bool peer_finished_ = false;  // the peer's end was taken
  bool forced_ = false;         // the next byte goes out even if the window is shut
  bool failed_ = false;         // a reset is the next segment, and the last
  TcpEnd peer_;
  std::uint16_t maximum_segment_ = 0;

  // RFC 9293, 3.3.1: SND.UNA, SND.NXT, the highest that this has been, SND.WND.
  std::uint32_t unacknowledged_ = 0;
  std::uint32_t send_next_ = 0;
  std::uint32_t send_highest_ = 0;
  std::uint32_t send_window_ = 0;
  std::string answer_;
  std::uint32_t answer_at_ = 0;  // the sequence number of its first byte

  std::uint32_t receive_next_ = 0;  // RCV.NXT
  std::size_t received_length_ = 0;
  std::unique_ptr<char[]> received_;  // of receive_bytes_, where it is not closed

  unsigned attempts_ = 0;
  std::uint64_t timeout_ns_ = 0;
  std::uint64_t progress_ns_ = 0;
  std::optional<std::uint64_t> deadline_ns_;
};

}  // namespace mayfly
