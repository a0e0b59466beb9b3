// What a hostile guest can do to a network interface: any bytes in its rings, descriptors and buffers, any kicks and
// resets, while frames of any shape come from the host. One device serves all inputs, so that what an input leaves
// behind meets the next; each begins with a reset.

#include "tests/fuzz/input.h"
#include "tests/fuzz/must.h"
#include "tests/unit/virtio/fake_driver.h"
#include "virtio/net/net_device.h"

#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <optional>
#include <span>

namespace mayfly {
namespace {

using testing::FakeHost;
using testing::FakeMemory;

/// The guest's memory that inputs reach: both queues' parts, and buffers behind them.
constexpr std::uint64_t kBase = 0x1000;
constexpr std::uint64_t kArea = 0x10000;
constexpr std::uint16_t kSmallQueue = 16;  // so that few bytes say much

/// Claims every other kind of frame, and answers with as many frames as it is told to, of every length.
class FuzzResponder final : public FrameResponder {
 public:
  [[nodiscard]] static bool is_mine(std::uint8_t first) noexcept { return first % 2 != 0; }

  [[nodiscard]] bool claims(std::span<const std::uint8_t> head) const noexcept override {
    return !head.empty() && is_mine(head.front());
  }
  void receive(std::span<const std::uint8_t> frame, TcpChecksum /*checksum*/, std::uint64_t now_ns) noexcept override {
    must(frame.size() >= kMinimumFrameLength && frame.size() <= kLongestReceived);
    to_say_ = frame[1] * 4U;
    length_ = frame[2] * 6U % (kLongestTransmitted + 1);
    deadline_ = frame[3] % 2 != 0 ? std::optional{now_ns + frame[3]} : std::nullopt;
  }
  [[nodiscard]] bool ready() const noexcept override { return to_say_ > 0; }
  [[nodiscard]] std::size_t transmit(std::span<std::uint8_t, kLongestTransmitted> out) noexcept override {
    must(to_say_-- > 0);
    std::ranges::fill(out.first(length_), std::uint8_t{0xFF});
    return length_;
  }
  [[nodiscard]] std::optional<std::uint64_t> deadline() const noexcept override { return deadline_; }
  void on_time(std::uint64_t /*now_ns*/) noexcept override {
    deadline_.reset();
    ++to_say_;
  }
  void stood_still(std::uint64_t /*since_ns*/, std::uint64_t now_ns) noexcept override { deadline_ = now_ns; }
  void reset() noexcept override { to_say_ = 0; }

 private:
  std::size_t to_say_ = 0;
  std::size_t length_ = 0;
  std::optional<std::uint64_t> deadline_{};
};

class World {
 public:
  World() {
    int pair[2] = {};
    must(::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) == 0);
    wire_ = OwnedFd{pair[1]};
    loop_ = EventLoop::create().value();
    must(log_.configure({.level = LogLevel::Off}).has_value());
    device_ = NetDevice::create({.iface_id = "eth0", .guest_mac = kMac, .check_source_mac = true},
                                Tap::adopt(OwnedFd{pair[0]}, "tap0"), std::make_unique<FuzzResponder>(), *loop_,
                                metrics_, log_)
                  .value();
    host_ = std::make_unique<FakeHost>(*loop_, *device_, ram_.memory());
  }

  void play(std::span<const std::uint8_t> input) {
    begin(take<std::uint64_t>(input));
    while (!input.empty()) step(input);
    host_->reset();
    drain();
  }

 private:
  static constexpr MacAddress kMac{};  // so that empty buffers are frames that pass

  void begin(std::uint64_t features) {
    host_->faults.clear();
    std::memset(ram_.bytes({kBase}, kArea).data(), 0, kArea);
    std::uint64_t at = kBase;
    for (VirtQueue& queue : host_->queues()) {
      queue.registers() = {.size = kSmallQueue, .descriptors = {at}, .available = {at + 0x200}, .used = {at + 0x300}};
      must(queue.enable((features >> 63 & 1) != 0).has_value());
      at += 0x400;
    }
    host_->activate(features & device_->features());
  }

