#include "vmm/devices/pit.h"

#include "tests/unit/vmm/devices/fakes.h"

#include <gtest/gtest.h>

namespace mayfly {
namespace {

constexpr unsigned kTimerPin = 2;
constexpr std::uint64_t kMs = 1'000'000;

class PitTest : public ::testing::Test {
 protected:
  void out(std::uint64_t port, std::uint8_t value) {
    if (port == kSpeakerPort)
      fakes::store(pit_.speaker_port(), 0, value);
    else
      fakes::store(pit_, port - kPitPort, value);
  }
  std::uint8_t in(std::uint64_t port) {
    return port == kSpeakerPort ? fakes::load(pit_.speaker_port(), 0) : fakes::load(pit_, port - kPitPort);
  }
  void program(unsigned channel, unsigned mode, std::uint16_t count) {
    out(0x43, static_cast<std::uint8_t>(channel << 6 | 0x30 | mode << 1));
    write(channel, count);
  }
  void write(unsigned channel, std::uint16_t count) {
    out(0x40 + channel, static_cast<std::uint8_t>(count));
    out(0x40 + channel, static_cast<std::uint8_t>(count >> 8));
  }
  /// Lets time pass until the timer fires, as the loop does, and `late_ns` longer. Returns how long that took.
  std::uint64_t fire(std::uint64_t late_ns = 0) {
    EXPECT_TRUE(timer_.deadline.has_value());
    if (!timer_.deadline) return 0;
    const std::uint64_t before = clock_.now;
    clock_.now = std::max(clock_.now, *std::exchange(timer_.deadline, std::nullopt)) + late_ns;
    pit_.on_timer();
    return clock_.now - before;
  }

