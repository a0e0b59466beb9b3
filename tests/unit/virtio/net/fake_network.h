#pragma once

#include "tests/unit/virtio/fake_driver.h"
#include "virtio/net/net_device.h"
#include "vmm/base/clock.h"

#include <fcntl.h>
#include <sys/socket.h>

#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include <gtest/gtest.h>

/// A network device with a guest's driver at one end and a test at the other: a socket pair that keeps message borders
/// stands for the TAP.
///
///   FakeNetwork net{{.features = kMergeable}};
///   net.transmit(frame);                          // the guest sends
///   EXPECT_EQ(net.from_guest(), Packet{{}, frame});
///   net.post(4, 1536);                            // the guest has room
///   net.to_guest({{}, frame});
///   EXPECT_EQ(net.received(), ...);
namespace mayfly::testing {

using Bytes = std::vector<std::byte>;

/// A frame and the header before it, as they cross the TAP.
struct Packet {
  NetHeader header{};
  Bytes frame{};
  friend bool operator==(const Packet& one, const Packet& other) {
    return std::memcmp(&one.header, &other.header, sizeof(NetHeader)) == 0 && one.frame == other.frame;
  }
};

/// A frame of `length` bytes that differs from all others by `seed`.
inline Bytes make_frame(std::size_t length, unsigned seed = 1) {
  Bytes frame(length);
  std::uint32_t state = seed * 2'654'435'761U + 1;
  for (std::byte& byte : frame) {
    state = state * 1'664'525U + 1'013'904'223U;
    byte = static_cast<std::byte>(state >> 24);
  }
  return frame;
}

/// Everything that the device offers; what a Linux driver accepts.
inline constexpr std::uint64_t kEveryFeature = ~0ULL;

class FakeNetwork {
 public:
  struct Options {
    NetworkInterfaceConfig config{.iface_id = "eth0", .host_dev_name = "tap0"};
    std::uint64_t features = kEveryFeature;  ///< Of those offered.
    Tap* tap = nullptr;                      ///< Instead of the socket pair.
    std::uint64_t ram_mib = 64;
    bool nowait = true;  ///< Of the socket pair: see Tap::adopt().
    std::unique_ptr<FrameResponder> responder{};
    /// The same, of one that needs the loop.
    std::function<std::unique_ptr<FrameResponder>(EventLoop&)> make_responder{};
  };
  FakeNetwork() : FakeNetwork(Options{}) {}
  explicit FakeNetwork(Options options) : ram(options.ram_mib), options_(std::move(options)) {
    loop = std::move(EventLoop::create().value());
    (void)log.configure({.level = LogLevel::Off});
    if (options_.make_responder) options_.responder = options_.make_responder(*loop);
    watchdog_ = std::move(LoopTimer::create(*loop, [this] { late_ = true; }).value());
    clock_ = std::move(LoopTimer::create(*loop, [this] { passed_ = true; }).value());
    device = NetDevice::create(options_.config, options_.tap != nullptr ? std::move(*options_.tap) : make_pair(),
                               std::move(options_.responder), *loop, metrics, log)
                 .value();
    host.emplace(*loop, *device, ram.memory());
  }
  FakeNetwork(const FakeNetwork&) = delete;
  FakeNetwork& operator=(const FakeNetwork&) = delete;
  ~FakeNetwork() { loop->close(); }

