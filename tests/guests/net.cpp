#include "runtime/guest.h"
#include "runtime/virtio.h"

/// A network interface that sends every frame back to its sender, whatever its size: the addresses swapped, the data
/// where it was received. The interface is the first device that is one. Command line: mac=0x060000000001 (what the
/// device must say), mtu=1500, count=N (frames to answer before the guest passes), mergeable=0 to do without.
namespace {

using guest::expect;
using guest::expect_equal;
using guest::print;
namespace virtio = guest::virtio;

constexpr std::uint64_t kMtu = 1ULL << 3;
constexpr std::uint64_t kMac = 1ULL << 5;
constexpr std::uint64_t kMergeable = 1ULL << 15;

constexpr std::uint64_t kHeaderSize = 12;
constexpr std::uint64_t kQueues = 0x40'0000;
constexpr std::uint64_t kHeaders = 0x44'0000;   // of transmitted frames, one a head
constexpr std::uint64_t kBuffers = 0x100'0000;  // 16 MiB up
constexpr unsigned kBufferCount = 192;

struct Frame {
  std::array<std::uint16_t, 64> buffers{};  // in their order
  std::uint16_t count = 0;
};

class Interface {
 public:
  explicit Interface(unsigned number, bool mergeable)
      : device_(number), mergeable_(mergeable), buffer_size_(mergeable ? 4096 : 68 * 1024) {
    const std::uint64_t wanted = kMtu | kMac | virtio::kEventIndex | (mergeable ? kMergeable : 0);
    device_.begin(virtio::kVersion1 | (device_.offered() & wanted));
    receive_.emplace(device_, 0, virtio::Queue::Options{.memory = kQueues});
    transmit_.emplace(device_, 1, virtio::Queue::Options{.memory = kQueues + virtio::Queue::kBytes});
    const unsigned count = mergeable ? kBufferCount : 32;
    for (std::uint16_t i = 0; i < count; ++i) post(i);
    device_.start();
    receive_->kick();
  }
  [[nodiscard]] const virtio::Device& device() const { return device_; }

  /// Answers what has come; the number of frames.
  unsigned turn() {
    unsigned answered = 0;
    while (const auto sent = transmit_->used()) {
      Frame& frame = in_flight_[sent->id];
      for (std::uint16_t i = 0; i < frame.count; ++i) post(frame.buffers[i]);
      frame.count = 0;
    }
    receive_->kick();
    while (const auto first = receive_->used()) {
      answer(*first);
      ++answered;
    }
    if (answered > 0) transmit_->kick();
    return answered;
  }

 private:
  [[nodiscard]] std::uint64_t address(std::uint16_t buffer) const { return kBuffers + buffer * buffer_size_; }
  void post(std::uint16_t buffer) {
    const std::uint16_t head = receive_->offer({{address(buffer), static_cast<std::uint32_t>(buffer_size_), true}});
    buffer_of_[head] = buffer;
  }

  void answer(const virtio::Used& first) {
    Frame frame;
    frame.buffers[frame.count++] = buffer_of_[first.id];
    const std::uint64_t header = address(frame.buffers[0]);
    const auto parts = guest::memory_at<volatile std::uint16_t>(header + 10);
    if (mergeable_) expect(parts >= 1 && parts <= frame.buffers.size(), "num_buffers says how many buffers follow");
    std::array<virtio::Buffer, 66> chain{};
    std::size_t count = 1;
    chain[count++] = {header + kHeaderSize, first.length - static_cast<std::uint32_t>(kHeaderSize), false};
    for (std::uint16_t i = 1; mergeable_ && i < parts; ++i) {
      const virtio::Used next = receive_->wait();  // all of a frame become visible together
      frame.buffers[frame.count++] = buffer_of_[next.id];
      chain[count++] = {address(buffer_of_[next.id]), next.length, false};
    }
    swap_addresses(header + kHeaderSize);
    while (transmit_->free_count() < count) {
      if (const auto sent = transmit_->used()) {
        Frame& done = in_flight_[sent->id];
        for (std::uint16_t i = 0; i < done.count; ++i) post(done.buffers[i]);
        done.count = 0;
      }
    }
    const std::uint64_t out = kHeaders + slot_++ % 256 * 16;
    guest::memory_at<volatile std::uint64_t>(out) = 0;
    guest::memory_at<volatile std::uint32_t>(out + 8) = 0;
    chain[0] = {out, kHeaderSize, false};
    const std::uint16_t head = transmit_->offer(std::span{chain}.first(count));
    in_flight_[head] = frame;
  }

  static void swap_addresses(std::uint64_t frame) {
    for (std::uint64_t i = 0; i < 6; ++i) {
      auto& to = guest::memory_at<volatile std::uint8_t>(frame + i);
      auto& from = guest::memory_at<volatile std::uint8_t>(frame + 6 + i);
      const std::uint8_t kept = to;
      to = from;
      from = kept;
    }
  }

  virtio::Device device_;
  bool mergeable_;
  std::uint64_t buffer_size_;
  std::optional<virtio::Queue> receive_, transmit_;
  std::array<std::uint16_t, virtio::Queue::kSize> buffer_of_{};
  std::array<Frame, virtio::Queue::kSize> in_flight_{};
  std::uint64_t slot_ = 0;
};

unsigned first_interface() {
  for (unsigned number = 0; number < 16; ++number)
    if (virtio::Device{number}.type() == virtio::kTypeNet) return number;
  guest::fail("there is a network interface");
}

}  // namespace

void guest::guest_main(const BootInfo& boot) {
  const unsigned number = first_interface();
  const virtio::Device device{number};
  if (const std::uint64_t mac = boot.number("mac", 0); mac != 0)
    for (unsigned i = 0; i < 6; ++i)
      expect_equal(device.window().read8(virtio::kConfig + i), mac >> 8 * (5 - i) & 0xFF, "the MAC is as configured");
  if (const std::uint64_t mtu = boot.number("mtu", 0); mtu != 0)
    expect_equal(device.window().read16(virtio::kConfig + 10), mtu, "the MTU is as configured");
  const bool mergeable = boot.number("mergeable", 1) != 0;
  for (int i = 0; i < 50; ++i) Interface{number, mergeable};  // resets with buffers posted
  static std::optional<Interface> interface;
  interface.emplace(number, mergeable);
  print("GUEST READY\n");
  const std::uint64_t wanted = boot.number("count", 0);
  for (std::uint64_t answered = 0; wanted == 0 || answered < wanted;) answered += interface->turn();
  spin_for(100'000'000);  // the last ones are on their way
  pass();
}
