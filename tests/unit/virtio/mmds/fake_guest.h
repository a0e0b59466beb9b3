#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

/// The guest's end of the wire, for tests of the metadata service: frames byte by byte, and a TCP client. It shares no
/// code with what it tests.
namespace mayfly::testing {

using Frame = std::vector<std::uint8_t>;

inline constexpr std::array<std::uint8_t, 6> kGuestMac = {0x06, 0, 0xAC, 0x10, 0, 2};
inline constexpr std::array<std::uint8_t, 4> kGuestIp = {172, 16, 0, 2};
inline constexpr std::array<std::uint8_t, 4> kServiceIp = {169, 254, 169, 254};

inline constexpr std::uint8_t kFin = 1, kSyn = 2, kRst = 4, kPsh = 8, kAck = 16;

inline void put16(Frame& frame, unsigned value) {
  frame.push_back(static_cast<std::uint8_t>(value >> 8));
  frame.push_back(static_cast<std::uint8_t>(value));
}
inline void put32(Frame& frame, std::uint32_t value) {
  put16(frame, value >> 16);
  put16(frame, value & 0xFFFF);
}
inline unsigned get16(std::span<const std::uint8_t> bytes, std::size_t at) { return bytes[at] * 256U + bytes[at + 1]; }
inline std::uint32_t get32(std::span<const std::uint8_t> bytes, std::size_t at) {
  return get16(bytes, at) * 65536U + get16(bytes, at + 2);
}
inline void set16(Frame& frame, std::size_t at, unsigned value) {
  frame[at] = static_cast<std::uint8_t>(value >> 8);
  frame[at + 1] = static_cast<std::uint8_t>(value);
}

/// RFC 1071, over the bytes one after the other.
inline unsigned internet_checksum(std::span<const std::uint8_t> bytes) {
  std::uint64_t sum = 0;
  for (std::size_t i = 0; i < bytes.size(); ++i) sum += i % 2 == 0 ? bytes[i] * 256U : bytes[i];
  while (sum > 0xFFFF) sum = sum % 65536 + sum / 65536;
  return static_cast<unsigned>(65535 - sum);
}

/// A segment of the guest; the members are what tests change.
struct GuestSegment {
  std::uint16_t source_port = 40000;
  std::uint16_t destination_port = 80;
  std::uint32_t sequence = 0;
  std::uint32_t acknowledgment = 0;
  std::uint8_t flags = kAck;
  std::uint16_t window = 65535;
  std::string payload{};
  Frame tcp_options{};
  Frame ip_options{};
  std::array<std::uint8_t, 4> source = kGuestIp;
  std::array<std::uint8_t, 4> destination = kServiceIp;
  unsigned fragment = 0x4000;
  std::uint8_t protocol = 6;
  std::uint8_t version = 4;
};

/// Fills both checksums in again.
inline void fix_checksums(Frame& frame) {
  const std::size_t ip = 14;
  const std::size_t ip_length = (frame[ip] & 15U) * 4;
  set16(frame, ip + 10, 0);
  set16(frame, ip + 10, internet_checksum(std::span{frame}.subspan(ip, ip_length)));
  const std::size_t tcp = ip + ip_length;
  const std::size_t tcp_length = get16(frame, ip + 2) - ip_length;
  set16(frame, tcp + 16, 0);
  Frame pseudo(frame.begin() + ip + 12, frame.begin() + ip + 20);
  put16(pseudo, frame[ip + 9]);
  put16(pseudo, static_cast<unsigned>(tcp_length));
  pseudo.insert(pseudo.end(), frame.begin() + static_cast<std::ptrdiff_t>(tcp),
                frame.begin() + static_cast<std::ptrdiff_t>(tcp + tcp_length));
  set16(frame, tcp + 16, internet_checksum(pseudo));
}

inline Frame frame_of(const GuestSegment& segment) {
  Frame frame = {0x06, 1, 0x23, 0x45, 0x67, 1};
  frame.insert(frame.end(), kGuestMac.begin(), kGuestMac.end());
  put16(frame, 0x0800);
  const std::size_t tcp_length = 20 + segment.tcp_options.size();
  const std::size_t ip_length = 20 + segment.ip_options.size();
  frame.push_back(static_cast<std::uint8_t>(segment.version * 16U + ip_length / 4));
  frame.push_back(0);
  put16(frame, static_cast<unsigned>(ip_length + tcp_length + segment.payload.size()));
  put16(frame, 0x1234);
  put16(frame, segment.fragment);
  frame.push_back(64);
  frame.push_back(segment.protocol);
  put16(frame, 0);
  frame.insert(frame.end(), segment.source.begin(), segment.source.end());
  frame.insert(frame.end(), segment.destination.begin(), segment.destination.end());
  frame.insert(frame.end(), segment.ip_options.begin(), segment.ip_options.end());
  put16(frame, segment.source_port);
  put16(frame, segment.destination_port);
  put32(frame, segment.sequence);
  put32(frame, segment.acknowledgment);
  frame.push_back(static_cast<std::uint8_t>(tcp_length / 4 * 16));
  frame.push_back(segment.flags);
  put16(frame, segment.window);
  put32(frame, 0);
  frame.insert(frame.end(), segment.tcp_options.begin(), segment.tcp_options.end());
  frame.insert(frame.end(), segment.payload.begin(), segment.payload.end());
  fix_checksums(frame);
  return frame;
}

/// An ARP request for the service's address.
inline Frame arp_frame(std::array<std::uint8_t, 4> target = kServiceIp, unsigned operation = 1) {
  Frame frame(6, 0xFF);
  frame.insert(frame.end(), kGuestMac.begin(), kGuestMac.end());
  put16(frame, 0x0806);
  put16(frame, 1);
  put16(frame, 0x0800);
  put16(frame, 0x0604);
  put16(frame, operation);
  frame.insert(frame.end(), kGuestMac.begin(), kGuestMac.end());
  frame.insert(frame.end(), kGuestIp.begin(), kGuestIp.end());
  frame.insert(frame.end(), 6, 0);
  frame.insert(frame.end(), target.begin(), target.end());
  return frame;
}

/// `frame` with a tag of `type` (IEEE 802.1Q; priority 0, no VLAN) before what it had.
inline Frame tagged(Frame frame, unsigned type) {
  frame.insert(frame.begin() + 12, {0, 0, 0, 0});
  set16(frame, 12, type);
  return frame;
}

/// A segment of the service as the guest sees it.
struct ServiceSegment {
  std::uint16_t source_port = 0;
  std::uint16_t destination_port = 0;
  std::uint32_t sequence = 0;
  std::uint32_t acknowledgment = 0;
  std::uint8_t flags = 0;
  std::uint16_t window = 0;
  unsigned maximum_segment = 0;
  std::string payload{};

