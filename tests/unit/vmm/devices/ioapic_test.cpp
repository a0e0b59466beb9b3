#include "vmm/devices/ioapic.h"

#include "tests/unit/vmm/devices/fakes.h"
#include "vmm/boot/layout.h"

#include <atomic>
#include <thread>

#include <gtest/gtest.h>

namespace mayfly {
namespace {

// What the guest is told is where the device is.

using fakes::load;
using fakes::store;

constexpr std::uint64_t kSelect = 0x00;
constexpr std::uint64_t kWindow = 0x10;
constexpr std::uint64_t kEoi = 0x40;

constexpr std::uint32_t kLowestPriority = 1U << 8;
constexpr std::uint32_t kNmi = 4U << 8;
constexpr std::uint32_t kLogical = 1U << 11;
constexpr std::uint32_t kDeliveryStatus = 1U << 12;
constexpr std::uint32_t kRemoteIrr = 1U << 14;
constexpr std::uint32_t kLevel = 1U << 15;
constexpr std::uint32_t kMasked = 1U << 16;

constexpr std::uint32_t kMessageLevel = 0xC000;  // trigger mode: level, asserted

class IoapicTest : public ::testing::Test {
 protected:
  std::uint32_t get(std::uint8_t index) {
    store<std::uint32_t>(ioapic_, kSelect, index);
    return load<std::uint32_t>(ioapic_, kWindow);
  }
  void set(std::uint8_t index, std::uint32_t value) {
    store<std::uint32_t>(ioapic_, kSelect, index);
    store<std::uint32_t>(ioapic_, kWindow, value);
  }
  std::uint32_t low(unsigned pin) { return get(static_cast<std::uint8_t>(0x10 + 2 * pin)); }
  void set_low(unsigned pin, std::uint32_t value) { set(static_cast<std::uint8_t>(0x10 + 2 * pin), value); }
  void set_high(unsigned pin, std::uint32_t value) { set(static_cast<std::uint8_t>(0x11 + 2 * pin), value); }
  std::size_t sent() { return messages_.sent.size(); }