  void step(std::span<const std::uint8_t>& input) {
    const auto what = take<std::uint8_t>(input);
    switch (what % 8) {
      case 0:
      case 1: {  // up to 31 bytes of memory
        const auto at = take<std::uint16_t>(input);
        const std::size_t length = std::min<std::size_t>({what / 8U, input.size(), kArea - at});
        std::memcpy(ram_.bytes({kBase + at}, length).data(), input.data(), length);
        input = input.subspan(length);
        break;
      }
      case 2: {  // a descriptor that leads to the area, more likely right than one of random bytes
        const auto place = take<std::array<std::uint8_t, 8>>(input);
        const ring_abi::Descriptor descriptor{.address = kBase + 256U * place[1] + place[2],
                                              .length = place[3] * (place[4] % 16 == 0 ? 1024U : 16U) + place[4] % 16U,
                                              .flags = static_cast<std::uint16_t>(place[5] % 8),
                                              .next = static_cast<std::uint16_t>(place[6] % kSmallQueue)};
        const std::uint64_t at = kBase + 0x400U * (place[0] / 16 % 2) + 16U * (place[0] % 16U);
        std::memcpy(ram_.bytes({at}, sizeof descriptor).data(), &descriptor, sizeof descriptor);
        break;
      }
      case 3: {  // offers the next head
        const unsigned queue = what / 8 % 2;
        const auto head = take<std::uint8_t>(input);
        const std::uint64_t available = kBase + 0x400U * queue + 0x200;
        std::uint16_t index = 0;
        std::memcpy(&index, ram_.bytes({available + 2}, 2).data(), 2);
        *ram_.bytes({available + 4 + 2U * (index % kSmallQueue)}, 1).data() = static_cast<std::byte>(head % 17);
        ++index;
        std::memcpy(ram_.bytes({available + 2}, 2).data(), &index, 2);
        host_->kick(queue);
        break;
      }
      case 4:
        host_->kick(what / 8 % 2);
        go_round();
        break;
      case 5: {  // a frame from the host
        const auto length = take<std::uint16_t>(input) % 5000U;
        std::array<std::uint8_t, 5000> frame{};
        std::memcpy(frame.data(), input.data(), std::min<std::size_t>({what / 8U, input.size(), length}));
        (void)::send(wire_.get(), frame.data(), length, MSG_DONTWAIT | MSG_NOSIGNAL);
        go_round();
        break;
      }
      case 6:
        drain();
        go_round();
        break;
      default:
        if (what / 8 % 4 == 0) {
          host_->reset();
          begin(take<std::uint64_t>(input));
        } else {
          host_->drain();
          const NetDeviceState state = device_->state();
          must(state.receive_heads.size() <= NetReceiveBuffers::kMaximumChains);
          if (what / 8 % 4 == 1) {
            host_->undrain();
          } else {
            device_->reset();
            device_->restore(state);
            host_->activate(state.features);
          }
        }
        break;
    }
  }

  /// Serves what is there, without waiting for more.
  void go_round() {
    loop_->wake();
    unsigned rounds = 0;
    host_->serve_until([&] { return rounds++ > 1; });
  }
  /// What comes out has passed the checks.
  void drain() {
    std::array<std::byte, sizeof(NetHeader) + kMaximumFrameLength> frame;
    for (;;) {
      const ssize_t length = ::recv(wire_.get(), frame.data(), frame.size(), MSG_DONTWAIT);
      if (length < 0) return;
      must(length >= static_cast<ssize_t>(sizeof(NetHeader) + kMinimumFrameLength));
      must(!FuzzResponder::is_mine(std::to_integer<std::uint8_t>(frame[sizeof(NetHeader)])));
      must(std::memcmp(&frame[sizeof(NetHeader) + 6], kMac.data(), kMac.size()) == 0);
      NetHeader header{};
      std::memcpy(&header, frame.data(), sizeof header);
      const auto frame_length = static_cast<std::uint64_t>(length) - sizeof header;
      must(check_net_header(header, frame_length, ~0ULL).has_value());
    }
  }

  FakeMemory ram_{1};
  std::unique_ptr<EventLoop> loop_;
  NetMetrics metrics_;
  Log log_{"fuzz"};
  OwnedFd wire_;
  std::unique_ptr<NetDevice> device_;
  std::unique_ptr<FakeHost> host_;
};

}  // namespace
}  // namespace mayfly

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static auto* const world = new mayfly::World;  // for the whole run
  world->play({data, size});
  return 0;
}
