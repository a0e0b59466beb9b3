#include "virtio/mmio_transport.h"

#include "tests/support/files.h"
#include "tests/support/run_until.h"
#include "tests/unit/virtio/fake_driver.h"
#include "vmm/base/clock.h"
#include "vmm/devices/dual_pic.h"
#include "vmm/io/loop_timer.h"

#include <linux/virtio_config.h>
#include <linux/virtio_mmio.h>
#include <sys/eventfd.h>

#include <chrono>
#include <functional>
#include <future>
#include <semaphore>
#include <thread>

#include <gtest/gtest.h>

namespace mayfly {
namespace {

using testing::FakeMemory;
using testing::FakeQueue;

constexpr std::uint64_t kFeature = 1ULL << 5;
constexpr std::uint64_t kVersion1 = 1ULL << VIRTIO_F_VERSION_1;

/// A device that takes every chain and returns it when it is told to.
class FakeDevice final : public VirtioDevice {
 public:
  [[nodiscard]] std::uint32_t type() const noexcept override { return 42; }
  [[nodiscard]] std::string_view name() const noexcept override { return "fake"; }
  [[nodiscard]] std::uint64_t features() const noexcept override { return kFeature; }
  [[nodiscard]] std::span<const std::uint16_t> queue_sizes() const noexcept override { return kSizes; }
  void read_config(std::uint64_t offset, std::span<std::byte> data) const noexcept override {
    for (std::size_t i = 0; i < data.size(); ++i) data[i] = static_cast<std::byte>(offset + i);
  }
  void write_config(std::uint64_t offset, std::span<const std::byte>) noexcept override { written_config = offset; }
  void prepare(std::uint64_t /*features*/) noexcept override {
    if (!slow_host) return;
    prepares.release();
    host_is_done.acquire();
  }
  void activate(std::uint64_t features, std::span<VirtQueue> queues) noexcept override {
    ++activations;
    accepted = features;
    queues_ = queues;
  }
  void reset() noexcept override { ++resets; }
  void on_kick(unsigned queue) noexcept override {
    ++kicks;
    auto taken = queues_[queue].take(storage_);
    if (!taken) return host().broken(taken.error().what);
    if (!*taken) return;
    if (hold) {
      held.emplace(std::move(**taken));
      return;
    }
    queues_[queue].put(std::move(**taken), 5);
    host().used(queue);
  }
  void drain() noexcept override {
    ++drains;
    if (held) queues_[0].put(std::move(*held), 0), held.reset();
    if (!slow_drain) host().drained();
  }
  void end_drain() {
    const MutexLock lock{host().mutex()};
    host().drained();
  }
  void undrain() noexcept override { ++undrains; }
  void change_config() {
    const MutexLock lock{host().mutex()};
    host().config_changed();
  }

  static constexpr std::array<std::uint16_t, 2> kSizes{256, 16};
  int activations = 0, resets = 0, kicks = 0, drains = 0, undrains = 0;
  std::uint64_t accepted = 0, written_config = 0;
  bool hold = false;
  bool slow_drain = false;  ///< It takes until end_drain().
  std::optional<Chain> held;
  bool slow_host = false;  ///< prepare() takes until host_is_done.
  std::binary_semaphore prepares{0}, host_is_done{0};

 private:
  std::span<VirtQueue> queues_;
  VirtQueue::Storage storage_{};
};

class MmioTransportTest : public ::testing::Test {
 protected:
  MmioTransportTest() {
    auto made = MmioTransport::create(
        device_, {.memory = ram_.memory(), .service = service_, .log = log_, .metrics = metrics_.virtio});
    if (!made) throw std::runtime_error(made.error().message);
    transport_ = std::move(*made);
    transport_->start();
  }

