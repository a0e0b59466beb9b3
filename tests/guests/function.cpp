#include "runtime/guest.h"
#include "runtime/internet.h"
#include "runtime/interrupts.h"
#include "runtime/net_interface.h"
#include "runtime/virtio.h"

#include <algorithm>
#include <array>

/// A function of tests/host-agent: an HTTP server for one connection at a time, on the first network interface, at
/// whichever address it is asked. It gives back what was posted, in capitals, behind a line with the number of requests
/// that it has answered since its boot ("request 2"). GET /die resets the machine; GET /hang is never answered.
///
/// Its TCP is as small as a link without loss allows: a segment at a time and in order, and nothing is sent twice.
namespace {

using namespace guest;

constexpr std::uint64_t kQueues = 0x40'0000;
constexpr std::uint64_t kReceived = 0x50'0000;  // buffers
constexpr std::uint64_t kSent = 0x60'0000;      // buffers
constexpr std::uint32_t kBufferSize = 2048;
constexpr unsigned kBufferCount = 128;
constexpr std::uint32_t kVirtioHeader = 12;

constexpr unsigned kFirstPin = 5;  // of the first device's window
constexpr std::uint8_t kVector = 0x51;

constexpr std::uint32_t kHeaders = kEthernetBytes + kIpBytes + kTcpBytes;
constexpr std::uint32_t kSegment = 1460;
constexpr std::uint16_t kPort = 80;

/// A segment that came for our port.
struct Segment {
  const std::uint8_t* frame;
  std::string_view data;
  [[nodiscard]] const std::uint8_t* ip() const { return frame + kEthernetBytes; }
  [[nodiscard]] const std::uint8_t* tcp() const { return frame + kEthernetBytes + kIpBytes; }
  [[nodiscard]] std::uint32_t port() const { return get16(tcp()); }
  [[nodiscard]] std::uint32_t sequence() const { return get32(tcp() + 4); }
  [[nodiscard]] bool has(std::uint8_t flag) const { return (tcp()[13] & flag) != 0; }
};

/// None: the frame is something else, and nothing to us.
std::optional<Segment> segment_in(const std::uint8_t* frame, std::uint32_t length) {
  if (length < kHeaders || get16(frame + 12) != 0x0800) return std::nullopt;
  const std::uint8_t* ip = frame + kEthernetBytes;
  const std::uint8_t* tcp = ip + kIpBytes;
  constexpr std::uint8_t kTcpProtocol = 6;
  if (ip[0] != 0x45 || ip[9] != kTcpProtocol || get16(tcp + 2) != kPort) return std::nullopt;
  const std::uint32_t begin = kIpBytes + 4 * (std::uint32_t{tcp[12]} >> 4);
  const std::uint32_t end = get16(ip + 2);
  if (begin < kIpBytes + kTcpBytes || end < begin || end > length - kEthernetBytes) return std::nullopt;
  return Segment{frame, {reinterpret_cast<const char*>(ip + begin), end - begin}};
}

/// The interface. Its CPU halts until frames come, as that of a function that waits does, and waits for none that go out.
class Link {
 public:
  Link() : number_(first_interface()), device_(number_) {
    device_.begin(virtio::kVersion1 | (device_.offered() & virtio::kEventIndex));
    receive_.emplace(device_, 0, virtio::Queue::Options{.memory = kQueues});
    transmit_.emplace(device_, 1, virtio::Queue::Options{.memory = kQueues + virtio::Queue::kBytes});
    for (std::uint64_t i = 0; i < kBufferCount; ++i) post(kReceived + i * kBufferSize);
    guest::start_interrupts();
    guest::io_apic::route(kFirstPin + number_, {.vector = kVector});
    device_.start();
    receive_->kick();
  }

