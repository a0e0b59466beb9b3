#include "vmm/devices/dual_pic.h"

#include "tests/unit/vmm/devices/fakes.h"

#include <thread>
#include <tuple>

#include <gtest/gtest.h>

namespace mayfly {
namespace {

using fakes::load;
using fakes::store;

class DualPicTest : public ::testing::Test {
 protected:
  DualPicTest() {
    EXPECT_TRUE(ports_.attach("master", kMasterPicPort, kPicPortCount, pic_));
    EXPECT_TRUE(ports_.attach("slave", kSlavePicPort, kPicPortCount, pic_.slave_ports()));
    EXPECT_TRUE(ports_.attach("trigger", kPicTriggerPort, kPicPortCount, pic_.trigger_ports()));
  }
  void out(std::uint64_t port, std::uint8_t value) { EXPECT_TRUE(ports_.write(port, std::array{std::byte{value}})); }
  std::uint8_t in(std::uint64_t port) {
    std::array<std::byte, 1> data{};
    EXPECT_TRUE(ports_.read(port, data));
    return std::to_integer<std::uint8_t>(data[0]);
  }

  /// ICW1 to ICW4 of both, vectors 0x20 and 0x28, as Linux and most kernels do it; then no input is masked.
  void initialize(std::uint8_t master_mode = 0x01, std::uint8_t slave_mode = 0x01) {
    for (const auto& [port, base, cascade, mode] : {std::tuple{std::uint64_t{0x20}, 0x20, 0x04, master_mode},
                                                    std::tuple{std::uint64_t{0xA0}, 0x28, 0x02, slave_mode}}) {
      out(port, 0x11);
      out(port + 1, static_cast<std::uint8_t>(base));
      out(port + 1, static_cast<std::uint8_t>(cascade));
      out(port + 1, mode);
    }
  }
  std::uint8_t irr(std::uint64_t port = 0x20) { return out(port, 0x0A), in(port); }
  std::uint8_t isr(std::uint64_t port = 0x20) { return out(port, 0x0B), in(port); }
  /// The vector that the CPU gets; 0: it is not asked to take one.
  unsigned take() { return pic_.requests() ? pic_.acknowledge() : 0U; }
  void end() { out(0x20, 0x20); }

