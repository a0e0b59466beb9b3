#include "runtime/tcp_client.h"

#include "runtime/verdict.h"

#include <algorithm>

namespace guest {
namespace {

constexpr std::uint64_t kTcpQueues = 0x40'0000;
constexpr std::uint64_t kTcpReceived = 0x50'0000;
constexpr std::uint64_t kTcpSent = 0x60'0000;
constexpr std::uint32_t kVirtioHeaderBytes = 12;
constexpr std::uint32_t kHeaders = kEthernetBytes + kIpBytes + kTcpBytes;
constexpr std::uint32_t kSegment = 1460;
constexpr std::array<std::uint8_t, 4> kGuestAddress{172, 16, 0, 2};
constexpr std::array<std::uint8_t, 4> kServiceAddress{169, 254, 169, 254};
constexpr std::uint64_t kAgain = 1'000'000'000;  // cycles until a SYN is sent again

/// How far `to` lies ahead of `from`.
std::int32_t distance(std::uint32_t from, std::uint32_t to) { return static_cast<std::int32_t>(to - from); }

}  // namespace

TcpLink::TcpLink(unsigned number) : device_(number) {
  device_.begin(virtio::kVersion1 | (device_.offered() & virtio::kEventIndex));
  receive_.emplace(device_, 0, virtio::Queue::Options{.memory = kTcpQueues});
  transmit_.emplace(device_, 1, virtio::Queue::Options{.memory = kTcpQueues + virtio::Queue::kBytes});
  for (std::uint64_t i = 0; i < kBufferCount; ++i) post(kTcpReceived + i * kBufferSize);
  device_.start();
  receive_->kick();
}

std::optional<TcpArrival> TcpLink::read(std::uint64_t buffer, std::uint32_t length) {
  if (length < kVirtioHeaderBytes + kHeaders) return std::nullopt;
  const std::uint8_t* frame = &memory_at<std::uint8_t>(buffer + kVirtioHeaderBytes);
  const std::uint8_t* ip = frame + kEthernetBytes;
  const std::uint8_t* tcp = ip + kIpBytes;
  if (get16(frame + 12) != 0x0800 || ip[9] != 6) return std::nullopt;
  const std::uint32_t begin = kIpBytes + 4 * (std::uint32_t{tcp[12]} >> 4);
  const std::uint32_t end = get16(ip + 2);
  expect(begin >= kIpBytes + kTcpBytes && end >= begin && end <= length - kVirtioHeaderBytes - kEthernetBytes,
         "lengths are right");
  expect_equal(folded(sum_of(ip + 12, 8) + 6 + (end - kIpBytes) + sum_of(tcp, end - kIpBytes)), 0U,
               "the checksum is right");
  return TcpArrival{.service_port = static_cast<std::uint16_t>(get16(tcp)),
                    .own_port = static_cast<std::uint16_t>(get16(tcp + 2)),
                    .sequence = get32(tcp + 4),
                    .acknowledgment = get32(tcp + 8),
                    .flags = tcp[13],
                    .window = get16(tcp + 14),
                    .data = {reinterpret_cast<const char*>(ip + begin), end - begin}};
}

/// The device takes frames in their order, so the buffer after the last one is free as long as one is.
std::uint64_t TcpLink::next_buffer() {
  for (; transmit_->used(); ++taken_) {
  }
  for (; sent_ - taken_ == kBufferCount; ++taken_) (void)transmit_->wait();
  return kTcpSent + sent_++ % kBufferCount * kBufferSize;
}

void TcpLink::send_to_nobody() {
  const std::uint64_t buffer = next_buffer();
  constexpr std::uint32_t kLength = kVirtioHeaderBytes + 60;
  std::fill_n(&memory_at<std::uint8_t>(buffer), kLength, std::uint8_t{0});
  put16(&memory_at<std::uint8_t>(buffer + kVirtioHeaderBytes + 12), 0x88B5);  // IEEE 802: local experimental
  transmit_->offer({{buffer, kLength, false}});
  transmit_->kick();
}

void TcpLink::send(const TcpArrival& header) {
  const std::uint64_t buffer = next_buffer();
  std::uint8_t* frame = &memory_at<std::uint8_t>(buffer);
  std::fill_n(frame, kVirtioHeaderBytes + kHeaders, std::uint8_t{0});
  frame += kVirtioHeaderBytes;
  frame[0] = frame[6] = 0x06;  // locally administered
  frame[11] = 1;
  put16(frame + 12, 0x0800);
  const std::uint32_t options = (header.flags & kTcpSyn) != 0 ? 4 : 0;
  const auto length = static_cast<std::uint32_t>(kTcpBytes + options + header.data.size());
  std::uint8_t* ip = frame + kEthernetBytes;
  ip[0] = 0x45;
  put16(ip + 2, kIpBytes + length);
  ip[8] = 64;
  ip[9] = 6;
  std::copy_n(kGuestAddress.begin(), 4, ip + 12);
  std::copy_n(kServiceAddress.begin(), 4, ip + 16);
  put16(ip + 10, folded(sum_of(ip, kIpBytes)));
  std::uint8_t* tcp = ip + kIpBytes;
  put16(tcp, header.own_port);
  put16(tcp + 2, header.service_port);
  put32(tcp + 4, header.sequence);
  put32(tcp + 8, header.acknowledgment);
  tcp[12] = static_cast<std::uint8_t>((kTcpBytes + options) / 4 << 4);
  tcp[13] = header.flags;
  put16(tcp + 14, header.window);
  if (options != 0) put32(tcp + kTcpBytes, 2U << 24 | 4U << 16 | kSegment);
  std::copy_n(header.data.begin(), header.data.size(), tcp + kTcpBytes + options);
  put16(tcp + 16, folded(sum_of(ip + 12, 8) + 6 + length + sum_of(tcp, length)));
  transmit_->offer({{buffer, kVirtioHeaderBytes + kEthernetBytes + kIpBytes + length, false}});
  transmit_->kick();
}

void TcpClient::open(std::uint16_t service_port) {
  ++port_;
  service_port_ = service_port;
  state_ = State::Opening;
  finishing_ = finished_ = saw_end_ = acknowledge_ = false;
  in_length_ = out_length_ = expected_ = window_ = 0;
  unacknowledged_ = next_ = 1000;
  opened_at_ = 0;
}

void TcpClient::take(const TcpArrival& arrival) {
  if (arrival.own_port != port_ || arrival.service_port != service_port_) return;
  if (state_ == State::Closed || state_ == State::Reset) return;
  if ((arrival.flags & kTcpReset) != 0) {
    state_ = State::Reset;
    return;
  }
  if (state_ == State::Opening) {
    if ((arrival.flags & kTcpSyn) == 0 || arrival.acknowledgment != unacknowledged_ + 1) return;
    unacknowledged_ = next_ = arrival.acknowledgment;
    expected_ = arrival.sequence + 1;
    window_ = arrival.window;
    state_ = State::Open;
    acknowledge_ = true;
    return;
  }
  if (const std::int32_t news = distance(unacknowledged_, arrival.acknowledgment); news >= 0) {
    const auto data = std::min(static_cast<std::uint32_t>(news), out_length_);  // the rest is our end
    std::copy(&out_[data], out_.data() + out_length_, out_.data());
    out_length_ -= data;
    unacknowledged_ = arrival.acknowledgment;
    window_ = arrival.window;
  }
  if (!arrival.data.empty() || (arrival.flags & kTcpFin) != 0) acknowledge_ = true;
  if (arrival.sequence != expected_ || saw_end_ || arrival.data.size() > kRoom - in_length_) return;
  std::copy(arrival.data.begin(), arrival.data.end(), in_.data() + in_length_);
  in_length_ += static_cast<std::uint32_t>(arrival.data.size());
  expected_ += static_cast<std::uint32_t>(arrival.data.size());
  if ((arrival.flags & kTcpFin) != 0) {
    saw_end_ = true;
    ++expected_;
  }
}

void TcpClient::push() {
  if (state_ == State::Opening) {
    if (opened_at_ != 0 && rdtsc() - opened_at_ < kAgain) return;
    opened_at_ = rdtsc();
    return say(kTcpSyn);
  }
  if (state_ != State::Open) return;
  while (!finished_) {
    const std::uint32_t done = next_ - unacknowledged_;
    const std::uint32_t room = window_ > done ? window_ - done : 0;
    const std::uint32_t length = std::min({out_length_ - done, room, kSegment});
    const bool ends = finishing_ && done + length == out_length_;
    if (length == 0 && !ends) break;
    say(static_cast<std::uint8_t>(kTcpAck | (ends ? kTcpFin : 0)), {&out_[done], length});
    next_ += length + (ends ? 1 : 0);
    finished_ = ends;
  }
  if (acknowledge_) say(kTcpAck);
}

void TcpClient::consume(std::uint32_t length) {
  if (in_length_ > kRoom / 2 && length > 0) acknowledge_ = true;  // there is room again
  std::copy(&in_[length], in_.data() + in_length_, in_.data());
  in_length_ -= length;
}

std::uint32_t TcpClient::send(std::string_view data) {
  const auto length = std::min(static_cast<std::uint32_t>(data.size()), kRoom - out_length_);
  std::copy_n(data.begin(), length, out_.data() + out_length_);
  out_length_ += length;
  return length;
}

void TcpClient::say(std::uint8_t flags, std::string_view data) {
  acknowledge_ = false;
  link_.send({.service_port = service_port_,
              .own_port = port_,
              .sequence = next_,
              .acknowledgment = expected_,
              .flags = flags,
              .window = kRoom - in_length_,
              .data = data});
}

}  // namespace guest
