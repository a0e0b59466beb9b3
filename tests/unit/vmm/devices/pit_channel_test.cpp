#include "vmm/devices/pit_channel.h"

#include <string>

#include <gtest/gtest.h>

namespace mayfly {
namespace {

constexpr std::uint64_t kStart = 1'000'000'000'000;

/// A channel and the guest's view of it, with time in ticks.
class PitChannelTest : public ::testing::Test {
 protected:
  void program(unsigned mode, std::uint16_t count, bool bcd = false) {
    channel_.write_control(static_cast<std::uint8_t>(0x30 | mode << 1 | (bcd ? 1 : 0)));
    write(count);
  }
  void write(std::uint16_t count) {
    channel_.write_count(static_cast<std::uint8_t>(count), now_);
    channel_.write_count(static_cast<std::uint8_t>(count >> 8), now_);
  }
  /// A nanosecond's fraction more than `ticks`, so that a tick has always begun when it is looked at.
  void advance(std::uint64_t ticks) { now_ += pit_ns(ticks); }
  unsigned count() {
    channel_.latch_count(now_);
    const unsigned low = channel_.read(now_);
    return low | static_cast<unsigned>(channel_.read(now_)) << 8;
  }
  unsigned status() {
    channel_.latch_status(now_);
    return channel_.read(now_);
  }
  bool output() { return channel_.output(now_); }
  /// The output over the next `ticks`, one character a tick, from now on.
  std::string wave(unsigned ticks) {
    std::string wave;
    for (unsigned i = 0; i < ticks; ++i, advance(1)) wave.push_back(output() ? '-' : '_');
    return wave;
  }