  fakes::Pins pins_;
  fakes::Clock clock_;
  fakes::Timer timer_;
  Pit pit_{InterruptLine{pins_, kTimerPin}, clock_, timer_};
};

TEST_F(PitTest, ArmsNoTimerUntilChannelZeroCounts) {
  program(1, 2, 18);
  program(2, 3, 1000);
  out(0x43, 0x34);
  out(0x40, 0x10);
  EXPECT_EQ(timer_.times_armed, 0U);
  out(0x40, 0x10);
  EXPECT_EQ(timer_.times_armed, 1U);
}

TEST_F(PitTest, ModesThatNeedATriggerNeverInterrupt) {
  for (const unsigned mode : {1U, 5U}) {
    program(0, mode, 1000);
    EXPECT_FALSE(timer_.deadline);
  }
}

TEST_F(PitTest, ARateGeneratorInterruptsEachPeriodWithoutDrift) {
  const std::uint64_t start = clock_.now;
  program(0, 2, 11932);
  for (unsigned i = 1; i <= 1000; ++i) {
    fire(i % 7 * 10'000);
    EXPECT_EQ(pins_.edges(kTimerPin), 1U);
    EXPECT_FALSE(pins_.level(kTimerPin)) << "a pulse";
    EXPECT_EQ(*timer_.deadline, start + pit_ns(11932 * (i + 1)));
  }
}

TEST_F(PitTest, ASquareWaveInterruptsEachPeriod) {
  const std::uint64_t start = clock_.now;
  program(0, 3, 1193);
  fire();
  fire();
  EXPECT_EQ(clock_.now, start + pit_ns(2 * 1193));
  EXPECT_EQ(pins_.edges(kTimerPin), 2U);
}

TEST_F(PitTest, OneShotsInterruptOnce) {
  for (const unsigned mode : {0U, 4U}) {
    program(0, mode, 11932);
    EXPECT_EQ(fire(), pit_ns(mode == 0 ? 11932 : 11933));
    EXPECT_EQ(pins_.edges(kTimerPin), 1U);
    EXPECT_FALSE(timer_.deadline) << mode;
  }
}

TEST_F(PitTest, ANewCountRestartsAOneShot) {
  program(0, 4, 11932);
  clock_.now += kMs;
  write(0, 5000);
  EXPECT_EQ(*timer_.deadline, clock_.now + pit_ns(5001));
}

TEST_F(PitTest, ANewCountOfAPeriodicModeFollowsTheCurrentPeriod) {
  const std::uint64_t start = clock_.now;
  program(0, 2, 10'000);
  clock_.now += kMs;
  write(0, 20'000);
  EXPECT_EQ(*timer_.deadline, start + pit_ns(10'000));
  fire();
  EXPECT_EQ(*timer_.deadline, start + pit_ns(10'000) + pit_ns(20'000));
  EXPECT_EQ(pins_.edges(kTimerPin), 1U);
}

TEST_F(PitTest, AControlWordStopsTheTimer) {
  program(0, 2, 1000);
  out(0x43, 0x30);
  EXPECT_FALSE(timer_.deadline);
  clock_.now += kMs;
  pit_.on_timer();  // on its way when the timer was cancelled
  EXPECT_EQ(pins_.edges(kTimerPin), 0U);
  EXPECT_FALSE(timer_.deadline);
}

TEST_F(PitTest, ACallForAnEarlierProgrammeOnlyArmsAgain) {
  program(0, 2, 1000);
  program(0, 2, 50'000);
  const std::uint64_t deadline = *timer_.deadline;
  clock_.now += kMs;
  timer_.deadline.reset();
  pit_.on_timer();
  EXPECT_EQ(pins_.edges(kTimerPin), 0U);
  EXPECT_EQ(timer_.deadline, deadline);
}

TEST_F(PitTest, AHostThatIsLateGivesOneInterruptAndSkipsForward) {
  const std::uint64_t start = clock_.now;
  program(0, 2, 1193);
  fire(100 * kMs);
  EXPECT_EQ(pins_.edges(kTimerPin), 1U);
  EXPECT_GT(*timer_.deadline, clock_.now);
  const std::uint64_t period = pit_ticks(*timer_.deadline - start);
  EXPECT_EQ(period % 1193, 0U) << "in step with the guest's counting";
}

TEST_F(PitTest, TheShortestIntervalHoldsForEveryPeriod) {
  for (const std::uint16_t count : std::to_array<std::uint16_t>({1, 2, 3, 50, 100, 238})) {
    program(0, 2, count);
    fire();
    for (unsigned i = 0; i < 100; ++i) {
      const std::uint64_t interval = fire();
      EXPECT_GE(interval, kPitShortestIntervalNs);
      EXPECT_LE(interval, kPitShortestIntervalNs + pit_ns(count) + 1000);
    }
  }
}

TEST_F(PitTest, TheShortestIntervalHoldsForAGuestThatReprograms) {
  program(0, 0, 1);
  fire();
  for (const unsigned mode : {0U, 2U, 3U, 4U}) {
    for (unsigned i = 0; i < 50; ++i) {
      program(0, mode, 1);
      EXPECT_GE(fire(), kPitShortestIntervalNs) << mode;
    }
  }
}

TEST_F(PitTest, TheReadBackCommandLatchesSeveralChannels) {
  program(0, 2, 0x1000);
  program(2, 0, 0x2000);
  out(0x43, 0b1100'1010);  // counts and status of channels 0 and 2
  EXPECT_EQ(in(0x40), 0xB4);
  EXPECT_EQ(in(0x40), 0x00);
  EXPECT_EQ(in(0x40), 0x10);
  EXPECT_EQ(in(0x42), 0x30);
  EXPECT_EQ(in(0x42), 0x00);
  EXPECT_EQ(in(0x42), 0x20);
  out(0x43, 0b1110'0010);  // status of channel 0 alone
  EXPECT_EQ(in(0x40), 0xB4);
  out(0x43, 0b1101'1000);  // count of channel 2 alone
  EXPECT_EQ(in(0x42), 0x00);
  EXPECT_EQ(in(0x42), 0x20);
}

TEST_F(PitTest, TheLatchCommandLatchesOneChannel) {
  program(0, 2, 0x1000);
  clock_.now += pit_ns(0x10);
  out(0x43, 0x00);
  clock_.now += pit_ns(0x10);
  EXPECT_EQ(in(0x40), 0xF0);
  EXPECT_EQ(in(0x40), 0x0F);
}

TEST_F(PitTest, TheControlPortReadsAsNothing) { EXPECT_EQ(in(0x43), 0xFF); }

TEST_F(PitTest, ThePortOfTheSpeakerGatesChannelTwo) {
  out(kSpeakerPort, 0x01);
  program(2, 0, 1193);
  EXPECT_EQ(in(kSpeakerPort) & 0x2F, 0x01);
  clock_.now += pit_ns(1193);
  EXPECT_EQ(in(kSpeakerPort) & 0x2F, 0x21) << "Linux's TSC calibration waits for bit 5";
  out(kSpeakerPort, 0x00);
  program(2, 0, 1193);
  clock_.now += 10 * kMs;
  EXPECT_EQ(in(kSpeakerPort) & 0x2F, 0x00);
  out(kSpeakerPort, 0x01);
  clock_.now += pit_ns(1193);
  EXPECT_EQ(in(kSpeakerPort) & 0x20, 0x20);
}

TEST_F(PitTest, ThePortOfTheSpeakerKeepsItsLowBits) {
  out(kSpeakerPort, 0xFF);
  EXPECT_EQ(in(kSpeakerPort) & 0xCF, 0x0F);
}

TEST_F(PitTest, TheRefreshBitToggles) {
  unsigned toggles = 0;
  bool last = (in(kSpeakerPort) & 0x10) != 0;
  for (unsigned i = 0; i < 1000; ++i) {
    clock_.now += 1000;
    const bool bit = (in(kSpeakerPort) & 0x10) != 0;
    if (bit != last) ++toggles;
    last = bit;
  }
  EXPECT_NEAR(toggles, 66, 1);  // a millisecond of 15 us each
}

TEST_F(PitTest, ItsStateSurvivesOnAHostWithAnotherClock) {
  program(0, 2, 11932);
  program(2, 3, 0x4321);
  out(kSpeakerPort, 0x03);
  clock_.now += 25 * kMs;
  fire();
  clock_.now += 3 * kMs;
  const PitState state = pit_.state();
  fakes::Clock other_clock;
  other_clock.now = 7;
  fakes::Timer other_timer;
  Pit restored{InterruptLine{pins_, kTimerPin}, other_clock, other_timer};
  restored.restore(state);
  EXPECT_EQ(restored.state(), state);
  EXPECT_EQ(*other_timer.deadline - other_clock.now, *timer_.deadline - clock_.now);
}

TEST_F(PitTest, AnInterruptThatTheHostIsLateWithIsNotLostOverASnapshot) {
  program(0, 0, 100);
  clock_.now += 10 * kMs;
  fakes::Timer other_timer;
  Pit restored{InterruptLine{pins_, kTimerPin}, clock_, other_timer};
  restored.restore(pit_.state());
  EXPECT_EQ(restored.state(), pit_.state());
  ASSERT_TRUE(other_timer.deadline);
  EXPECT_LE(*other_timer.deadline, clock_.now);
  restored.on_timer();
  EXPECT_EQ(pins_.edges(kTimerPin), 1U);
  EXPECT_FALSE(restored.state().interrupt_awaited);
}

TEST_F(PitTest, AStateWithoutInterruptsStopsTheTimer) {
  const PitState idle = pit_.state();
  program(0, 2, 1000);
  pit_.restore(idle);
  EXPECT_FALSE(timer_.deadline);
  EXPECT_EQ(pit_.state(), idle);
}

TEST_F(PitTest, AnyAccessIsSafe) {
  std::uint64_t last_edge = 0;
  const auto pass_time = [&](unsigned random) {
    clock_.now += random % 500'000;
    if (random % 4 == 0) pit_.on_timer();
    if (pins_.edges(kTimerPin) == 0) return;
    ASSERT_GE(clock_.now - last_edge, kPitShortestIntervalNs);
    last_edge = clock_.now;
  };
  fakes::torment(pit_, 1, 0x30, pass_time);
  fakes::torment(pit_.speaker_port(), 2, 4, pass_time);
  fakes::Timer other_timer;
  Pit restored{InterruptLine{pins_, kTimerPin}, clock_, other_timer};
  restored.restore(pit_.state());
  EXPECT_EQ(restored.state(), pit_.state());
}

}  // namespace
}  // namespace mayfly
