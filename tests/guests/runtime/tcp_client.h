#pragma once

#include "runtime/internet.h"
#include "runtime/virtio.h"

#include <array>
#include <cstdint>
#include <optional>
#include <string_view>

/// A small TCP client at 169.254.169.254, on a network interface by polling: what a guest says to the services inside
/// its interface.
///
///   static TcpLink link{first_interface()};
///   static TcpClient client{link, 40000};
///   client.open(80);
///   while (!client.saw_end()) { link.poll(client); ... client.received(), consume(), send() ... client.push(); }
///
/// The link is memory and the services keep their windows, so only SYNs are sent again.
namespace guest {

/// A segment for us, in a receive buffer.
struct TcpArrival {
  std::uint16_t service_port = 0, own_port = 0;
  std::uint32_t sequence = 0, acknowledgment = 0;
  std::uint8_t flags = 0;
  std::uint32_t window = 0;
  std::string_view data{};
};

/// The interface. It takes the guest's memory from 4 MiB to 7 MiB for queues and buffers.
class TcpLink {
 public:
  explicit TcpLink(unsigned number);

  /// Hands the segments that have come to whoever takes them, by `take(arrival)`.
  template <typename... Clients>
  void poll(Clients&... clients) {
    while (const auto used = receive_->used()) {
      const std::uint64_t buffer = buffer_of_[used->id];
      if (const auto arrival = read(buffer, used->length)) (clients.take(*arrival), ...);
      post(buffer);
    }
    receive_->kick();
  }
  /// Sends a segment; `header` has all but the data. SYNs bear the option of the largest segment.
  void send(const TcpArrival& header);
  /// Sends a frame of a protocol that no service speaks.
  void send_to_nobody();

 private:
  static constexpr std::uint32_t kBufferSize = 2048;
  static constexpr unsigned kBufferCount = 128;
  [[nodiscard]] static std::optional<TcpArrival> read(std::uint64_t buffer, std::uint32_t length);
  [[nodiscard]] std::uint64_t next_buffer();
  void post(std::uint64_t buffer) { buffer_of_[receive_->offer({{buffer, kBufferSize, true}})] = buffer; }

  virtio::Device device_;
  std::optional<virtio::Queue> receive_, transmit_;
  std::array<std::uint64_t, virtio::Queue::kSize> buffer_of_{};
  std::uint64_t sent_ = 0, taken_ = 0;
};

class TcpClient {
 public:
  static constexpr std::uint32_t kRoom = 60 * 1024;

  TcpClient(TcpLink& link, std::uint16_t first_port) : link_(link), port_(first_port) {}

  /// Begins a connection; the one before is forgotten.
  void open(std::uint16_t service_port);
  void take(const TcpArrival& arrival);
  /// Sends what is due: the SYN again, data as far as the window goes, the end behind it, acknowledgements.
  void push();

  [[nodiscard]] std::string_view received() const { return {in_.data(), in_length_}; }
  void consume(std::uint32_t length);
  /// Takes as much of `data` as there is room for; how much that is.
  std::uint32_t send(std::string_view data);
  void finish() { finishing_ = true; }

  [[nodiscard]] bool is_open() const { return state_ == State::Open; }
  [[nodiscard]] bool was_reset() const { return state_ == State::Reset; }
  /// The peer's end has come.
  [[nodiscard]] bool saw_end() const { return saw_end_; }
  /// Both ends have, and ours was acknowledged.
  [[nodiscard]] bool is_done() const { return saw_end_ && finished_ && out_length_ == 0 && unacknowledged_ == next_; }

 private:
  enum class State : std::uint8_t { Closed, Opening, Open, Reset };
  void say(std::uint8_t flags, std::string_view data = {});

  TcpLink& link_;
  std::uint16_t port_;
  std::uint16_t service_port_ = 0;
  State state_ = State::Closed;
  bool finishing_ = false, finished_ = false, saw_end_ = false, acknowledge_ = false;
  std::uint32_t unacknowledged_ = 0, next_ = 0, expected_ = 0, window_ = 0;
  std::uint64_t opened_at_ = 0;
  std::uint32_t in_length_ = 0, out_length_ = 0;  // what was sent stays in out_ until it is acknowledged
  std::array<char, kRoom> in_{}, out_{};
};

}  // namespace guest