  PitChannel channel_;
  std::uint64_t now_ = kStart;
};

TEST(PitTime, TicksAndNanosecondsAreExactInverses) {
  EXPECT_EQ(pit_ticks(1'000'000'000), kPitFrequency);
  EXPECT_EQ(pit_ns(kPitFrequency), 1'000'000'000U);
  for (std::uint64_t tick = 1; tick < 1'000'000'000'000; tick = tick * 3 + 1) {
    EXPECT_EQ(pit_ticks(pit_ns(tick)), tick);
    EXPECT_EQ(pit_ticks(pit_ns(tick) - 1), tick - 1);
  }
}

TEST_F(PitChannelTest, Mode0RisesAtTheTerminalCountAndStaysHigh) {
  program(0, 5);
  EXPECT_EQ(wave(10), "_____-----");
  EXPECT_EQ(count(), 0xFFFBU) << "counting goes on below zero";
}

TEST_F(PitChannelTest, Mode0CountsDownOnceATick) {
  program(0, 1000);
  EXPECT_EQ(count(), 1000U);
  advance(1);
  EXPECT_EQ(count(), 999U);
  advance(998);
  EXPECT_EQ(count(), 1U);
  EXPECT_FALSE(output());
}

TEST_F(PitChannelTest, Mode0IsPausedByItsGate) {
  program(0, 5);
  advance(2);
  channel_.set_gate(false, now_);
  EXPECT_EQ(wave(10), "__________");
  EXPECT_EQ(count(), 3U);
  channel_.set_gate(true, now_);
  EXPECT_EQ(wave(5), "___--");
}

TEST_F(PitChannelTest, Mode0StopsAtTheFirstHalfOfANewCount) {
  program(0, 5);
  advance(20);
  EXPECT_TRUE(output());
  channel_.write_count(3, now_);
  EXPECT_FALSE(output());
  EXPECT_EQ(channel_.rising_edge_after(0), std::nullopt);
  channel_.set_gate(false, now_);
  channel_.set_gate(true, now_);
  advance(50);
  EXPECT_FALSE(output()) << "the gate does not start half a count";
  channel_.write_count(0, now_);
  EXPECT_EQ(wave(5), "___--");
}

TEST_F(PitChannelTest, AControlWordAloneCountsNothing) {
  channel_.write_control(0x30);
  EXPECT_FALSE(output());
  EXPECT_EQ(count(), 0U);
  channel_.write_control(0x34);
  EXPECT_TRUE(output());
  EXPECT_EQ(channel_.rising_edge_after(0), std::nullopt);
}

TEST_F(PitChannelTest, Mode1IsLowForItsCountAfterEachTrigger) {
  program(1, 3);
  EXPECT_EQ(wave(4), "----") << "not triggered";
  channel_.set_gate(false, now_);
  channel_.set_gate(true, now_);
  EXPECT_EQ(wave(2), "__");
  channel_.set_gate(false, now_);
  channel_.set_gate(true, now_);
  EXPECT_EQ(wave(5), "___--") << "retriggered";
}

TEST_F(PitChannelTest, Mode1TakesANewCountAtTheNextTrigger) {
  program(1, 3);
  channel_.set_gate(false, now_);
  channel_.set_gate(true, now_);
  write(5);
  EXPECT_EQ(wave(5), "___--");
  EXPECT_NE(status() & 0x40, 0U) << "null count";
  channel_.set_gate(false, now_);
  channel_.set_gate(true, now_);
  EXPECT_EQ(status() & 0x40, 0U);
  EXPECT_EQ(wave(7), "_____--");
}

TEST_F(PitChannelTest, Mode2IsLowForTheLastTickOfEachPeriod) {
  program(2, 4);
  EXPECT_EQ(wave(12), "---_---_---_");
  EXPECT_EQ(channel_.rising_edge_after(0), 4U);
  EXPECT_EQ(channel_.rising_edge_after(4), 8U);
}

TEST_F(PitChannelTest, Mode2CountsFromItsCountToOne) {
  program(2, 3);
  for (const unsigned expected : {3U, 2U, 1U, 3U, 2U}) {
    EXPECT_EQ(count(), expected);
    advance(1);
  }
}

TEST_F(PitChannelTest, Mode2TakesANewCountAtTheEndOfItsPeriod) {
  program(2, 6);
  advance(2);
  write(3);
  EXPECT_NE(status() & 0x40, 0U);
  EXPECT_EQ(wave(10), "---_--_--_");
  EXPECT_EQ(status() & 0x40, 0U);
}

TEST_F(PitChannelTest, ANewCountTakesEffectInItsPlaceThoughNobodyLooked) {
  program(2, 6);
  advance(2);
  write(4);
  advance(4 + 4 * 1'000'000 + 1);
  EXPECT_EQ(count(), 3U);
}

TEST_F(PitChannelTest, Mode2IsHighAndStandsWhileItsGateIsLow) {
  program(2, 4);
  advance(3);
  EXPECT_FALSE(output());
  channel_.set_gate(false, now_);
  EXPECT_EQ(wave(5), "-----");
  EXPECT_EQ(channel_.rising_edge_after(0), std::nullopt);
  channel_.set_gate(true, now_);
  EXPECT_EQ(wave(8), "---_---_") << "starts anew";
}

TEST_F(PitChannelTest, ACountWrittenWithTheGateLowWaits) {
  channel_.set_gate(false, now_);
  program(2, 4);
  EXPECT_EQ(wave(6), "------");
  channel_.set_gate(true, now_);
  EXPECT_EQ(wave(4), "---_");
  channel_.set_gate(false, now_);
  program(0, 4);
  EXPECT_EQ(wave(6), "______");
  EXPECT_EQ(count(), 4U);
  channel_.set_gate(true, now_);
  EXPECT_EQ(wave(6), "____--");
}

TEST_F(PitChannelTest, Mode3IsASquareWave) {
  program(3, 6);
  EXPECT_EQ(wave(12), "---___---___");
  program(3, 5);
  EXPECT_EQ(wave(10), "---__---__") << "an odd count is high for a tick longer";
}

TEST_F(PitChannelTest, Mode3CountsByTwos) {
  program(3, 6);
  for (const unsigned expected : {6U, 4U, 2U, 6U, 4U, 2U, 6U}) {
    EXPECT_EQ(count(), expected);
    advance(1);
  }
  program(3, 5);
  for (const unsigned expected : {4U, 2U, 0U, 4U, 2U, 4U}) {
    EXPECT_EQ(count(), expected);
    advance(1);
  }
}

TEST_F(PitChannelTest, Mode4StrobesForOneTickOnce) {
  program(4, 3);
  EXPECT_EQ(wave(8), "---_----");
  EXPECT_EQ(channel_.rising_edge_after(0), 4U);
  EXPECT_EQ(channel_.rising_edge_after(4), std::nullopt);
  write(2);
  EXPECT_EQ(wave(5), "--_--") << "writing a count starts it";
}

TEST_F(PitChannelTest, Mode5StrobesAfterATrigger) {
  program(5, 3);
  EXPECT_EQ(wave(5), "-----");
  EXPECT_EQ(channel_.rising_edge_after(0), std::nullopt);
  channel_.set_gate(false, now_);
  channel_.set_gate(true, now_);
  EXPECT_EQ(wave(6), "---_--");
}

TEST_F(PitChannelTest, ModesTwoAndThreeHaveTwoCodes) {
  program(6, 4);
  EXPECT_EQ(wave(4), "---_");
  program(7, 4);
  EXPECT_EQ(wave(4), "--__");
}

TEST_F(PitChannelTest, ACountOfZeroIsTheWholeRange) {
  program(2, 0);
  EXPECT_EQ(channel_.rising_edge_after(0), 65536U);
  EXPECT_EQ(count(), 0U);
  advance(1);
  EXPECT_EQ(count(), 65535U);
  program(2, 0, true);
  EXPECT_EQ(channel_.rising_edge_after(0), 10000U);
  advance(1);
  EXPECT_EQ(count(), 0x9999U);
}

TEST_F(PitChannelTest, APeriodicCountOfOneIsTakenForTwo) {
  program(2, 1);
  EXPECT_EQ(wave(4), "-_-_");
}

TEST_F(PitChannelTest, CountsInDecimal) {
  program(0, 0x1000, true);
  advance(1);
  EXPECT_EQ(count(), 0x0999U);
  advance(999);
  EXPECT_TRUE(output());
  advance(1);
  EXPECT_EQ(count(), 0x9999U);
}

TEST_F(PitChannelTest, OneByteAccessesMoveOneByte) {
  channel_.write_control(0x10);  // mode 0, low byte
  channel_.write_count(0x80, now_);
  EXPECT_EQ(channel_.read(now_), 0x80);
  EXPECT_EQ(channel_.read(now_), 0x80);
  channel_.write_control(0x20);  // mode 0, high byte
  channel_.write_count(0x80, now_);
  EXPECT_EQ(channel_.read(now_), 0x80);
  advance(1);
  EXPECT_EQ(channel_.read(now_), 0x7F);
  channel_.latch_count(now_);
  advance(0x100);
  EXPECT_EQ(channel_.read(now_), 0x7F) << "latched";
  EXPECT_EQ(channel_.read(now_), 0x7E) << "live: 0x7EFF";
}

TEST_F(PitChannelTest, ALatchedCountStaysUntilItHasBeenRead) {
  program(0, 0x1234);
  channel_.latch_count(now_);
  advance(10);
  channel_.latch_count(now_);
  EXPECT_EQ(channel_.read(now_), 0x34);
  advance(10);
  EXPECT_EQ(channel_.read(now_), 0x12);
  EXPECT_EQ(channel_.read(now_), 0x20) << "live: 0x1234 - 20 ticks";
  EXPECT_EQ(channel_.read(now_), 0x12);
}

TEST_F(PitChannelTest, ALatchBetweenTwoHalvesGivesTheSecond) {
  program(0, 0x1234);
  EXPECT_EQ(channel_.read(now_), 0x34);
  channel_.latch_count(now_);
  EXPECT_EQ(channel_.read(now_), 0x12);
  EXPECT_EQ(channel_.read(now_), 0x34);
}

TEST_F(PitChannelTest, TheStatusShowsTheProgramAndTheOutput) {
  channel_.write_control(0x35);  // mode 2, both bytes, decimal
  EXPECT_EQ(status(), 0xF5U) << "output high, null count";
  write(0x0004);
  EXPECT_EQ(status(), 0xB5U);
  advance(3);
  EXPECT_EQ(status(), 0x35U) << "output low";
}

TEST_F(PitChannelTest, TheStatusIsReadBeforeTheCount) {
  program(0, 0x1234);
  channel_.latch_count(now_);
  channel_.latch_status(now_);
  EXPECT_EQ(channel_.read(now_), 0x30);
  EXPECT_EQ(channel_.read(now_), 0x34);
  EXPECT_EQ(channel_.read(now_), 0x12);
}

TEST_F(PitChannelTest, ItsStateSurvivesOnAHostWithAnotherClock) {
  program(2, 1000);
  advance(12'345);
  write(700);
  channel_.latch_count(now_);
  static_cast<void>(channel_.read(now_));
  const PitChannelState state = channel_.state(now_);
  const std::uint64_t other_now = 5;  // booted just now
  PitChannel restored;
  restored.restore(state, other_now);
  EXPECT_EQ(restored.state(other_now), state);
  for (std::uint64_t later = 0; later < 10'000'000; later += 99'991) {
    EXPECT_EQ(restored.output(other_now + later), channel_.output(now_ + later));
    EXPECT_EQ(restored.read(other_now + later), channel_.read(now_ + later));
  }
}

TEST_F(PitChannelTest, AStateFromElsewhereIsMadeSafe) {
  PitChannelState state;
  state.mode = static_cast<PitMode>(200);
  state.access = static_cast<PitAccess>(0);
  state.counting = true;
  state.cycle = 0;
  state.elapsed_ns = ~0ULL;
  state.latched_bytes = 200;
  channel_.restore(state, now_);
  EXPECT_EQ(channel_.rising_edge_after(0), std::nullopt);
  static_cast<void>(channel_.read(now_));
  state.mode = PitMode::SquareWave;
  state.cycle = ~0U;
  state.null_count = true;
  channel_.restore(state, now_);
  static_cast<void>(channel_.output(now_));
  static_cast<void>(channel_.read(now_));
  EXPECT_LE(channel_.state(now_).cycle, 65536U);
}

}  // namespace
}  // namespace mayfly