  [[nodiscard]] bool has(std::uint8_t wanted) const { return (flags & wanted) == wanted; }
};

/// nullopt: not a TCP segment that a careful guest would take.
inline std::optional<ServiceSegment> read_service_segment(const Frame& frame) {
  if (frame.size() < 54 || frame.size() > 1514) return std::nullopt;
  if (!std::equal(kGuestMac.begin(), kGuestMac.end(), frame.begin()) || frame[6] != 6) return std::nullopt;
  if (get16(frame, 12) != 0x0800 || frame[14] != 0x45 || get16(frame, 16) != frame.size() - 14 || frame[23] != 6)
    return std::nullopt;
  if (!std::equal(kServiceIp.begin(), kServiceIp.end(), frame.begin() + 26)) return std::nullopt;
  Frame fixed = frame;
  fix_checksums(fixed);
  if (fixed != frame) return std::nullopt;
  const std::size_t header = frame[46] / 16 * 4U;
  if (header < 20 || 34 + header > frame.size()) return std::nullopt;
  ServiceSegment segment{.source_port = static_cast<std::uint16_t>(get16(frame, 34)),
                         .destination_port = static_cast<std::uint16_t>(get16(frame, 36)),
                         .sequence = get32(frame, 38),
                         .acknowledgment = get32(frame, 42),
                         .flags = frame[47],
                         .window = static_cast<std::uint16_t>(get16(frame, 48)),
                         .payload = std::string(frame.begin() + 34 + static_cast<std::ptrdiff_t>(header), frame.end())};
  if (header == 24 && frame[54] == 2 && frame[55] == 4) segment.maximum_segment = get16(frame, 56);
  return segment;
}

/// A TCP client that is simple and tolerant: it takes what is in order, acknowledges all it has, and sends again
/// whatever was not acknowledged when it is told that time has passed.
class TcpClient {
 public:
  explicit TcpClient(std::uint16_t port, std::uint32_t first_sequence = 1000)
      : port_(port), unacknowledged_(first_sequence), next_(first_sequence) {}

  std::uint16_t window = 65535;
  std::uint16_t maximum_segment = 1460;
  std::uint16_t service_port = 80;
  std::size_t segment_length = 1460;  ///< Of what it sends.

  [[nodiscard]] std::uint16_t port() const { return port_; }
  [[nodiscard]] const std::string& received() const { return received_; }
  [[nodiscard]] bool open() const { return open_; }
  [[nodiscard]] bool saw_end() const { return saw_end_; }
  [[nodiscard]] bool was_reset() const { return was_reset_; }
  [[nodiscard]] bool all_acknowledged() const { return unacknowledged_ == end(); }
  [[nodiscard]] std::uint32_t sequence() const { return next_; }
  [[nodiscard]] std::uint32_t expected() const { return expected_; }
  [[nodiscard]] std::uint32_t unacknowledged() const { return unacknowledged_; }