  /// Hands segments over as they come, without end.
  template <typename Take>
  [[noreturn]] void serve(Take take) {
    for (;;) {
      while (receive(take)) {
      }
      const std::uint64_t seen = interrupt_count(kVector);
      receive_->interrupt_after(1);
      if (receive(take)) continue;
      halt_for_interrupts(kVector, seen + 1);
      device_.window().write32(virtio::kInterruptAcknowledge, 1);
    }
  }

  /// Where the next frame to be sent is to be written.
  [[nodiscard]] std::uint8_t* frame() const { return &memory_at<std::uint8_t>(next_sent() + kVirtioHeader); }
  void send(std::uint32_t length) {
    std::fill_n(&memory_at<std::uint8_t>(next_sent()), kVirtioHeader, std::uint8_t{0});
    transmit_->offer({{next_sent(), kVirtioHeader + length, false}});
    transmit_->kick();
    ++sent_;
    while (transmit_->used()) ++taken_;
    for (; sent_ - taken_ == kBufferCount; ++taken_) (void)transmit_->wait();
  }

 private:
  /// Hands the next frame's segment over; false where no frame has come.
  template <typename Take>
  bool receive(Take take) {
    const auto used = receive_->used();
    if (!used) return false;
    const std::uint64_t buffer = buffer_of_[used->id];
    if (used->length > kVirtioHeader)
      if (const auto segment =
              segment_in(&memory_at<std::uint8_t>(buffer + kVirtioHeader), used->length - kVirtioHeader))
        take(*segment);
    post(buffer);
    receive_->kick();
    return true;
  }

  /// The device takes frames in their order, so the buffer after the last one is free as long as one is.
  [[nodiscard]] std::uint64_t next_sent() const { return kSent + sent_ % kBufferCount * kBufferSize; }

  void post(std::uint64_t buffer) { buffer_of_[receive_->offer({{buffer, kBufferSize, true}})] = buffer; }

  unsigned number_;
  virtio::Device device_;
  std::optional<virtio::Queue> receive_, transmit_;
  std::array<std::uint64_t, virtio::Queue::kSize> buffer_of_{};
  std::uint64_t sent_ = 0;
  std::uint64_t taken_ = 0;  // of those, by the device
};

/// The connection of whoever asks now; a newer one takes its place.
class Server {
 public:
  explicit Server(Link& link) : link_(link) {}

  void take(const Segment& segment) {
    if (segment.has(kTcpSyn)) return open(segment);
    if (segment.port() != peer_ || segment.has(kTcpReset)) return;
    const bool is_next = segment.sequence() == expected_;
    if (!is_next && segment.data.empty()) return;  // an acknowledgement
    if (is_next) {
      append(segment.data);
      expected_ += static_cast<std::uint32_t>(segment.data.size()) + (segment.has(kTcpFin) ? 1 : 0);
    }
    if (is_next && !segment.data.empty() && is_whole()) return answer(segment);
    if (!segment.data.empty() || segment.has(kTcpFin)) send(segment, kTcpAck, "");
  }

 private:
  static constexpr std::uint32_t kFirst = 0x1000;  // our first sequence number, of every connection

  void open(const Segment& segment) {
    peer_ = segment.port();
    expected_ = segment.sequence() + 1;
    next_ = kFirst;
    length_ = 0;
    send(segment, kTcpSyn | kTcpAck, "");
    ++next_;
  }

  void append(std::string_view data) {
    const std::size_t count = std::min(data.size(), request_.size() - length_);
    std::copy_n(data.begin(), count, request_.begin() + length_);
    length_ += count;
  }
  [[nodiscard]] std::string_view request() const { return {request_.data(), length_}; }
  /// Where the head ends; npos where it has not yet.
  [[nodiscard]] std::size_t body_begin() const {
    const std::size_t end = request().find("\r\n\r\n");
    return end == std::string_view::npos ? end : end + 4;
  }
  [[nodiscard]] bool is_whole() const {
    const std::size_t begin = body_begin();
    return begin != std::string_view::npos && length_ - begin >= body_length();
  }
  [[nodiscard]] std::size_t body_length() const {
    constexpr std::string_view kName = "Content-Length: ";
    const std::size_t at = request().find(kName);
    if (at >= body_begin()) return 0;
    std::size_t length = 0;
    for (std::size_t i = at + kName.size(); request_[i] >= '0' && request_[i] <= '9'; ++i)
      length = length * 10 + static_cast<std::size_t>(request_[i] - '0');
    return length;
  }