  std::uint32_t read(std::uint64_t offset) {
    std::uint32_t value = 0;
    transport_->read(offset, std::as_writable_bytes(std::span{&value, 1}));
    return value;
  }
  void write(std::uint64_t offset, std::uint32_t value) {
    transport_->write(offset, std::as_bytes(std::span{&value, 1}));
  }
  void write_status(std::uint32_t bits) { write(VIRTIO_MMIO_STATUS, bits); }
  void accept(std::uint64_t features) {
    for (const std::uint32_t half : {0U, 1U}) {
      write(VIRTIO_MMIO_DRIVER_FEATURES_SEL, half);
      write(VIRTIO_MMIO_DRIVER_FEATURES, static_cast<std::uint32_t>(features >> 32 * half));
    }
  }
  void set_up_queue(std::uint32_t index, FakeQueue& driver) {
    QueueState registers;
    driver.fill(registers);
    write(VIRTIO_MMIO_QUEUE_SEL, index);
    write(VIRTIO_MMIO_QUEUE_NUM, registers.size);
    const auto put = [&](std::uint64_t low, GuestAddress at) {
      write(low, static_cast<std::uint32_t>(at.value));
      write(low + 4, static_cast<std::uint32_t>(at.value >> 32));
    };
    put(VIRTIO_MMIO_QUEUE_DESC_LOW, registers.descriptors);
    put(VIRTIO_MMIO_QUEUE_AVAIL_LOW, registers.available);
    put(VIRTIO_MMIO_QUEUE_USED_LOW, registers.used);
    write(VIRTIO_MMIO_QUEUE_READY, 1);
  }
  /// The steps of 3.1.1, to DRIVER_OK.
  void drive(std::uint64_t features = kVersion1 | kFeature) {
    write_status(0);
    write_status(1);
    write_status(1 | 2);
    accept(features);
    write_status(1 | 2 | 8);
    ASSERT_TRUE((read(VIRTIO_MMIO_STATUS) & 8) != 0);
    set_up_queue(0, driver_);
    write_status(1 | 2 | 8 | 4);
  }
  /// The same, and the device holds a chain that was offered.
  void drive_with_a_chain_in_flight() {
    device_.hold = true;
    drive();
    driver_.offer({{ram_.room(8), 8, true}});
    kick(0);
    serve_until([&] { return device_.held.has_value(); });
  }
  void kick(std::size_t queue) { ASSERT_EQ(::eventfd_write(transport_->kick_fd(queue), 1), 0); }
  template <typename Reached>
  void serve_until(Reached reached) {
    testing::run_until(*loop_, reached);
  }
  /// Lets the loop submit what is queued, and serve what is there.
  void go_round() {
    loop_->wake();
    bool went = false;
    testing::run_until(*loop_, [&] { return std::exchange(went, true); });
  }
  /// Interrupts since the last look.
  std::uint64_t interrupts() {
    eventfd_t count = 0;
    return ::eventfd_read(transport_->interrupt_fd(), &count) == 0 ? count : 0;
  }
  /// Serves the ring while `driver`, on a thread of its own as a vCPU is, does something.
  template <typename Driver>
  void as_vcpu(Driver driver) {
    std::atomic<bool> done{false};
    std::thread vcpu{[&] {
      driver();
      done = true;
      loop_->wake();
    }};
    testing::run_until(*loop_, [&] { return done.load(); });
    vcpu.join();
  }

