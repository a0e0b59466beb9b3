// What a hostile driver can do to the registers of a virtio device: any loads and stores of any width in any order,
// queues that lie anywhere, kicks, resets and snapshots in between. The device behind takes every chain that there is
// and returns it, at once or when it is told to stop. After each input a driver that keeps the rules is served.

#include "tests/fuzz/input.h"
#include "tests/fuzz/must.h"
#include "tests/support/run_until.h"
#include "tests/unit/virtio/fake_driver.h"
#include "virtio/mmio_transport.h"

#include <linux/virtio_config.h>
#include <linux/virtio_mmio.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <optional>
#include <span>
#include <vector>

namespace mayfly {
namespace {

using testing::FakeMemory;

constexpr std::uint16_t kSmallQueue = 16;
constexpr std::uint64_t kArea = 0x4000;  ///< From 0: what inputs reach of memory.

/// Takes what it gets, and keeps every third chain until it is told to stop.
class TakingDevice final : public VirtioDevice {
 public:
  [[nodiscard]] std::uint32_t type() const noexcept override { return 42; }
  [[nodiscard]] std::string_view name() const noexcept override { return "fuzz"; }
  [[nodiscard]] std::uint64_t features() const noexcept override { return 1ULL << 5; }
  [[nodiscard]] std::span<const std::uint16_t> queue_sizes() const noexcept override { return kSizes; }
  void read_config(std::uint64_t offset, std::span<std::byte> data) const noexcept override {
    must(offset + data.size() <= kMmioWindowSize);
    std::ranges::fill(data, std::byte{7});
  }
  void activate(std::uint64_t accepted, std::span<VirtQueue> queues) noexcept override {
    must((accepted & ~(features() | 0xF'FFFF'FFFFULL << 24)) == 0 && !active_);
    active_ = true;
    queues_ = queues;
  }
  void reset() noexcept override {
    must(!held_);
    active_ = false;
  }
  void on_kick(unsigned queue) noexcept override {
    must(active_ && queue < queues_.size());
    for (unsigned taken = 0; taken < kSmallQueue; ++taken) {
      auto chain = queues_[queue].take(storage_);
      if (!chain) return host().broken(chain.error().what);
      if (!*chain) return;
      if (++count_ % 3 == 0 && !held_) {
        held_.emplace(std::move(**chain));
        held_queue_ = queue;
      } else {
        queues_[queue].put(std::move(**chain), 1);
        host().used(queue);
      }
    }
  }
  void drain() noexcept override {
    if (held_) {
      queues_[held_queue_].put(std::move(*held_), 0);
      held_.reset();
      host().used(held_queue_);
    }
    host().drained();
  }
  void undrain() noexcept override { must(active_); }
  void change_config() {
    const MutexLock lock{host().mutex()};
    host().config_changed();
  }

 private:
  static constexpr std::array<std::uint16_t, 2> kSizes{kSmallQueue, 64};
  std::span<VirtQueue> queues_;
  VirtQueue::Storage storage_{};
  std::optional<Chain> held_;
  unsigned held_queue_ = 0;
  unsigned count_ = 0;
  bool active_ = false;
};

class World {
 public:
  World() {
    must(log_.configure({.level = LogLevel::Off}).has_value());
    auto made = MmioTransport::create(
        device_, {.memory = ram_.memory(), .service = service_, .log = log_, .metrics = metrics_.virtio});
    must(made.has_value());
    transport_ = std::move(*made);
    transport_->start();
  }

  void play(std::span<const std::uint8_t> input) {
    std::memset(ram_.bytes({0}, kArea).data(), 0, kArea);
    while (!input.empty()) step(input);
    write(VIRTIO_MMIO_STATUS, 0, 4);
    must(read(VIRTIO_MMIO_STATUS) == 0 && read(VIRTIO_MMIO_INTERRUPT_STATUS) == 0);
    go_round();
    serve_an_honest_driver();
    write(VIRTIO_MMIO_STATUS, 0, 4);
  }

 private:
  std::uint32_t read(std::uint64_t offset, std::size_t width = 4) {
    std::array<std::byte, 8> data{};
    transport_->read(offset, std::span{data}.first(width));
    std::uint32_t value = 0;
    std::memcpy(&value, data.data(), sizeof value);
    return value;
  }
  void write(std::uint64_t offset, std::uint64_t value, std::size_t width) {
    // A vCPU waits for the loop where the device stops; here both are one thread, so it is stopped before.
    const bool stops = offset == VIRTIO_MMIO_STATUS || offset == VIRTIO_MMIO_QUEUE_READY;
    if (stops) rest();
    transport_->write(offset, std::as_bytes(std::span{&value, 1}).first(width));
    if (stops) transport_->undrain();
  }
  void rest() {
    transport_->drain([] {});
    testing::run_until(*loop_, [this] { return transport_->is_drained(); });
  }
  void go_round() {
    loop_->wake();
    unsigned rounds = 0;
    testing::run_until(*loop_, [&] { return rounds++ > 0; });
  }

