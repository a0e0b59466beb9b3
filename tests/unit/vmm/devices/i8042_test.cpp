#include "vmm/devices/i8042.h"

#include "tests/unit/vmm/devices/fakes.h"
#include "vmm/boot/layout.h"

#include <gtest/gtest.h>

namespace mayfly {
namespace {

// What the guest is told is where the device is.

constexpr unsigned kKeyboardPin = 1;
constexpr std::uint8_t kOutputFull = 0x01;
constexpr std::uint8_t kReady = 0x47;  // command byte: translate, tested, both interrupts; keyboard and mouse clocks on

class I8042Test : public ::testing::Test {
 protected:
  void command(std::uint8_t value) { fakes::store(i8042_.command_port(), 0, value); }
  void data(std::uint8_t value) { fakes::store(i8042_, 0, value); }
  std::uint8_t data() { return fakes::load(i8042_, 0); }
  std::uint8_t status() { return fakes::load(i8042_.command_port(), 0); }
  bool full() { return (status() & kOutputFull) != 0; }
  std::uint8_t ask(std::uint8_t value) {
    command(value);
    EXPECT_TRUE(full()) << "no answer to " << int{value};
    return data();
  }
  void set_command_byte(std::uint8_t value) {
    command(0x60);
    data(value);
  }
  std::vector<unsigned> drain() {
    std::vector<unsigned> bytes;
    while (full() && bytes.size() < 100) bytes.push_back(data());
    return bytes;
  }