  void answer(const Segment& segment) {
    if (request().starts_with("GET /die ")) guest::reset();
    if (request().starts_with("GET /hang ")) return send(segment, kTcpAck, "");
    ++answered_;
    answer_length_ = 0;
    say("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nConnection: close\r\n\r\nrequest ");
    say(answered_);
    say("\n");
    const std::size_t begin = body_begin();
    for (const char c : request().substr(begin, body_length()))
      if (answer_length_ < answer_.size())
        answer_[answer_length_++] = c >= 'a' && c <= 'z' ? static_cast<char>(c - 32) : c;
    std::string_view left{answer_.data(), answer_length_};
    while (!left.empty()) {
      const std::string_view part = left.substr(0, kSegment);
      left.remove_prefix(part.size());
      const bool last = left.empty();
      send(segment, static_cast<std::uint8_t>(kTcpAck | kTcpPush | (last ? kTcpFin : 0)), part);
      next_ += static_cast<std::uint32_t>(part.size()) + (last ? 1 : 0);
    }
    length_ = 0;
  }
  void say(std::string_view text) {
    std::copy_n(text.begin(), text.size(), answer_.begin() + answer_length_);
    answer_length_ += text.size();
  }
  void say(std::uint64_t number) {
    if (number >= 10) say(number / 10);
    answer_[answer_length_++] = static_cast<char>('0' + number % 10);
  }

  /// To where `to` came from.
  void send(const Segment& to, std::uint8_t flags, std::string_view data) {
    std::uint8_t* frame = link_.frame();
    std::copy_n(to.frame + 6, 6, frame);
    std::copy_n(to.frame, 6, frame + 6);
    put16(frame + 12, 0x0800);
    const auto length = static_cast<std::uint32_t>(kTcpBytes + data.size());
    std::uint8_t* ip = frame + kEthernetBytes;
    std::fill_n(ip, kIpBytes, std::uint8_t{0});
    ip[0] = 0x45;
    put16(ip + 2, kIpBytes + length);
    ip[8] = 64;  // hops
    ip[9] = 6;   // TCP
    std::copy_n(to.ip() + 16, 4, ip + 12);
    std::copy_n(to.ip() + 12, 4, ip + 16);
    put16(ip + 10, folded(sum_of(ip, kIpBytes)));
    std::uint8_t* tcp = ip + kIpBytes;
    std::fill_n(tcp, kTcpBytes, std::uint8_t{0});
    put16(tcp, kPort);
    put16(tcp + 2, to.port());
    put32(tcp + 4, next_);
    put32(tcp + 8, expected_);
    tcp[12] = kTcpBytes / 4 << 4;
    tcp[13] = flags;
    put16(tcp + 14, 0xFFFF);  // window
    std::copy_n(data.begin(), data.size(), tcp + kTcpBytes);
    put16(tcp + 16, folded(sum_of(ip + 12, 8) + ip[9] + length + sum_of(tcp, length)));
    link_.send(kEthernetBytes + kIpBytes + length);
  }

  Link& link_;
  std::uint32_t peer_ = 0;
  std::uint32_t expected_ = 0;
  std::uint32_t next_ = 0;
  std::uint64_t answered_ = 0;
  std::size_t length_ = 0;
  std::size_t answer_length_ = 0;
  std::array<char, 64 * 1024> request_{};
  std::array<char, 64 * 1024> answer_{};
};

}  // namespace

void guest::guest_main(const BootInfo&) {
  static std::optional<Link> link;
  static std::optional<Server> server;
  server.emplace(link.emplace());
  link->serve([](const Segment& segment) { server->take(segment); });
}