  /// Sets the queues up and starts the driver.
  FakeNetwork& start(bool event_index = true) {
    receive_queue.emplace(ram, NetDevice::kQueueSize);
    transmit_queue.emplace(ram, NetDevice::kQueueSize);
    buffers_.clear();
    receive_queue->enable(host->queues()[kNetReceiveQueue], event_index);
    transmit_queue->enable(host->queues()[kNetTransmitQueue], event_index);
    host->activate(device->features() & options_.features);
    return *this;
  }
  /// The same by a driver that accepts `features`, of those offered.
  void start_with(std::uint64_t features) {
    options_.features = features;
    start();
  }
  /// Serves the ring until `reached`; a failure, not a hang, if that never comes.
  template <typename Reached>
  void serve_until(Reached reached) {
    watchdog_->listen();
    watchdog_->arm(monotonic_ns() + 20'000'000'000);
    host->serve_until([&] { return late_ || reached(); });
    watchdog_->cancel();
    if (late_) throw std::runtime_error("what was waited for did not come");
  }

  /// Lets time pass while the loop serves.
  void let_pass(std::uint64_t ns) {
    passed_ = false;
    clock_->listen();
    clock_->arm(monotonic_ns() + ns);
    serve_until([this] { return passed_; });
  }

  // --- The guest's driver

  /// Offers a chain to send: the bytes, cut into pieces of `piece` bytes.
  std::uint16_t offer_transmit(const Bytes& bytes, std::size_t piece = 1 << 20) {
    const GuestAddress at = transmit_room(bytes.size());
    (void)ram.memory().write(at, bytes);
    std::vector<FakeBuffer> buffers;
    for (std::size_t begin = 0; begin < bytes.size(); begin += piece)
      buffers.push_back({{at.value + begin}, static_cast<std::uint32_t>(std::min(piece, bytes.size() - begin)), false});
    return transmit_queue->offer(std::move(buffers));
  }
  void transmit(const Packet& packet, std::size_t piece = 1 << 20) {
    offer_transmit(bytes_of(packet), piece);
    host->kick(kNetTransmitQueue);
  }
  /// How many transmit chains the device has returned since the last look.
  std::size_t take_transmitted() {
    std::size_t returned = 0;
    while (const auto used = transmit_queue->next_used()) {
      EXPECT_EQ(used->length, 0u);
      ++returned;
    }
    return returned;
  }
  /// Waits until the device has returned `count` transmit chains more.
  void wait_transmitted(std::size_t count) {
    std::size_t returned = 0;
    serve_until([&] { return (returned += take_transmitted()) >= count; });
    EXPECT_EQ(returned, count);
  }

  /// Offers `count` receive chains of `pieces` pieces of `size` bytes.
  void post(std::size_t count, std::uint32_t size, std::size_t pieces = 1) {
    for (std::size_t i = 0; i < count; ++i) {
      std::vector<FakeBuffer> buffers;
      for (std::size_t j = 0; j < pieces; ++j) buffers.push_back({ram.room(size), size, true});
      offer_receive(buffers);
    }
    host->kick(kNetReceiveQueue);
  }
  void offer_receive(const std::vector<FakeBuffer>& buffers) { buffers_[receive_queue->offer(buffers)] = buffers; }
  /// What has been received and is complete; its buffers are offered again where `again`.
  std::vector<Packet> take_received(bool again = true) {
    std::vector<Packet> packets;
    while (const auto first = receive_queue->next_used()) {
      Packet packet;
      Bytes bytes = content(*first);
      if (bytes.size() < sizeof(NetHeader)) throw std::runtime_error("a frame without a header");
      std::memcpy(&packet.header, bytes.data(), sizeof(NetHeader));
      std::vector<std::uint32_t> heads = {first->id};
      for (unsigned i = 1; i < packet.header.num_buffers; ++i) {
        const auto next = receive_queue->next_used().value();
        const Bytes more = content(next);
        bytes.insert(bytes.end(), more.begin(), more.end());
        heads.push_back(next.id);
      }
      packet.frame.assign(bytes.begin() + sizeof(NetHeader), bytes.end());
      packets.push_back(std::move(packet));
      for (const std::uint32_t head : heads)
        if (again) offer_receive(buffers_.at(head));
    }
    if (again && !packets.empty()) host->kick(kNetReceiveQueue);
    return packets;
  }
  /// Waits for `count` frames.
  std::vector<Packet> receive(std::size_t count, bool again = true) {
    std::vector<Packet> packets;
    serve_until([&] {
      for (Packet& packet : take_received(again)) packets.push_back(std::move(packet));
      return packets.size() >= count;
    });
    EXPECT_EQ(packets.size(), count);
    return packets;
  }
  std::vector<Packet> receive_at_least_one() {
    std::vector<Packet> packets;
    serve_until([&] { return !(packets = take_received()).empty(); });
    return packets;
  }
  Packet receive_one(bool again = true) { return receive(1, again).at(0); }

  // --- The wire's other end

  void to_guest(const Packet& packet) {
    const Bytes bytes = bytes_of(packet);
    if (::send(wire.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL) != static_cast<ssize_t>(bytes.size()))
      throw std::runtime_error("the wire takes no more");
  }
  /// What has come out of the guest, if anything has.
  std::optional<Packet> try_from_guest() {
    Bytes bytes(sizeof(NetHeader) + kMaximumFrameLength + 1);
    const ssize_t length = ::recv(wire.get(), bytes.data(), bytes.size(), MSG_DONTWAIT);
    if (length < 0) return std::nullopt;
    bytes.resize(static_cast<std::size_t>(length));
    Packet packet;
    if (bytes.size() < sizeof(NetHeader)) throw std::runtime_error("a frame without a header");
    std::memcpy(&packet.header, bytes.data(), sizeof(NetHeader));
    packet.frame.assign(bytes.begin() + sizeof(NetHeader), bytes.end());
    return packet;
  }
  Packet from_guest() {
    std::optional<Packet> packet;
    serve_until([&] { return packet || (packet = try_from_guest()); });
    return std::move(*packet);
  }

  static Bytes bytes_of(const Packet& packet) {
    Bytes bytes(sizeof(NetHeader));
    std::memcpy(bytes.data(), &packet.header, sizeof(NetHeader));
    bytes.insert(bytes.end(), packet.frame.begin(), packet.frame.end());
    return bytes;
  }

  FakeMemory ram;
  std::unique_ptr<EventLoop> loop;
  NetMetrics metrics;
  Log log{"test"};
  OwnedFd wire;
  std::unique_ptr<NetDevice> device;
  std::optional<FakeHost> host;
  std::optional<FakeQueue> receive_queue, transmit_queue;

 private:
  Tap make_pair() {
    int pair[2] = {};
    if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) != 0) throw std::runtime_error("no socket pair");
    wire = OwnedFd{pair[1]};
    if (!options_.nowait && ::fcntl(pair[0], F_SETFL, O_RDWR | O_NONBLOCK) != 0) throw std::runtime_error("no fcntl");
    return Tap::adopt(OwnedFd{pair[0]}, "tap0", options_.nowait);
  }
  [[nodiscard]] Bytes content(const ring_abi::UsedElement& used) const {
    Bytes bytes;
    std::size_t left = used.length;
    for (const FakeBuffer& buffer : buffers_.at(used.id)) {
      const auto part = ram.bytes(buffer.at, std::min<std::size_t>(left, buffer.length));
      bytes.insert(bytes.end(), part.begin(), part.end());
      left -= part.size();
    }
    if (left > 0) throw std::runtime_error("more was received than there was room");
    return bytes;
  }
  /// Room in turn, of which as much is in use as a ring full of small frames or a few large ones needs.
  GuestAddress transmit_room(std::size_t length) {
    constexpr std::size_t kRoom = 24 << 20;
    if (transmit_area_.value == 0) transmit_area_ = ram.room(kRoom);
    if (transmit_next_ + length > kRoom) transmit_next_ = 0;
    const GuestAddress at{transmit_area_.value + transmit_next_};
    transmit_next_ += length;
    return at;
  }

  Options options_;
  std::unique_ptr<LoopTimer> watchdog_;
  bool late_ = false;
  std::unique_ptr<LoopTimer> clock_;
  bool passed_ = false;
  std::map<std::uint32_t, std::vector<FakeBuffer>> buffers_;  // of receive chains, by head
  GuestAddress transmit_area_{};
  std::size_t transmit_next_ = 0;
};

}  // namespace mayfly::testing