  FakeMemory ram_;
  FakeQueue driver_{ram_, 16};
  Log log_{"unit"};
  Metrics metrics_;
  FakeDevice device_;
  std::unique_ptr<EventLoop> loop_ = std::move(EventLoop::create().value());
  VirtioService service_{*loop_};
  std::unique_ptr<MmioTransport> transport_;
};

TEST_F(MmioTransportTest, SaysWhatItIs) {
  EXPECT_EQ(read(VIRTIO_MMIO_MAGIC_VALUE), 0x7472'6976U);
  EXPECT_EQ(read(VIRTIO_MMIO_VERSION), 2U);
  EXPECT_EQ(read(VIRTIO_MMIO_DEVICE_ID), 42U);
  write(VIRTIO_MMIO_QUEUE_SEL, 1);
  EXPECT_EQ(read(VIRTIO_MMIO_QUEUE_NUM_MAX), 16U);
  write(VIRTIO_MMIO_QUEUE_SEL, 2);
  EXPECT_EQ(read(VIRTIO_MMIO_QUEUE_NUM_MAX), 0U) << "no such queue";
  EXPECT_EQ(read(VIRTIO_MMIO_SHM_LEN_LOW), UINT32_MAX) << "no shared memory";
}

TEST_F(MmioTransportTest, OffersTheDevicesFeaturesAndTheRings) {
  write(VIRTIO_MMIO_DEVICE_FEATURES_SEL, 0);
  EXPECT_EQ(read(VIRTIO_MMIO_DEVICE_FEATURES), kFeature | 1U << 28 | 1U << 29);
  write(VIRTIO_MMIO_DEVICE_FEATURES_SEL, 1);
  EXPECT_EQ(read(VIRTIO_MMIO_DEVICE_FEATURES), 1U << (VIRTIO_F_VERSION_1 - 32));
  write(VIRTIO_MMIO_DEVICE_FEATURES_SEL, 2);
  EXPECT_EQ(read(VIRTIO_MMIO_DEVICE_FEATURES), 0U);
}

TEST_F(MmioTransportTest, ADriverGetsToWorkAndIsServed) {
  drive();
  EXPECT_EQ(device_.activations, 1);
  EXPECT_EQ(device_.accepted, kVersion1 | kFeature);
  driver_.offer({{ram_.room(8), 8, true}});
  kick(0);
  serve_until([&] { return driver_.used_index() == 1; });
  EXPECT_EQ(driver_.next_used()->length, 5U);
  go_round();  // one round more, in which the interrupt leaves
  EXPECT_EQ(interrupts(), 1U);
  EXPECT_EQ(read(VIRTIO_MMIO_INTERRUPT_STATUS), 1U);
  write(VIRTIO_MMIO_INTERRUPT_ACK, 1);
  EXPECT_EQ(read(VIRTIO_MMIO_INTERRUPT_STATUS), 0U);
}

TEST_F(MmioTransportTest, WhatWasOfferedBeforeTheStartIsServedWithoutAKick) {
  write_status(1 | 2);
  accept(kVersion1);
  write_status(1 | 2 | 8);
  set_up_queue(0, driver_);
  driver_.offer({{ram_.room(8), 8, true}});
  write_status(1 | 2 | 8 | 4);
  serve_until([&] { return driver_.used_index() == 1; });
}

TEST_F(MmioTransportTest, EachOfManyKicksIsServedThoughNobodyReadsThem) {
  drive();
  for (std::uint16_t i = 1; i <= 1000; ++i) {
    driver_.offer({{ram_.room(8), 8, true}});
    kick(0);
    serve_until([&] { return driver_.used_index() == i; });
    ASSERT_TRUE(driver_.next_used());
    go_round();  // nothing is polled any more: the next one needs its kick
  }
}

TEST_F(MmioTransportTest, AKickThatKvmDidNotTakeIsServedToo) {
  drive();
  driver_.offer({{ram_.room(8), 8, true}});
  write(VIRTIO_MMIO_QUEUE_NOTIFY, 0);
  serve_until([&] { return driver_.used_index() == 1; });
}

TEST_F(MmioTransportTest, FeaturesThatWereNotOfferedAreNotAccepted) {
  write_status(1 | 2);
  accept(kVersion1 | 1ULL << 50);
  write_status(1 | 2 | 8);
  EXPECT_EQ(read(VIRTIO_MMIO_STATUS), 3U);
  write_status(1 | 2 | 4);
  EXPECT_EQ(device_.activations, 0) << "no DRIVER_OK without FEATURES_OK";
}

TEST_F(MmioTransportTest, ALegacyDriverIsNotAccepted) {
  write_status(1 | 2);
  accept(kFeature);
  write_status(1 | 2 | 8);
  EXPECT_EQ(read(VIRTIO_MMIO_STATUS), 3U);
}

TEST_F(MmioTransportTest, FeaturesAreFixedOnceAccepted) {
  write_status(1 | 2);
  accept(kVersion1);
  write_status(1 | 2 | 8);
  accept(kVersion1 | kFeature);
  write_status(1 | 2 | 8 | 4);
  EXPECT_EQ(device_.accepted, kVersion1);
}

TEST_F(MmioTransportTest, IllegalStepsOfTheStatusChangeNothing) {
  write_status(1 | 2 | 8 | 4);
  EXPECT_EQ(device_.activations, 0) << "everything at once, before any feature";
  drive();
  write_status(1);
  EXPECT_EQ(read(VIRTIO_MMIO_STATUS), 15U) << "bits are cleared by a reset alone";
  write_status(15);
  EXPECT_EQ(device_.activations, 1);
}

TEST_F(MmioTransportTest, AReadyQueueKeepsItsPlace) {
  drive();
  write(VIRTIO_MMIO_QUEUE_SEL, 0);
  write(VIRTIO_MMIO_QUEUE_DESC_LOW, 0);
  EXPECT_EQ(read(VIRTIO_MMIO_QUEUE_READY), 1U);
  driver_.offer({{ram_.room(8), 8, true}});
  kick(0);
  serve_until([&] { return driver_.used_index() == 1; });
}

TEST_F(MmioTransportTest, AQueueOutsideMemoryStopsTheDevice) {
  write_status(1 | 2);
  accept(kVersion1);
  write_status(1 | 2 | 8);
  write(VIRTIO_MMIO_QUEUE_SEL, 0);
  write(VIRTIO_MMIO_QUEUE_NUM, 16);
  write(VIRTIO_MMIO_QUEUE_DESC_HIGH, 0xFFFF'FFFF);
  write(VIRTIO_MMIO_QUEUE_READY, 1);
  EXPECT_EQ(read(VIRTIO_MMIO_QUEUE_READY), 0U);
  EXPECT_TRUE((read(VIRTIO_MMIO_STATUS) & VIRTIO_CONFIG_S_NEEDS_RESET) != 0);
  write_status(0);
  EXPECT_EQ(read(VIRTIO_MMIO_STATUS), 0U);
}

TEST_F(MmioTransportTest, ABrokenRingStopsTheDeviceUntilItsReset) {
  drive();
  driver_.offer_head(999);
  kick(0);
  serve_until([&] { return (read(VIRTIO_MMIO_STATUS) & VIRTIO_CONFIG_S_NEEDS_RESET) != 0; });
  EXPECT_EQ(metrics_.virtio.needs_reset.value(), 1U);
  EXPECT_EQ(read(VIRTIO_MMIO_INTERRUPT_STATUS), 2U) << "the driver is told by a configuration change";
  const int kicks = device_.kicks;
  kick(0);
  go_round();
  EXPECT_EQ(device_.kicks, kicks);
  as_vcpu([&] { write_status(0); });
  EXPECT_EQ(read(VIRTIO_MMIO_STATUS), 0U);
}

TEST_F(MmioTransportTest, AResetWaitsForWhatIsInFlight) {
  drive_with_a_chain_in_flight();
  as_vcpu([&] { write_status(0); });
  EXPECT_FALSE(device_.held);
  EXPECT_EQ(device_.drains, 1);
  EXPECT_EQ(device_.resets, 2) << "one at the start of the driver, too";
  EXPECT_EQ(read(VIRTIO_MMIO_STATUS), 0U);
  write(VIRTIO_MMIO_QUEUE_SEL, 0);
  EXPECT_EQ(read(VIRTIO_MMIO_QUEUE_READY), 0U);
}

TEST_F(MmioTransportTest, AQueueThatIsMadeUnreadyComesToRestAndTheDeviceGoesOn) {
  drive_with_a_chain_in_flight();
  as_vcpu([&] {
    write(VIRTIO_MMIO_QUEUE_SEL, 0);
    write(VIRTIO_MMIO_QUEUE_READY, 0);
  });
  EXPECT_FALSE(device_.held);
  EXPECT_EQ(device_.undrains, 1);
  EXPECT_EQ(read(VIRTIO_MMIO_QUEUE_READY), 0U);
  EXPECT_EQ(read(VIRTIO_MMIO_STATUS), 15U);
}

/// Two vCPUs stop the device at the same moment, again and again: neither may wait for ever. A hostile guest does so.
class TwoVcpusTest : public MmioTransportTest {
 protected:
  void both_return_from(const std::function<void()>& first, const std::function<void()>& second) {
    for (int round = 0; round < 200 && !HasFailure(); ++round) {
      FakeQueue driver{ram_, 16};
      as_vcpu([&] { drive_queue(driver); });
      std::atomic<int> returned{0};
      const auto vcpu = [&](const std::function<void()>& store) {
        return std::thread{[&] {
          store();
          ++returned;
          loop_->wake();
        }};
      };
      MutexLock lock{transport_->mutex()};  // so that they come to their stores together
      std::thread one = vcpu(first);
      std::thread other = vcpu(second);
      lock.unlock();
      serve_for_a_while([&] { return returned.load() == 2; });
      EXPECT_EQ(returned.load(), 2) << "in round " << round << " a store never returned";
      // Ends a wait that was for a state: the test itself is to end.
      transport_->drain([] {});
      serve_until([&] { return returned.load() == 2; });
      transport_->undrain();
      one.join();
      other.join();
    }
  }
  void drive_queue(FakeQueue& driver) {
    write_status(0);
    write_status(1 | 2);
    accept(kVersion1);
    write_status(1 | 2 | 8);
    set_up_queue(0, driver);
    write_status(15);
  }
  void stop_queue() {
    write(VIRTIO_MMIO_QUEUE_SEL, 0);
    write(VIRTIO_MMIO_QUEUE_READY, 0);
  }
  /// Serves the ring until then, or for ten seconds.
  template <typename Reached>
  void serve_for_a_while(Reached reached) {
    if (!deadline_) {
      auto timer = LoopTimer::create(*loop_, [this] { late_ = true; });
      ASSERT_TRUE(timer);
      deadline_ = std::move(*timer);
      deadline_->listen();
    }
    late_ = false;
    deadline_->arm(monotonic_ns() + 10'000'000'000);
    serve_until([&] { return late_ || reached(); });
  }

 private:
  std::unique_ptr<LoopTimer> deadline_;
  bool late_ = false;
};

TEST_F(TwoVcpusTest, BothStopAQueue) {
  both_return_from([this] { stop_queue(); }, [this] { stop_queue(); });
}

TEST_F(TwoVcpusTest, OneStopsAQueueAndTheOtherTheDevice) {
  both_return_from([this] { stop_queue(); }, [this] { write_status(0); });
}

TEST_F(TwoVcpusTest, OneStopsTheDeviceAndTheOtherStartsItAgain) {
  FakeQueue other{ram_, 16};
  both_return_from([this] { write_status(0); }, [this, &other] { drive_queue(other); });
}

TEST_F(MmioTransportTest, AHundredResetsLeakNothing) {
  const std::size_t before = testing::open_descriptors();
  for (int i = 0; i < 100; ++i) {
    FakeQueue driver{ram_, 16};
    as_vcpu([&] {
      write_status(0);
      write_status(1 | 2);
      accept(kVersion1);
      write_status(1 | 2 | 8);
      set_up_queue(0, driver);
      write_status(15);
    });
    driver.offer({{ram_.room(8), 8, true}});
    kick(0);
    serve_until([&] { return driver.used_index() == 1; });
  }
  EXPECT_EQ(testing::open_descriptors(), before);
  EXPECT_EQ(device_.activations, 100);
}

TEST_F(MmioTransportTest, ConfigurationIsReadInAnyWidthAndWrittenThrough) {
  std::array<std::byte, 3> bytes{};
  transport_->read(VIRTIO_MMIO_CONFIG + 7, bytes);
  EXPECT_EQ(bytes[2], std::byte{9});
  write(VIRTIO_MMIO_CONFIG + 4, 0);
  EXPECT_EQ(device_.written_config, 4U);
}

TEST_F(MmioTransportTest, AChangeOfTheConfigurationCountsUpAndInterrupts) {
  drive();
  const std::uint32_t before = read(VIRTIO_MMIO_CONFIG_GENERATION);
  device_.change_config();
  go_round();
  EXPECT_EQ(read(VIRTIO_MMIO_CONFIG_GENERATION), before + 1);
  EXPECT_EQ(read(VIRTIO_MMIO_INTERRUPT_STATUS), 2U);
  EXPECT_EQ(interrupts(), 1U);
  transport_->announce_config();
  go_round();
  EXPECT_EQ(read(VIRTIO_MMIO_CONFIG_GENERATION), before + 2);
}

TEST_F(MmioTransportTest, AChangeOfTheConfigurationInterruptsNobodyBeforeThereIsADriver) {
  transport_->announce_config();
  go_round();
  EXPECT_EQ(read(VIRTIO_MMIO_INTERRUPT_STATUS), 0U);
  EXPECT_EQ(interrupts(), 0U);
}

TEST_F(MmioTransportTest, OddAccessesReadAsZeroAndAreIgnored) {
  std::array<std::byte, 2> half{std::byte{0xFF}, std::byte{0xFF}};
  transport_->read(VIRTIO_MMIO_MAGIC_VALUE, half);
  EXPECT_EQ(half[0], std::byte{0});
  transport_->write(VIRTIO_MMIO_STATUS, half);
  EXPECT_EQ(read(VIRTIO_MMIO_STATUS), 0U);
  EXPECT_EQ(read(VIRTIO_MMIO_MAGIC_VALUE + 2), 0U);
  write(VIRTIO_MMIO_MAGIC_VALUE, 1);
  write(VIRTIO_MMIO_QUEUE_NOTIFY, 77);
  write(VIRTIO_MMIO_QUEUE_SEL, 9);
  write(VIRTIO_MMIO_QUEUE_READY, 1);
  EXPECT_GE(metrics_.virtio.driver_errors.value(), 4U);
}

TEST_F(MmioTransportTest, WhatTheHostDoesForAStartHoldsNobodyUp) {
  device_.slow_host = true;
  auto starting = std::async(std::launch::async, [&] { drive(); });
  ASSERT_TRUE(device_.prepares.try_acquire_for(std::chrono::seconds{10}));
  // Another vCPU, and the loop, which a kick brings to the device.
  auto looking = std::async(std::launch::async, [&] { return read(VIRTIO_MMIO_STATUS); });
  const bool looked = looking.wait_for(std::chrono::seconds{10}) == std::future_status::ready;
  EXPECT_TRUE(looked);
  if (looked) {
    EXPECT_EQ(looking.get(), 15U);
    kick(0);
    serve_until([&] { return metrics_.virtio.kicks.value() == 1; });
    EXPECT_EQ(device_.kicks, 0);  // it has not begun
  }
  device_.host_is_done.release();
  starting.get();
  EXPECT_EQ(device_.activations, 1);
  driver_.offer({{ram_.room(8), 8, true}});
  kick(0);
  serve_until([&] { return driver_.used_index() == 1; });
}

TEST_F(MmioTransportTest, AResetOfADeviceThatIsBeingStartedWaitsForTheStart) {
  device_.slow_host = true;
  auto starting = std::async(std::launch::async, [&] { drive(); });
  ASSERT_TRUE(device_.prepares.try_acquire_for(std::chrono::seconds{10}));
  as_vcpu([&] {
    auto resetting = std::async(std::launch::async, [&] { write_status(0); });
    auto again = std::async(std::launch::async, [&] { write_status(15); });
    // Nothing: it has been said.
    EXPECT_EQ(again.wait_for(std::chrono::seconds{10}), std::future_status::ready);
    device_.host_is_done.release();
    starting.get();
    resetting.get();
  });
  EXPECT_EQ(device_.activations, 1);
  EXPECT_EQ(device_.resets, 2);  // drive() begins with one
  EXPECT_EQ(read(VIRTIO_MMIO_STATUS), 0U);
}

TEST_F(MmioTransportTest, QuiescedAndResumedTheDriverNoticesNothing) {
  drive();
  transport_->drain([] {});
  serve_until([&] { return transport_->is_drained(); });
  driver_.offer({{ram_.room(8), 8, true}});
  kick(0);
  go_round();
  EXPECT_EQ(driver_.used_index(), 0U);
  transport_->undrain();
  serve_until([&] { return driver_.used_index() == 1; });
  EXPECT_EQ(read(VIRTIO_MMIO_STATUS), 15U);
}

TEST_F(MmioTransportTest, ADrainThatWasEndedTellsNobodyNotEvenWhoeverDrainsNext) {
  drive();
  int first = 0;
  int second = 0;
  transport_->drain([&first] { ++first; });  // its task waits for the loop
  transport_->undrain();
  device_.slow_drain = true;
  transport_->drain([&second] { ++second; });
  go_round();
  EXPECT_EQ(second, 0) << "it is not drained yet";
  device_.end_drain();
  go_round();
  EXPECT_EQ(second, 1);
  EXPECT_EQ(first, 0);
}

TEST_F(MmioTransportTest, WhatTheDriverHasNotAcknowledgedInterruptsAgainWhenAsked) {
  drive();
  transport_->interrupt_again();
  EXPECT_EQ(interrupts(), 0U) << "there is nothing to interrupt for";
  driver_.offer({{ram_.room(8), 8, true}});
  kick(0);
  serve_until([&] { return driver_.used_index() == 1; });
  go_round();
  EXPECT_EQ(interrupts(), 1U);
  transport_->interrupt_again();
  EXPECT_EQ(interrupts(), 1U);
  write(VIRTIO_MMIO_INTERRUPT_ACK, 1);
  transport_->interrupt_again();
  EXPECT_EQ(interrupts(), 0U);
}

TEST_F(MmioTransportTest, AnInterruptGoesToThePicAsWell) {
  DualPic pic;
  FakeDevice device;
  auto made = MmioTransport::create(device, {.memory = ram_.memory(),
                                             .service = service_,
                                             .log = log_,
                                             .metrics = metrics_.virtio,
                                             .pic_line = InterruptLine{pic, 5}});
  ASSERT_TRUE(made);
  MmioTransportState state = transport_->state();
  state.interrupt_status = VIRTIO_MMIO_INT_VRING;
  ASSERT_TRUE((*made)->restore(state));
  EXPECT_EQ(pic.state().chips[0].edges, 0);
  (*made)->start();
  EXPECT_EQ(pic.state().chips[0].edges, 1U << 5);
}

TEST_F(MmioTransportTest, ARestoredTransportGoesOnWhereTheOldOneWas) {
  drive();
  driver_.offer({{ram_.room(8), 8, true}});
  kick(0);
  serve_until([&] { return driver_.used_index() == 1; });
  transport_->drain([] {});
  serve_until([&] { return transport_->is_drained(); });
  const MmioTransportState state = transport_->state();

  FakeDevice device;
  auto made = MmioTransport::create(
      device, {.memory = ram_.memory(), .service = service_, .log = log_, .metrics = metrics_.virtio});
  ASSERT_TRUE(made);
  ASSERT_TRUE((*made)->restore(state));
  EXPECT_EQ((*made)->state(), state);
  (*made)->start();
  EXPECT_EQ(device.activations, 1);
  driver_.offer({{ram_.room(8), 8, true}});
  ASSERT_EQ(::eventfd_write((*made)->kick_fd(0), 1), 0);
  testing::run_until(*loop_, [&] { return driver_.used_index() == 2; });
}

TEST_F(MmioTransportTest, ATransportThatWasUsedGoesBackToWhatItWas) {
  drive();
  driver_.offer({{ram_.room(8), 8, true}});
  kick(0);
  serve_until([&] { return driver_.used_index() == 1; });
  transport_->drain([] {});
  serve_until([&] { return transport_->is_drained(); });
  const MmioTransportState state = transport_->state();
  const std::vector<std::byte> memory{ram_.memory().regions()[0].mapping.bytes().begin(),
                                      ram_.memory().regions()[0].mapping.bytes().end()};
  transport_->undrain();
  for (int i = 0; i < 3; ++i) {
    driver_.offer({{ram_.room(8), 8, true}});
    kick(0);
    serve_until([&] { return driver_.used_index() == 2; });
    go_round();
    device_.change_config();
    write(VIRTIO_MMIO_QUEUE_SEL, 1);
    transport_->drain([] {});
    serve_until([&] { return transport_->is_drained(); });
    (void)interrupts();
    const int resets = device_.resets;
    std::ranges::copy(memory, ram_.memory().regions()[0].mapping.bytes().begin());
    transport_->forget_driver();
    EXPECT_EQ(device_.resets, resets + 1);
    EXPECT_EQ(read(VIRTIO_MMIO_STATUS), 0U);
    ASSERT_TRUE(transport_->restore(state));
    EXPECT_EQ(transport_->state(), state);
    EXPECT_EQ(device_.accepted, kVersion1 | kFeature);
    EXPECT_FALSE(transport_->is_drained()) << "it is at work";
    transport_->interrupt_unacknowledged();
    go_round();
    EXPECT_EQ(interrupts(), 1U) << "which the driver had not acknowledged, and none of what came since";
  }
}

TEST_F(MmioTransportTest, WhatItsDriverHasAcceptedAndNobodyOffersHereIsNotRestored) {
  MmioTransportState state{
      .driver_features = kVersion1 | kFeature << 1, .status = 15, .queues = std::vector<QueueState>(2)};
  const Status restored = transport_->restore(state);
  ASSERT_FALSE(restored);
  EXPECT_EQ(restored.error().message,
            "fake: the snapshot's guest uses feature 6, which this device does not offer: restore it with the version "
            "of Mayfly and the configuration that it was taken with");
  EXPECT_EQ(device_.activations, 0);
  EXPECT_EQ(read(VIRTIO_MMIO_STATUS), 0U);
  state.status = 3;  // written, not accepted
  EXPECT_TRUE(transport_->restore(state));
}

}  // namespace
}  // namespace mayfly