  void step(std::span<const std::uint8_t>& input) {
    const auto what = take<std::uint8_t>(input);
    switch (what % 8) {
      case 0: {  // any store
        const auto offset = take<std::uint16_t>(input) % kMmioWindowSize;
        const std::size_t width = std::size_t{1} << (what / 8 % 4);
        if (offset + width <= kMmioWindowSize) write(offset, take<std::uint64_t>(input), width);
        break;
      }
      case 1: {  // any load
        const auto offset = take<std::uint16_t>(input) % kMmioWindowSize;
        const std::size_t width = std::size_t{1} << (what / 8 % 4);
        if (offset + width <= kMmioWindowSize) (void)read(offset, width);
        break;
      }
      case 2: {  // a register that means something
        const auto value = take<std::uint16_t>(input);
        write(std::uint64_t{what / 8U} * 4 + (value / 0x8000 != 0 ? 0x80 : 0), value % 0x8000, 4);
        break;
      }
      case 3:  // memory
      case 4: {
        const std::size_t at = take<std::uint16_t>(input) % kArea;
        const std::size_t length = std::min<std::size_t>({what / 8U, input.size(), kArea - at});
        std::memcpy(ram_.bytes({at}, length).data(), input.data(), length);
        input = input.subspan(length);
        break;
      }
      case 5:  // the steps of 3.1.1, with queues that lie somewhere
        set_up(take<std::uint16_t>(input) * 16ULL, (what & 8) != 0, (what & 16) != 0 ? kSmallQueue : what / 32U);
        break;
      case 6:
        write(VIRTIO_MMIO_QUEUE_NOTIFY, what / 8 % 4, 4);
        go_round();
        break;
      default:
        disturb(what / 8);
    }
  }

  void disturb(unsigned how) {
    switch (how % 4) {
      case 0:
        device_.change_config();
        break;
      case 1:
        go_round();
        break;
      case 2:
        rest();
        transport_->undrain();
        break;
      default:
        rest();
        must(transport_->state() == transport_->state());
        transport_->undrain();
    }
  }

  void set_up(std::uint64_t at, bool event_index, std::uint32_t size) {
    write(VIRTIO_MMIO_STATUS, 0, 4);
    for (const std::uint32_t status : {1U, 3U}) write(VIRTIO_MMIO_STATUS, status, 4);
    for (const std::uint32_t half : {0U, 1U}) {
      write(VIRTIO_MMIO_DRIVER_FEATURES_SEL, half, 4);
      write(VIRTIO_MMIO_DRIVER_FEATURES, half == 1 ? 1 : event_index ? 1U << 29 | 1U << 28 : 0, 4);
    }
    write(VIRTIO_MMIO_STATUS, 11, 4);
    for (const std::uint32_t queue : {0U, 1U}) {
      write(VIRTIO_MMIO_QUEUE_SEL, queue, 4);
      write(VIRTIO_MMIO_QUEUE_NUM, size, 4);
      const std::array<std::uint64_t, 3> parts{at, at + 0x200, at + 0x300};
      const std::array<std::uint64_t, 3> registers{VIRTIO_MMIO_QUEUE_DESC_LOW, VIRTIO_MMIO_QUEUE_AVAIL_LOW,
                                                   VIRTIO_MMIO_QUEUE_USED_LOW};
      for (std::size_t i = 0; i < parts.size(); ++i) {
        write(registers[i], parts[i] & 0xFFFF'FFFF, 4);
        write(registers[i] + 4, parts[i] >> 32, 4);
      }
      write(VIRTIO_MMIO_QUEUE_READY, 1, 4);
      at += 0x400;
    }
    write(VIRTIO_MMIO_STATUS, 15, 4);
  }

  /// One buffer of one byte: it comes back, with an interrupt.
  void serve_an_honest_driver() {
    constexpr std::uint64_t kAt = 0x1000;
    std::ranges::fill(ram_.bytes({kAt}, 0x800), std::byte{0});
    must(ram_.memory().store(
        GuestAddress{kAt}, ring_abi::Descriptor{.address = 0x3000, .length = 1, .flags = ring_abi::kWrite, .next = 0}));
    must(ram_.memory().store(GuestAddress{kAt + 0x202}, std::uint16_t{1}));
    set_up(kAt, false, kSmallQueue);
    must(read(VIRTIO_MMIO_STATUS) == 15);
    write(VIRTIO_MMIO_QUEUE_NOTIFY, 0, 4);
    go_round();
    rest();  // it may have been kept until then
    must(ram_.memory().load<std::uint16_t>(GuestAddress{kAt + 0x302}) == 1);
    must((read(VIRTIO_MMIO_INTERRUPT_STATUS) & VIRTIO_MMIO_INT_VRING) != 0);
    transport_->undrain();
  }

  FakeMemory ram_{1};
  Metrics metrics_;
  Log log_{"fuzz"};
  std::unique_ptr<EventLoop> loop_ = EventLoop::create().value();
  VirtioService service_{*loop_};
  TakingDevice device_;
  std::unique_ptr<MmioTransport> transport_;
};

}  // namespace
}  // namespace mayfly

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static auto* const world = new mayfly::World;  // for the whole run
  world->play({data, size});
  return 0;
}