  fakes::Messages messages_;
  Ioapic ioapic_{messages_};
};

TEST_F(IoapicTest, TellsItsVersionAndItsNumberOfPins) { EXPECT_EQ(get(1), 0x0017'0020U); }

TEST_F(IoapicTest, KeepsItsIdAndShowsItForArbitration) {
  set(0, 0xFFFF'FFFF);
  EXPECT_EQ(get(0), 0x0F00'0000U);
  EXPECT_EQ(get(2), 0x0F00'0000U);
  set(1, 0);
  set(2, 0);
  EXPECT_EQ(get(1), 0x0017'0020U);
  EXPECT_EQ(get(2), 0x0F00'0000U);
}

TEST_F(IoapicTest, ShowsWhichRegisterIsSelected) {
  store<std::uint32_t>(ioapic_, kSelect, 0x1234'5611);
  EXPECT_EQ(load<std::uint32_t>(ioapic_, kSelect), 0x11U);
}

TEST_F(IoapicTest, StartsWithEveryPinMasked) {
  for (unsigned pin = 0; pin < Ioapic::kPins; ++pin) {
    EXPECT_EQ(low(pin), kMasked);
    ioapic_.set_pin(pin, true);
  }
  EXPECT_EQ(sent(), 0U);
}

TEST_F(IoapicTest, RegistersThatDoNotExistReadAsZero) {
  for (const unsigned index : {0x03U, 0x0FU, 0x40U, 0xFFU}) {
    set(static_cast<std::uint8_t>(index), 0xFFFF'FFFF);
    EXPECT_EQ(get(static_cast<std::uint8_t>(index)), 0U);
  }
  EXPECT_EQ(load<std::uint32_t>(ioapic_, 0x20), 0U);
  EXPECT_EQ(load<std::uint32_t>(ioapic_, kEoi), 0U);
}

TEST_F(IoapicTest, ReadOnlyBitsCannotBeWritten) {
  set_low(3, 0xFFFF'FFFF);
  set_high(3, 0xFFFF'FFFF);
  EXPECT_EQ(low(3), 0x1'FFFFU & ~(kDeliveryStatus | kRemoteIrr));
  EXPECT_EQ(get(0x17), 0xFF00'0000U);
}

TEST_F(IoapicTest, AnEdgeIsOneMessageToAPhysicalDestination) {
  set_high(4, 0x0300'0000);
  set_low(4, 0x34);
  ioapic_.set_pin(4, true);
  ioapic_.set_pin(4, true);
  ASSERT_EQ(sent(), 1U);
  EXPECT_EQ(messages_.sent[0], (MsiMessage{.address = 0xFEE0'3000, .data = 0x34}));
  ioapic_.set_pin(4, false);
  ioapic_.set_pin(4, true);
  EXPECT_EQ(sent(), 2U);
  EXPECT_EQ(low(4) & kRemoteIrr, 0U);
}

TEST_F(IoapicTest, LogicalDestinationsAndDeliveryModesAreInTheMessage) {
  set_high(5, 0xFF00'0000);
  set_low(5, 0x41 | kLogical | kLowestPriority);
  ioapic_.set_pin(5, true);
  set_low(6, kNmi);
  ioapic_.set_pin(6, true);
  ASSERT_EQ(sent(), 2U);
  EXPECT_EQ(messages_.sent[0], (MsiMessage{.address = 0xFEEF'F004, .data = 0x141}));
  EXPECT_EQ(messages_.sent[1], (MsiMessage{.address = 0xFEE0'0000, .data = 0x400}));
}

TEST_F(IoapicTest, AnEdgeOnAMaskedPinIsLost) {
  set_low(4, 0x34 | kMasked);
  ioapic_.set_pin(4, true);
  set_low(4, 0x34);
  EXPECT_EQ(sent(), 0U);
  ioapic_.set_pin(4, false);
  ioapic_.set_pin(4, true);
  EXPECT_EQ(sent(), 1U);
}

TEST_F(IoapicTest, ReservedDeliveryModesSendNothing) {
  for (const std::uint32_t mode : {3U, 6U}) {
    set_low(4, 0x34 | mode << 8 | kLevel);
    ioapic_.set_pin(4, true);
    ioapic_.set_pin(4, false);
  }
  EXPECT_EQ(sent(), 0U);
  EXPECT_TRUE(messages_.watched.empty());
}

TEST_F(IoapicTest, ALevelIsSentOnceUntilItsInterruptEnds) {
  set_low(9, 0x51 | kLevel);
  ioapic_.set_pin(9, true);
  ioapic_.set_pin(9, true);
  ASSERT_EQ(sent(), 1U);
  EXPECT_EQ(messages_.sent[0].data, 0x51U | kMessageLevel);
  EXPECT_NE(low(9) & kRemoteIrr, 0U);
  ioapic_.end_of_interrupt(0x52);
  EXPECT_EQ(sent(), 1U) << "another vector's";
  ioapic_.end_of_interrupt(0x51);
  EXPECT_EQ(sent(), 2U) << "the line is still asserted";
  ioapic_.set_pin(9, false);
  ioapic_.end_of_interrupt(0x51);
  EXPECT_EQ(sent(), 2U);
  EXPECT_EQ(low(9) & kRemoteIrr, 0U);
}

TEST_F(IoapicTest, TheEoiRegisterEndsAnInterruptToo) {
  set_low(9, 0x51 | kLevel);
  ioapic_.set_pin(9, true);
  store<std::uint32_t>(ioapic_, kEoi, 0x51);
  EXPECT_EQ(sent(), 2U);
}

TEST_F(IoapicTest, OneVectorsEndServesAllPinsThatShareIt) {
  set_low(9, 0x51 | kLevel);
  set_low(10, 0x51 | kLevel);
  ioapic_.set_pin(9, true);
  ioapic_.set_pin(10, true);
  ioapic_.set_pin(10, false);
  ioapic_.end_of_interrupt(0x51);
  EXPECT_EQ(sent(), 3U);
  EXPECT_NE(low(9) & kRemoteIrr, 0U);
  EXPECT_EQ(low(10) & kRemoteIrr, 0U);
}

TEST_F(IoapicTest, UnmaskingAnAssertedLevelSends) {
  set_low(9, 0x51 | kLevel | kMasked);
  ioapic_.set_pin(9, true);
  EXPECT_EQ(sent(), 0U);
  set_low(9, 0x51 | kLevel);
  EXPECT_EQ(sent(), 1U);
  EXPECT_EQ(messages_.watched.count(9), 1U);
}

TEST_F(IoapicTest, ALevelThatFellBeforeUnmaskingIsNotSent) {
  set_low(9, 0x51 | kLevel | kMasked);
  ioapic_.set_pin(9, true);
  ioapic_.set_pin(9, false);
  set_low(9, 0x51 | kLevel);
  EXPECT_EQ(sent(), 0U);
}

TEST_F(IoapicTest, BecomingEdgeTriggeredClearsRemoteIrr) {
  set_low(9, 0x51 | kLevel);
  ioapic_.set_pin(9, true);
  set_low(9, 0x51 | kMasked);
  EXPECT_EQ(low(9) & kRemoteIrr, 0U);
  EXPECT_TRUE(messages_.watched.empty());
  set_low(9, 0x51 | kLevel);
  EXPECT_EQ(sent(), 2U);
}

TEST_F(IoapicTest, AnNmiIsAnEdgeHoweverItIsProgrammed) {
  set_low(9, kNmi | kLevel);
  ioapic_.set_pin(9, true);
  EXPECT_EQ(messages_.sent.at(0).data, 0x400U);
  EXPECT_EQ(low(9) & kRemoteIrr, 0U);
  EXPECT_EQ(messages_.watch_calls, 0U);
}

TEST_F(IoapicTest, WatchesUnmaskedLevelPinsAndSaysSoOnlyWhenItChanges) {
  set_high(9, 0x0100'0000);
  set_low(9, 0x51 | kLevel | kMasked);
  set_low(4, 0x34);
  EXPECT_EQ(messages_.watch_calls, 0U);
  set_low(9, 0x51 | kLevel);
  set_low(9, 0x51 | kLevel);
  EXPECT_EQ(messages_.watch_calls, 1U);
  EXPECT_EQ(messages_.watched[9], (MsiMessage{.address = 0xFEE0'1000, .data = 0x51 | kMessageLevel}));
  set_high(9, 0x0200'0000);
  EXPECT_EQ(messages_.watch_calls, 2U);
  EXPECT_EQ(messages_.watched[9].address, 0xFEE0'2000U);
  set_low(9, 0x51 | kLevel | kMasked);
  EXPECT_EQ(messages_.watch_calls, 3U);
  EXPECT_TRUE(messages_.watched.empty());
}

TEST_F(IoapicTest, APinThatIsMaskedInServiceIsWatchedUntilItsInterruptEnds) {
  set_low(9, 0x51 | kLevel);
  ioapic_.set_pin(9, true);
  set_low(9, 0x51 | kLevel | kMasked);
  EXPECT_EQ(messages_.watched.count(9), 1U);
  ioapic_.end_of_interrupt(0x51);
  EXPECT_EQ(sent(), 1U) << "masked";
  set_low(9, 0x51 | kLevel);
  EXPECT_EQ(sent(), 2U);
  EXPECT_EQ(messages_.watch_calls, 1U);
}

/// A port that looks, while it is told what to watch, whether the pin could have sent already.
class OrderChecker final : public MessagePort {
 public:
  void send(const MsiMessage&) noexcept override { watched_before_sending = watched; }
  void route(unsigned, const std::optional<MsiMessage>& message) noexcept override { watched = message.has_value(); }
  bool watched = false;
  bool watched_before_sending = false;
};

TEST(IoapicOrder, APinIsWatchedBeforeItsFirstMessageLeaves) {
  OrderChecker port;
  Ioapic ioapic{port};
  ioapic.set_pin(9, true);
  store<std::uint32_t>(ioapic, kSelect, 0x10 + 2 * 9);
  store<std::uint32_t>(ioapic, kWindow, 0x51 | kLevel);
  EXPECT_TRUE(port.watched_before_sending);
}

/// A device that KVM interrupts for, which looks whether its message is known when it is asked to interrupt again.
class Source final : public InterruptSource {
 public:
  explicit Source(const fakes::Messages& messages) : messages_(messages) {}
  void interrupt_again() noexcept override {
    ++asked;
    routed = messages_.watched.contains(5);
  }
  unsigned asked = 0;
  bool routed = false;

 private:
  const fakes::Messages& messages_;
};

TEST_F(IoapicTest, ASourceThatKvmSendsForInterruptsAgainWheneverItsPinIsUnmasked) {
  Source source{messages_};
  ioapic_.let_kvm_send(5, source);
  set_low(5, 0x51 | kMasked);
  EXPECT_EQ(source.asked, 0U);
  set_low(5, 0x51);
  EXPECT_EQ(source.asked, 1U);
  EXPECT_TRUE(source.routed) << "an interrupt before KVM knows the message is lost as well";
  set_high(5, 0x0100'0000);
  set_low(5, 0x52);
  EXPECT_EQ(source.asked, 1U) << "another message in place of the last leaves no gap";
  set_low(5, 0x52 | kMasked);
  EXPECT_EQ(source.asked, 1U);
  set_low(5, 0x52);
  EXPECT_EQ(source.asked, 2U);
  set_low(6, 0x53);
  EXPECT_EQ(source.asked, 2U);
}

TEST_F(IoapicTest, AccessesOfOtherWidthsReachTheSameRegisters) {
  store<std::uint8_t>(ioapic_, kSelect, 1);
  EXPECT_EQ(load<std::uint8_t>(ioapic_, kWindow), 0x20);
  EXPECT_EQ(load<std::uint16_t>(ioapic_, kWindow), 0x0020);
  EXPECT_EQ(load<std::uint64_t>(ioapic_, kWindow), 0x0017'0020U);
  EXPECT_EQ(load<std::uint8_t>(ioapic_, kWindow + 2), 0U);
  store<std::uint64_t>(ioapic_, kSelect, 0xFFFF'FFFF'0000'0018);
  store<std::uint64_t>(ioapic_, kWindow, 0xFFFF'FFFF'0000'0034);
  EXPECT_EQ(load<std::uint32_t>(ioapic_, kWindow), 0x34U);
}

TEST_F(IoapicTest, PinsThatDoNotExistAreIgnored) {
  for (const unsigned pin : {24U, 32U, 1000U}) ioapic_.set_pin(pin, true);
  EXPECT_EQ(ioapic_.state().levels, 0U);
}

TEST_F(IoapicTest, ItsStateSurvivesAndTheNewPortLearnsWhatToWatch) {
  set(0, 0x0200'0000);
  set_high(9, 0x0100'0000);
  set_low(9, 0x51 | kLevel);
  set_low(4, 0x34);
  ioapic_.set_pin(9, true);
  ioapic_.set_pin(4, true);
  fakes::Messages other;
  Ioapic restored{other};
  restored.restore(ioapic_.state());
  EXPECT_EQ(restored.state(), ioapic_.state());
  EXPECT_EQ(other.watched, messages_.watched);
  EXPECT_TRUE(other.sent.empty());
  restored.set_pin(4, true);
  EXPECT_TRUE(other.sent.empty()) << "the line was up already";
  restored.end_of_interrupt(0x51);
  EXPECT_EQ(other.sent.size(), 1U);
}

TEST_F(IoapicTest, AStateFromElsewhereCannotSetWhatDoesNotExist) {
  IoapicState state;
  state.id = ~0U;
  state.levels = ~0U;
  state.redirection.fill(~0ULL);
  ioapic_.restore(state);
  EXPECT_EQ(ioapic_.state().levels, 0xFF'FFFFU);
  EXPECT_EQ(get(0), 0x0F00'0000U);
  EXPECT_EQ(low(0) & kRemoteIrr, 0U) << "an ExtINT has none";
}

TEST_F(IoapicTest, AnyAccessIsSafe) {
  fakes::torment(ioapic_, 1, 0x60, [this](unsigned random) {
    ioapic_.set_pin(random % 32, (random & 0x100) != 0);
    if (random % 16 == 0) ioapic_.end_of_interrupt(static_cast<std::uint8_t>(random >> 8));
    if (messages_.sent.size() > 1000) messages_.sent.clear();
  });
  std::map<unsigned, MsiMessage> watched = messages_.watched;
  fakes::Messages other;
  Ioapic restored{other};
  restored.restore(ioapic_.state());
  for (const auto& [pin, message] : other.watched) {
    EXPECT_EQ(watched.count(pin), 1U) << pin;
  }
}

/// Counts without a lock of its own.
class CountingPort final : public MessagePort {
 public:
  void send(const MsiMessage&) noexcept override { ++sent; }
  void route(unsigned, const std::optional<MsiMessage>&) noexcept override { ++watches; }
  std::atomic<unsigned> sent = 0;
  std::atomic<unsigned> watches = 0;
};

TEST(IoapicThreads, LinesEndsAndGuestsMayActAtOnce) {
  CountingPort port;
  Ioapic ioapic{port};
  const auto repeat = [](auto act) {
    for (unsigned i = 0; i < 2'000; ++i) act(i);
  };
  {
    const std::jthread guest{[&] {
      repeat([&](unsigned i) {
        store<std::uint32_t>(ioapic, kSelect, 0x10 + 2 * 9);
        store<std::uint32_t>(ioapic, kWindow, 0x51 | kLevel | (i % 2 == 0 ? kMasked : 0));
      });
    }};
    const std::jthread ender{[&] { repeat([&](unsigned) { ioapic.end_of_interrupt(0x51); }); }};
    const std::jthread loop{[&] { repeat([&](unsigned i) { ioapic.set_pin(9, i % 3 != 0); }); }};
  }
  // Whatever the order was: unmasked, with the line up and nothing in service, the pin works.
  store<std::uint32_t>(ioapic, kWindow, 0x51 | kLevel);
  ioapic.set_pin(9, false);
  ioapic.end_of_interrupt(0x51);
  const unsigned before = port.sent;
  ioapic.set_pin(9, true);
  EXPECT_EQ(port.sent, before + 1);
}

}  // namespace
}  // namespace mayfly
