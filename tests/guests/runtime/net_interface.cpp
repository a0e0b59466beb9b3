#include "runtime/net_interface.h"

#include "runtime/verdict.h"

#include <algorithm>

namespace guest {
namespace {

constexpr std::uint64_t kCsum = 1ULL << 0;
constexpr std::uint64_t kGuestCsum = 1ULL << 1;
constexpr std::uint64_t kMtu = 1ULL << 3;
constexpr std::uint64_t kMac = 1ULL << 5;
constexpr std::uint64_t kGuestTso4 = 1ULL << 7;
constexpr std::uint64_t kHostTso4 = 1ULL << 11;
constexpr std::uint64_t kMergeable = 1ULL << 15;
constexpr std::uint64_t kUnfinished = kCsum | kGuestCsum | kGuestTso4 | kHostTso4;

constexpr std::uint64_t kQueues = 0x40'0000;
constexpr std::uint64_t kHeaders = 0x44'0000;   // of echoed frames, one a head
constexpr std::uint64_t kBuffers = 0x100'0000;  // 16 MiB up
constexpr std::uint32_t kWholeFrame = 68 * 1024;
constexpr unsigned kBufferCount = 192;
constexpr unsigned kWholeFrameCount = 32;

void swap_addresses(std::uint64_t frame) {
  for (std::uint64_t i = 0; i < 6; ++i) {
    auto& to = memory_at<volatile std::uint8_t>(frame + i);
    auto& from = memory_at<volatile std::uint8_t>(frame + 6 + i);
    const std::uint8_t kept = to;
    to = from;
    from = kept;
  }
}

}  // namespace

unsigned first_interface() {
  for (unsigned number = 0; number < 16; ++number)
    if (virtio::Device{number}.type() == virtio::kTypeNet) return number;
  fail("there is a network interface");
}

NetInterface::NetInterface(unsigned number, const Options& options)
    : device_(number),
      mergeable_(options.mergeable),
      buffer_size_(!options.mergeable         ? kWholeFrame
                   : options.buffer_size != 0 ? options.buffer_size
                                              : 4096) {
  const std::uint64_t wanted =
      kMtu | kMac | virtio::kEventIndex | (mergeable_ ? kMergeable : 0) | (options.unfinished ? kUnfinished : 0);
  device_.begin(virtio::kVersion1 | (device_.offered() & wanted));
  receive_.emplace(device_, 0, virtio::Queue::Options{.memory = kQueues});
  transmit_.emplace(device_, 1, virtio::Queue::Options{.memory = kQueues + virtio::Queue::kBytes});
  const unsigned count = mergeable_ ? kBufferCount : kWholeFrameCount;
  for (std::uint16_t i = 0; i < count; ++i) post(i);
  device_.start();
  receive_->kick();
}

std::uint64_t NetInterface::address(std::uint16_t buffer) const {
  return kBuffers + std::uint64_t{buffer} * buffer_size_;
}

void NetInterface::post(std::uint16_t buffer) {
  const std::uint16_t head = receive_->offer({{address(buffer), buffer_size_, true}});
  buffer_of_[head] = buffer;
}

void NetInterface::post(Frame& frame) {
  for (std::uint16_t i = 0; i < frame.count; ++i) post(frame.buffers[i]);
  frame.count = 0;
}

/// Whether an echoed frame has left: its buffers are posted anew.
bool NetInterface::take_back() {
  const auto sent = transmit_->used();
  if (sent) post(in_flight_[sent->id]);
  return sent.has_value();
}

std::optional<NetInterface::Frame> NetInterface::receive() {
  const auto first = receive_->used();
  if (!first) return std::nullopt;
  Frame frame;
  frame.buffers[frame.count++] = buffer_of_[first->id];
  frame.first_length = first->length;
  frame.length = first->length - static_cast<std::uint32_t>(kHeaderSize);
  if (!mergeable_) return frame;
  const auto parts = memory_at<volatile std::uint16_t>(address(frame.buffers[0]) + 10);
  expect(parts >= 1 && parts <= frame.buffers.size(), "num_buffers says how many buffers follow");
  while (frame.count < parts) {
    const virtio::Used next = receive_->wait();  // all of a frame become visible together
    frame.buffers[frame.count++] = buffer_of_[next.id];
    frame.length += next.length;
  }
  return frame;
}

unsigned NetInterface::echo() {
  while (take_back()) {
  }
  receive_->kick();
  unsigned answered = 0;
  for (; const auto frame = receive(); ++answered) answer(*frame);
  if (answered > 0) transmit_->kick();
  return answered;
}

void NetInterface::answer(const Frame& frame) {
  const std::uint64_t header = address(frame.buffers[0]);
  const std::uint64_t out = kHeaders + slot_++ % virtio::Queue::kSize * 16;
  memory_at<volatile std::uint64_t>(out) = 0;
  memory_at<volatile std::uint32_t>(out + 8) = 0;
  std::array<virtio::Buffer, 66> chain{};
  std::size_t count = 0;
  chain[count++] = {out, kHeaderSize, false};
  chain[count++] = {header + kHeaderSize, frame.first_length - static_cast<std::uint32_t>(kHeaderSize), false};
  std::uint32_t left = frame.length - chain[1].length;
  for (std::uint16_t i = 1; i < frame.count; ++i) {
    const std::uint32_t part = std::min(left, buffer_size_);
    chain[count++] = {address(frame.buffers[i]), part, false};
    left -= part;
  }
  swap_addresses(header + kHeaderSize);
  // The device may not know yet of what fills the queue.
  if (transmit_->free_count() < count) transmit_->kick();
  while (transmit_->free_count() < count) (void)take_back();
  const std::uint16_t head = transmit_->offer(std::span{chain}.first(count));
  in_flight_[head] = frame;
}

unsigned NetInterface::sink() {
  unsigned count = 0;
  for (; auto frame = receive(); ++count) post(*frame);
  if (count > 0) receive_->kick();
  return count;
}

unsigned NetInterface::send(std::uint64_t address, std::uint32_t length, std::uint64_t at_most) {
  unsigned sent = 0;
  while (transmit_->used()) ++sent;
  sending_ -= sent;
  unsigned offered = 0;
  for (; transmit_->free_count() > 0 && offered < at_most; ++offered)
    transmit_->offer({{address, static_cast<std::uint32_t>(kHeaderSize) + length, false}});
  if (offered > 0) transmit_->kick();
  sending_ += offered;
  return sent;
}

}  // namespace guest