  fakes::Pins pins_;
  fakes::Signals signals_;
  I8042 i8042_{InterruptLine{pins_, kKeyboardPin}, signals_};
};

using Bytes = std::vector<unsigned>;

TEST_F(I8042Test, StartsAsFirmwareLeavesIt) {
  EXPECT_EQ(status(), 0x14) << "tested, not locked, nothing to read";
  EXPECT_EQ(ask(0x20), 0x64) << "translating, mouse off, interrupts off";
}

TEST_F(I8042Test, TheResetCommandPullsTheResetLine) {
  command(0xFE);
  EXPECT_EQ(signals_.resets, 1U);
  command(0xFF);
  command(0xF1);
  EXPECT_EQ(signals_.resets, 1U) << "these leave the reset line up";
  command(0xF0);
  EXPECT_EQ(signals_.resets, 2U);
}

TEST_F(I8042Test, TheOutputPortPullsTheResetLineToo) {
  EXPECT_EQ(ask(0xD0), 0x03);
  command(0xD1);
  data(0xDF);
  EXPECT_EQ(signals_.resets, 0U);
  EXPECT_EQ(ask(0xD0), 0xDF);
  command(0xD1);
  data(0xDE);
  EXPECT_EQ(signals_.resets, 1U);
}

TEST_F(I8042Test, TheDataPortAloneNeverResets) {
  data(0xFE);
  EXPECT_EQ(signals_.resets, 0U);
}

TEST_F(I8042Test, TestsPass) {
  EXPECT_EQ(ask(0xAA), 0x55);
  EXPECT_EQ(ask(0xAB), 0x00);
  EXPECT_EQ(ask(0xC0), 0x80);
}

TEST_F(I8042Test, TheCommandByteReadsBack) {
  set_command_byte(0x65);
  EXPECT_EQ(ask(0x20), 0x65);
  command(0xAD);
  EXPECT_EQ(ask(0x20), 0x75);
  command(0xAE);
  EXPECT_EQ(ask(0x20), 0x65);
  command(0xA8);
  EXPECT_EQ(ask(0x20), 0x45);
  command(0xA7);
  EXPECT_EQ(ask(0x20), 0x65);
}

TEST_F(I8042Test, TheStatusTellsCommandsFromData) {
  command(0xAE);
  EXPECT_EQ(status() & 0x08, 0x08);
  data(0xF4);
  EXPECT_EQ(status() & 0x08, 0x00);
}

TEST_F(I8042Test, AMouseIsDeniedAtOnce) {
  EXPECT_EQ(ask(0xA9), 0x02);
  command(0xD3);
  data(0x5A);
  EXPECT_EQ(status() & 0x20, 0) << "the byte does not come back as a mouse's";
  EXPECT_EQ(data(), 0x5A);
  command(0xD4);
  data(0xF4);
  EXPECT_FALSE(full());
}

TEST_F(I8042Test, OtherMemoryOfTheControllerSwallowsItsByte) {
  command(0x61);
  data(0xFF);
  EXPECT_FALSE(full()) << "0xFF did not reach the keyboard";
}

TEST_F(I8042Test, TheLastByteStaysReadable) {
  EXPECT_EQ(ask(0xAA), 0x55);
  EXPECT_EQ(data(), 0x55);
}

TEST_F(I8042Test, TheKeyboardAcknowledgesAndIdentifiesItself) {
  data(0xF4);
  EXPECT_EQ(drain(), (Bytes{0xFA}));
  data(0xFF);
  EXPECT_EQ(drain(), (Bytes{0xFA, 0xAA}));
  data(0xF2);
  EXPECT_EQ(drain(), (Bytes{0xFA, 0xAB, 0x41}));
  data(0xEE);
  EXPECT_EQ(drain(), (Bytes{0xEE}));
  data(0x12);
  EXPECT_EQ(drain(), (Bytes{0xFE}));
  set_command_byte(0x04);
  data(0xF2);
  EXPECT_EQ(drain(), (Bytes{0xFA, 0xAB, 0x83}));
}

TEST_F(I8042Test, KeyboardCommandsTakeTheirArgument) {
  for (const std::uint8_t with_argument : std::to_array<std::uint8_t>({0xED, 0xF3})) {
    data(with_argument);
    data(0x07);
    EXPECT_EQ(drain(), (Bytes{0xFA, 0xFA}));
  }
  data(0xF0);
  data(0x00);
  EXPECT_EQ(drain(), (Bytes{0xFA, 0xFA, 0x41}));
  data(0xF0);
  data(0x02);
  EXPECT_EQ(drain(), (Bytes{0xFA, 0xFA}));
  data(0xF0);
  data(0x03);
  EXPECT_EQ(drain(), (Bytes{0xFA, 0xFE}));
  data(0xED);
  data(0xF4);
  EXPECT_EQ(drain(), (Bytes{0xFA, 0xFA})) << "a new command takes the place of the argument";
}

TEST_F(I8042Test, CtrlAltDelIsTypedInTheTranslatedSet) {
  set_command_byte(kReady);
  EXPECT_TRUE(i8042_.press_ctrl_alt_del());
  EXPECT_EQ(drain(), (Bytes{0x1D, 0x38, 0xE0, 0x53, 0xE0, 0xD3, 0xB8, 0x9D}));
}

TEST_F(I8042Test, CtrlAltDelIsTypedInSetTwoWithoutTranslation) {
  set_command_byte(0x05);
  EXPECT_TRUE(i8042_.press_ctrl_alt_del());
  EXPECT_EQ(drain(), (Bytes{0x14, 0x11, 0xE0, 0x71, 0xE0, 0xF0, 0x71, 0xF0, 0x11, 0xF0, 0x14}));
}

TEST_F(I8042Test, CtrlAltDelIsRefusedUntilTheGuestListens) {
  EXPECT_FALSE(i8042_.press_ctrl_alt_del()) << "the interrupt is off";
  set_command_byte(kReady | 0x10);
  EXPECT_FALSE(i8042_.press_ctrl_alt_del()) << "the keyboard is off";
  set_command_byte(kReady);
  data(0xF5);
  drain();
  EXPECT_FALSE(i8042_.press_ctrl_alt_del()) << "scanning is off";
  data(0xF4);
  drain();
  EXPECT_TRUE(i8042_.press_ctrl_alt_del());
  EXPECT_TRUE(i8042_.press_ctrl_alt_del());
  EXPECT_FALSE(i8042_.press_ctrl_alt_del()) << "nothing has been read";
  drain();
  EXPECT_TRUE(i8042_.press_ctrl_alt_del());
}

TEST_F(I8042Test, EachByteHasItsEdge) {
  set_command_byte(kReady);
  EXPECT_TRUE(i8042_.press_ctrl_alt_del());
  for (unsigned i = 0; i < 8; ++i) {
    EXPECT_EQ(pins_.edges(kKeyboardPin), 1U) << i;
    EXPECT_TRUE(pins_.level(kKeyboardPin)) << i;
    data();
  }
  EXPECT_EQ(pins_.edges(kKeyboardPin), 0U);
  EXPECT_FALSE(pins_.level(kKeyboardPin));
}

TEST_F(I8042Test, WithoutItsInterruptTheLineStaysLow) {
  command(0xAA);
  EXPECT_FALSE(pins_.level(kKeyboardPin));
  set_command_byte(kReady);
  EXPECT_TRUE(pins_.level(kKeyboardPin)) << "enabled with a byte waiting";
  set_command_byte(0x44);
  EXPECT_FALSE(pins_.level(kKeyboardPin));
}

TEST_F(I8042Test, KeysWaitWhileTheKeyboardIsOffAndAnswersDoNot) {
  set_command_byte(kReady);
  EXPECT_TRUE(i8042_.press_ctrl_alt_del());
  command(0xAD);
  EXPECT_FALSE(full());
  EXPECT_EQ(ask(0xAA), 0x55);
  EXPECT_FALSE(full());
  command(0xAE);
  EXPECT_EQ(drain().size(), 8U);
}

TEST_F(I8042Test, QueuesAreBounded) {
  for (unsigned i = 0; i < 100; ++i) {
    command(0xAA);
    data(0xF2);
  }
  EXPECT_LE(drain().size(), 2 * I8042Queue::kCapacity);
  EXPECT_FALSE(full());
}

TEST_F(I8042Test, ItsStateSurvives) {
  set_command_byte(kReady);
  EXPECT_TRUE(i8042_.press_ctrl_alt_del());
  data();
  command(0xAA);
  command(0xD1);
  I8042 restored{InterruptLine{pins_, kKeyboardPin}, signals_};
  restored.restore(i8042_.state());
  EXPECT_EQ(restored.state(), i8042_.state());
  fakes::store(restored, 0, 0xDD);
  EXPECT_EQ(fakes::load(restored, 0), 0x55);
  EXPECT_EQ(fakes::load(restored, 0), 0x38);
  EXPECT_EQ(restored.state().output_port, 0xDD);
}

TEST_F(I8042Test, AStateFromElsewhereCannotOverrunAQueue) {
  I8042State state;
  state.answers.count = 255;
  state.keys.count = 255;
  i8042_.restore(state);
  EXPECT_EQ(drain().size(), 2 * I8042Queue::kCapacity);
}

TEST_F(I8042Test, AnyAccessIsSafe) {
  fakes::torment(i8042_, 1, 16, [this](unsigned random) {
    if (random % 8 == 0) static_cast<void>(i8042_.press_ctrl_alt_del());
  });
  fakes::torment(i8042_.command_port(), 2, 4, [](unsigned) {});
  EXPECT_EQ(pins_.level(kKeyboardPin), full() && (i8042_.state().command_byte & 1) != 0);
}

}  // namespace
}  // namespace mayfly