  fakes::Pins output_;
  DualPic pic_{InterruptLine{output_, 0}};
  Bus ports_;
};

TEST_F(DualPicTest, AProbeThatWritesTheMaskReadsItBack) {
  out(0xA1, 0xFF);
  out(0x21, 0xFB);
  EXPECT_EQ(in(0x21), 0xFB);
  EXPECT_EQ(in(0xA1), 0xFF);
}

TEST_F(DualPicTest, TheInitializationSequenceIsNotTakenForMasks) {
  out(0x21, 0xAA);
  out(0x20, 0x11);
  EXPECT_EQ(in(0x21), 0x00) << "ICW1 clears the mask";
  out(0x21, 0x30);
  out(0x21, 0x04);
  out(0x21, 0x01);
  EXPECT_EQ(in(0x21), 0x00);
  out(0x21, 0x5A);
  EXPECT_EQ(in(0x21), 0x5A);
  const PicState master = pic_.state().chips[0];
  EXPECT_EQ(master.vector_base, 0x30);
  EXPECT_EQ(master.cascade, 0x04);
  EXPECT_EQ(master.mode, 0x01);
}

TEST_F(DualPicTest, ASingleChipHasNoThirdWordAndNeedNotHaveAFourth) {
  out(0xA0, 0x12);
  out(0xA1, 0x38);
  out(0xA1, 0x77);
  EXPECT_EQ(in(0xA1), 0x77);
  out(0xA0, 0x13);
  out(0xA1, 0x38);
  out(0xA1, 0x01);
  EXPECT_EQ(pic_.state().chips[1].mode, 0x01);
  out(0xA1, 0x66);
  EXPECT_EQ(in(0xA1), 0x66);
}

TEST_F(DualPicTest, NothingIsPendingOrInServiceAtFirst) {
  for (const std::uint8_t word :
       std::to_array<std::uint8_t>({0x0A, 0x0B, 0x0C, 0x20, 0x60, 0xC7})) {  // read IRR, read ISR, poll, three EOIs
    out(0x20, word);
    out(0xA0, word);
    EXPECT_EQ(in(0x20), 0) << int{word};
    EXPECT_EQ(in(0xA0), 0) << int{word};
  }
}

TEST_F(DualPicTest, TriggerModesOfFixedEdgesCannotBeChanged) {
  out(0x4D0, 0xFF);
  out(0x4D1, 0xFF);
  EXPECT_EQ(in(0x4D0), 0xF8);
  EXPECT_EQ(in(0x4D1), 0xDE);
  out(0x20, 0x11);
  EXPECT_EQ(in(0x4D0), 0xF8) << "initialization leaves it";
}

TEST_F(DualPicTest, ItsStateSurvivesInTheMiddleOfASequence) {
  out(0x4D0, 0x20);
  out(0xA1, 0x42);
  out(0x20, 0x11);
  out(0x21, 0x30);
  DualPic restored;
  restored.restore(pic_.state());
  EXPECT_EQ(restored.state(), pic_.state());
  store(restored, 1, 0x04);
  store(restored, 1, 0x01);
  store(restored, 1, 0x99);
  EXPECT_EQ(load(restored, 1), 0x99);
}

TEST_F(DualPicTest, AsksForNothingUntilItsInitializationIsComplete) {
  pic_.pulse_pin(4);
  EXPECT_EQ(take(), 0U) << "a guest that never looked at it must not hear of it";
  out(0x20, 0x11);
  pic_.pulse_pin(4);
  out(0x21, 0x20);
  out(0x21, 0x04);
  EXPECT_EQ(take(), 0U);
  out(0x21, 0x01);
  EXPECT_EQ(take(), 0x24U);
}

TEST_F(DualPicTest, AnEdgeInterruptsOnceWithItsVector) {
  initialize();
  pic_.set_pin(4, true);
  EXPECT_TRUE(output_.level(0));
  EXPECT_EQ(irr(), 0x10);
  EXPECT_EQ(take(), 0x24U);
  EXPECT_FALSE(output_.level(0));
  EXPECT_EQ(irr(), 0);
  EXPECT_EQ(isr(), 0x10);
  end();
  EXPECT_EQ(isr(), 0);
  EXPECT_EQ(take(), 0U) << "the line is still up, and has not risen again";
  pic_.set_pin(4, false);
  pic_.set_pin(4, true);
  EXPECT_EQ(take(), 0x24U);
}

TEST_F(DualPicTest, AnEdgeAtAMaskedInputIsKept) {
  initialize();
  out(0x21, 0x10);
  pic_.pulse_pin(4);
  EXPECT_EQ(take(), 0U);
  EXPECT_EQ(irr(), 0x10);
  out(0x21, 0x00);
  EXPECT_EQ(take(), 0x24U);
  end();
  EXPECT_EQ(take(), 0U);
}

TEST_F(DualPicTest, Icw1ForgetsEdgesServiceMaskAndPriority) {
  initialize();
  out(0x20, 0xC2);
  pic_.pulse_pin(4);
  pic_.pulse_pin(5);
  EXPECT_EQ(take(), 0x24U);
  out(0x21, 0x55);
  pic_.set_pin(6, true);
  initialize();
  EXPECT_EQ(irr(), 0);
  EXPECT_EQ(isr(), 0);
  EXPECT_EQ(in(0x21), 0);
  EXPECT_EQ(pic_.state().chips[0].lowest, 7);
  EXPECT_EQ(take(), 0U) << "input 6 must rise anew";
  pic_.set_pin(6, false);
  pic_.set_pin(6, true);
  EXPECT_EQ(take(), 0x26U);
}

TEST_F(DualPicTest, AMoreImportantInputInterruptsALessImportantOneAndNotTheOtherWayRound) {
  initialize();
  pic_.pulse_pin(4);
  EXPECT_EQ(take(), 0x24U);
  pic_.pulse_pin(6);
  pic_.pulse_pin(4);
  EXPECT_EQ(take(), 0U);
  pic_.pulse_pin(1);
  EXPECT_EQ(take(), 0x21U);
  EXPECT_EQ(isr(), 0x12);
  end();
  EXPECT_EQ(isr(), 0x10) << "an EOI that names none is of the most important";
  EXPECT_EQ(take(), 0U);
  end();
  EXPECT_EQ(take(), 0x24U);
  end();
  EXPECT_EQ(take(), 0x26U);
}

TEST_F(DualPicTest, ASpecificEndIsOfTheInputThatItNames) {
  initialize();
  pic_.pulse_pin(6);
  EXPECT_EQ(take(), 0x26U);
  pic_.pulse_pin(3);
  EXPECT_EQ(take(), 0x23U);
  out(0x20, 0x66);
  EXPECT_EQ(isr(), 0x08);
  out(0x20, 0x60 | 5);
  EXPECT_EQ(isr(), 0x08);
}

TEST_F(DualPicTest, RotationGivesWhatWasServedTheLowestPriority) {
  initialize();
  pic_.pulse_pin(4);
  EXPECT_EQ(take(), 0x24U);
  out(0x20, 0xA0);  // rotate on non-specific EOI
  pic_.pulse_pin(4);
  pic_.pulse_pin(6);
  EXPECT_EQ(take(), 0x26U) << "5 is first now, 4 last";
  out(0x20, 0xE0 | 6);  // rotate on specific EOI
  pic_.pulse_pin(7);
  EXPECT_EQ(take(), 0x27U);
  out(0x20, 0xC0 | 0);  // set priority: 1 is first
  pic_.pulse_pin(1);
  EXPECT_EQ(take(), 0x21U);
}

TEST_F(DualPicTest, WithAutomaticEndNothingStaysInService) {
  initialize(0x03);
  pic_.pulse_pin(1);
  EXPECT_EQ(take(), 0x21U);
  EXPECT_EQ(isr(), 0);
  out(0x20, 0x80);  // rotate in automatic EOI mode
  pic_.pulse_pin(1);
  EXPECT_EQ(take(), 0x21U);
  pic_.pulse_pin(1);
  pic_.pulse_pin(5);
  EXPECT_EQ(take(), 0x25U);
  EXPECT_EQ(take(), 0x21U);
  out(0x20, 0x00);
  pic_.pulse_pin(0);
  EXPECT_EQ(take(), 0x20U);
  EXPECT_EQ(pic_.state().chips[0].lowest, 1) << "rotation is off";
}

TEST_F(DualPicTest, ALevelAsksForAsLongAsItIsUp) {
  initialize();
  out(0x4D0, 0x20);
  pic_.set_pin(5, true);
  EXPECT_EQ(take(), 0x25U);
  EXPECT_EQ(take(), 0U) << "in service";
  EXPECT_EQ(irr(), 0x20);
  end();
  EXPECT_EQ(take(), 0x25U);
  pic_.set_pin(5, false);
  end();
  EXPECT_EQ(take(), 0U);
  pic_.pulse_pin(5);
  EXPECT_EQ(take(), 0x25U) << "the edge of a device that has no level";
}

TEST_F(DualPicTest, ALevelThatFallsTooEarlyIsASpuriousInterrupt) {
  initialize();
  out(0x4D0, 0x20);
  pic_.set_pin(5, true);
  pic_.set_pin(5, false);  // after the CPU has seen the request, before its acknowledgement
  EXPECT_EQ(pic_.acknowledge(), 0x27U);
  EXPECT_EQ(isr(), 0) << "which is how the handler of input 7 knows";
}

TEST_F(DualPicTest, TheSlavesInputsComeThroughInputTwo) {
  initialize();
  pic_.pulse_pin(12);
  EXPECT_EQ(irr(), 0x04);
  EXPECT_EQ(irr(0xA0), 0x10);
  EXPECT_EQ(take(), 0x2CU);
  EXPECT_EQ(isr(), 0x04);
  EXPECT_EQ(isr(0xA0), 0x10);
  pic_.pulse_pin(3);
  EXPECT_EQ(take(), 0U) << "the slave is more important than inputs 3 to 7";
  pic_.pulse_pin(1);
  EXPECT_EQ(take(), 0x21U);
  end();
  out(0xA0, 0x20);
  end();
  EXPECT_EQ(take(), 0x23U);
  pic_.pulse_pin(2);
  pic_.set_pin(2, true);
  EXPECT_EQ(take(), 0U) << "no device is wired there";
}

TEST_F(DualPicTest, TheMastersMaskOfInputTwoSilencesTheSlave) {
  initialize();
  out(0x21, 0x04);
  pic_.pulse_pin(8);
  EXPECT_EQ(take(), 0U);
  out(0xA1, 0xFF);
  out(0x21, 0x00);
  EXPECT_EQ(take(), 0U) << "the slave's own mask took the request back";
  out(0xA1, 0x00);
  EXPECT_EQ(take(), 0x28U);
}

TEST_F(DualPicTest, ASlavesRequestThatFallsTooEarlyIsSpurious) {
  initialize();
  out(0x4D1, 0x08);
  pic_.set_pin(11, true);
  pic_.set_pin(11, false);
  EXPECT_EQ(pic_.acknowledge(), 0x27U) << "nobody asks the master any more";
  // Polled past the master, the slave has nothing left for the master's acknowledgement.
  PicChip slave{PicChip::Role::Slave};
  slave.write_command(0x11);
  for (const std::uint8_t word : std::to_array<std::uint8_t>({0x28, 0x02, 0x01})) slave.write_data(word);
  EXPECT_EQ(slave.vector(slave.acknowledge()), 0x2FU);
  EXPECT_EQ(slave.state().in_service, 0);
}

TEST_F(DualPicTest, InSpecialFullyNestedModeTheSlaveInterruptsItself) {
  initialize(0x11);
  pic_.pulse_pin(12);
  EXPECT_EQ(take(), 0x2CU);
  pic_.pulse_pin(9);
  EXPECT_EQ(take(), 0x29U);
  pic_.pulse_pin(4);
  EXPECT_EQ(take(), 0U);
  initialize();
  pic_.pulse_pin(12);
  EXPECT_EQ(take(), 0x2CU);
  pic_.pulse_pin(9);
  EXPECT_EQ(take(), 0U) << "not in the mode that PCs use";
}

TEST_F(DualPicTest, InSpecialMaskModeWhatIsMaskedKeepsNobodyOut) {
  initialize();
  pic_.pulse_pin(1);
  EXPECT_EQ(take(), 0x21U);
  out(0x21, 0x02);
  pic_.pulse_pin(5);
  EXPECT_EQ(take(), 0U);
  out(0x20, 0x68);
  EXPECT_EQ(take(), 0x25U);
  end();
  EXPECT_EQ(isr(), 0x02) << "an EOI that names none leaves what is masked";
  out(0x20, 0x48);
  pic_.pulse_pin(5);
  EXPECT_EQ(take(), 0U);
  out(0x20, 0x61);
  EXPECT_EQ(take(), 0x25U);
}

TEST_F(DualPicTest, APollAcknowledges) {
  initialize();
  pic_.pulse_pin(4);
  pic_.pulse_pin(13);
  out(0x20, 0x0C);
  EXPECT_EQ(in(0x20), 0x82);
  EXPECT_EQ(in(0x20), 0x14) << "one read is a poll, the next shows IRR; the slave has not been polled and still asks";
  EXPECT_EQ(isr(), 0x04);
  out(0xA0, 0x0C);
  EXPECT_EQ(in(0xA1), 0x85) << "by either port";
  out(0xA0, 0x20);
  end();
  out(0x20, 0x0C);
  EXPECT_EQ(in(0x20), 0x84);
  EXPECT_FALSE(output_.level(0));
  out(0x20, 0x0C);
  EXPECT_EQ(in(0x20), 0) << "nothing to serve";
}

TEST_F(DualPicTest, TheOutputRisesOnceForWhatComesTogether) {
  initialize();
  EXPECT_EQ(output_.edges(0), 0U);
  pic_.pulse_pin(3);
  pic_.pulse_pin(5);
  pic_.pulse_pin(3);
  EXPECT_EQ(output_.edges(0), 1U);
  EXPECT_EQ(take(), 0x23U);
  end();
  EXPECT_EQ(output_.edges(0), 1U);
  EXPECT_EQ(take(), 0x25U);
}

TEST_F(DualPicTest, WhatIsPendingAndInServiceSurvives) {
  initialize();
  out(0x4D0, 0x20);
  pic_.pulse_pin(3);
  EXPECT_EQ(take(), 0x23U);
  pic_.set_pin(5, true);
  pic_.pulse_pin(9);
  out(0x20, 0x0C);
  fakes::Pins output;
  DualPic restored{InterruptLine{output, 0}};
  restored.restore(pic_.state());
  EXPECT_EQ(restored.state(), pic_.state());
  EXPECT_TRUE(output.level(0)) << "whoever waits for it is told";
  EXPECT_EQ(load(restored, 0), 0x82);
  store(restored, 0, 0x20);
  store(restored, 0, 0x20);
  EXPECT_EQ(restored.acknowledge(), 0x29U) << "the slave asks until it is acknowledged, too";
  store(restored, 0xA0 - 0x20, 0x20);
  store(restored, 0, 0x20);
  EXPECT_EQ(restored.acknowledge(), 0x25U);
}

TEST_F(DualPicTest, AStateOfBeforeItDeliveredAsksForNothing) {
  DualPicState state;
  state.chips[0] = {.mask = 0x00, .vector_base = 0x30, .cascade = 4, .mode = 1};
  pic_.restore(state);
  pic_.pulse_pin(4);
  EXPECT_EQ(take(), 0U);
  initialize();
  pic_.pulse_pin(4);
  EXPECT_EQ(take(), 0x24U);
}

TEST_F(DualPicTest, AStateFromElsewhereCannotSetWhatDoesNotExist) {
  DualPicState state;
  state.chips.fill({.trigger = 0xFF, .vector_base = 0xFF, .awaited_word = 9, .initialized = true, .lowest = 0xFF});
  pic_.restore(state);
  for (const PicState& chip : pic_.state().chips) {
    EXPECT_EQ(chip.vector_base, 0xF8);
    EXPECT_EQ(chip.awaited_word, 0);
    EXPECT_EQ(chip.lowest, 7);
  }
  EXPECT_EQ(pic_.state().chips[0].trigger, 0xF8);
  EXPECT_EQ(pic_.state().chips[1].trigger, 0xDE);
}

TEST_F(DualPicTest, AnyAccessIsSafe) {
  for (BusDevice* const ports : {static_cast<BusDevice*>(&pic_), &pic_.slave_ports(), &pic_.trigger_ports()})
    fakes::torment(*ports, 1, ports == &pic_ ? 0x500 : 16, [this](unsigned random) {
      pic_.set_pin(random % 20, (random & 0x100) != 0);
      if (random % 8 == 0) pic_.pulse_pin(random >> 9U & 0x1FU);
      if (random % 4 == 0) static_cast<void>(pic_.acknowledge());
      const DualPicState state = pic_.state();
      DualPic restored;
      restored.restore(state);
      ASSERT_EQ(restored.state(), state);
      ASSERT_EQ(restored.requests(), pic_.requests());
      ASSERT_EQ(output_.level(0), pic_.requests());
    });
}

TEST(DualPicThreads, NoEdgeIsLostBetweenALineAndAMask) {
  DualPic pic;
  constexpr std::array<std::uint8_t, 3> kWords{0x20, 0x04, 0x01};
  store(pic, 0, 0x11);
  for (const std::uint8_t word : kWords) store(pic, 1, word);
  for (unsigned i = 0; i < 2'000; ++i) {
    const std::jthread line{[&] { pic.pulse_pin(4); }};
    store(pic, 1, 0x10);
    store(pic, 1, 0x00);
    while (!pic.requests()) std::this_thread::yield();
    ASSERT_EQ(pic.acknowledge(), 0x24U);
    store(pic, 0, 0x20);
  }
}

}  // namespace
}  // namespace mayfly