  /// What is to go out now, the first time or again.
  [[nodiscard]] std::vector<Frame> resend() {
    if (was_reset_) return {};
    next_ = unacknowledged_;
    if (!open_) {
      ++next_;
      GuestSegment syn = bare(kSyn, unacknowledged_);
      syn.acknowledgment = 0;
      syn.tcp_options = {2,
                         4,
                         static_cast<std::uint8_t>(maximum_segment >> 8),
                         static_cast<std::uint8_t>(maximum_segment),
                         1,
                         3,
                         3,
                         7,
                         4,
                         2,
                         1,
                         1};
      return {frame_of(syn)};
    }
    return fresh();
  }
  [[nodiscard]] std::vector<Frame> send(std::string_view data) {
    out_ += data;
    return open_ ? fresh() : std::vector<Frame>{};
  }
  [[nodiscard]] std::vector<Frame> finish() {
    finishing_ = true;
    return open_ ? fresh() : std::vector<Frame>{};
  }
  [[nodiscard]] Frame acknowledgment() const { return frame_of(bare(kAck, next_)); }
  [[nodiscard]] Frame reset() const { return frame_of(bare(kRst | kAck, next_)); }

  /// Takes a segment for its port; what it says to that.
  [[nodiscard]] std::vector<Frame> take(const ServiceSegment& segment) {
    if (was_reset_) return {};
    if (segment.has(kRst)) {
      was_reset_ = true;
      return {};
    }
    if (segment.has(kSyn)) {
      if (!open_ && segment.acknowledgment == unacknowledged_ + 1) {
        open_ = true;
        out_at_ = next_ = unacknowledged_ = segment.acknowledgment;
        expected_ = segment.sequence + 1;
        peer_window_ = segment.window;
      }
      return answer(true);
    }
    if (!open_) return {};
    if (const std::uint32_t news = segment.acknowledgment - unacknowledged_; news <= end() - unacknowledged_) {
      unacknowledged_ = segment.acknowledgment;
      if (static_cast<std::int32_t>(next_ - unacknowledged_) < 0) next_ = unacknowledged_;
      peer_window_ = segment.window;
    }
    const bool in_order = segment.sequence == expected_;
    if (in_order && !saw_end_) {
      received_ += segment.payload;
      expected_ += static_cast<std::uint32_t>(segment.payload.size());
      if (segment.has(kFin)) {
        saw_end_ = true;
        ++expected_;
      }
    }
    return answer(!segment.payload.empty() || segment.has(kFin) || !in_order);
  }

 private:
  [[nodiscard]] GuestSegment bare(unsigned flags, std::uint32_t sequence) const {
    return {.source_port = port_,
            .destination_port = service_port,
            .sequence = sequence,
            .acknowledgment = expected_,
            .flags = static_cast<std::uint8_t>(flags),
            .window = window};
  }
  [[nodiscard]] std::uint32_t end() const {
    if (!open_) return next_;
    return out_at_ + static_cast<std::uint32_t>(out_.size()) + (finishing_ ? 1U : 0U);
  }
  [[nodiscard]] std::vector<Frame> answer(bool acknowledge) {
    auto frames = fresh();
    if (frames.empty() && acknowledge) frames.push_back(acknowledgment());
    return frames;
  }
  /// What was not sent yet, as far as the service's window goes.
  [[nodiscard]] std::vector<Frame> fresh() {
    std::vector<Frame> frames;
    while (next_ != end()) {
      const std::size_t at = next_ - out_at_;
      const std::uint32_t flight = next_ - unacknowledged_;
      const std::size_t room = peer_window_ > flight ? peer_window_ - flight : 0;
      const std::size_t left = out_.size() - std::min(at, out_.size());
      const std::size_t length = std::min({left, segment_length, room});
      if (length == 0 && left > 0) break;
      GuestSegment segment = bare(kAck | kPsh, next_);
      segment.payload = out_.substr(std::min(at, out_.size()), length);
      next_ += static_cast<std::uint32_t>(length);
      if (finishing_ && length == left) {
        segment.flags |= kFin;
        ++next_;
      }
      frames.push_back(frame_of(segment));
    }
    return frames;
  }

  std::uint16_t port_;
  bool open_ = false;
  bool finishing_ = false;
  bool saw_end_ = false;
  bool was_reset_ = false;
  std::uint32_t unacknowledged_;
  std::uint32_t next_;
  std::uint32_t expected_ = 0;
  std::uint32_t out_at_ = 0;
  std::uint32_t peer_window_ = 0;
  std::string out_;
  std::string received_;
};

}  // namespace mayfly::testing
