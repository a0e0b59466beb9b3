#include "vmm/devices/serial.h"

#include "tests/unit/vmm/devices/fakes.h"
#include "vmm/boot/layout.h"

#include <algorithm>
#include <string>
#include <string_view>

#include <gtest/gtest.h>

namespace mayfly {
namespace {

// What the guest is told is where the device is.

constexpr unsigned kSerialPin = 4;

// Registers.
constexpr std::uint64_t kDataPort = 0;
constexpr std::uint64_t kIer = 1;
constexpr std::uint64_t kIir = 2;
constexpr std::uint64_t kFcr = 2;
constexpr std::uint64_t kLcr = 3;
constexpr std::uint64_t kMcr = 4;
constexpr std::uint64_t kLsr = 5;
constexpr std::uint64_t kMsr = 6;
constexpr std::uint64_t kScr = 7;

constexpr std::uint8_t kIerReceived = 0x01;
constexpr std::uint8_t kIerTransmitter = 0x02;
constexpr std::uint8_t kIerLine = 0x04;
constexpr std::uint8_t kIerModem = 0x08;
constexpr std::uint8_t kLoopback = 0x10;

class Output final : public SerialOutput {
 public:
  void put(std::byte byte) noexcept override { text.push_back(static_cast<char>(byte)); }
  void flush() noexcept override { flushed = text; }
  std::string text;
  std::string flushed;  // what had been put by the last flush
};

class Feeder final : public SerialInputPort {
 public:
  void room_available() noexcept override { ++notices; }
  unsigned notices = 0;
};

class SerialTest : public ::testing::Test {
 protected:
  std::uint8_t get(std::uint64_t port) { return fakes::load(serial_, port); }
  void set(std::uint64_t port, std::uint8_t value) { fakes::store(serial_, port, value); }
  std::size_t type(std::string_view text) { return serial_.offer(std::as_bytes(std::span{text})); }
  std::string read_all() {
    std::string text;
    while ((get(kLsr) & 0x01) != 0) text.push_back(static_cast<char>(get(kDataPort)));
    return text;
  }

  fakes::Pins pins_;
  Output output_;
  Feeder feeder_;
  Serial serial_{InterruptLine{pins_, kSerialPin}, output_, feeder_};
};

// --- Registers -------------------------------------------------------------------------------------------------------

TEST_F(SerialTest, StartsAsTheDataSheetSays) {
  EXPECT_EQ(get(kIer), 0x00);
  EXPECT_EQ(get(kIir), 0x01);
  EXPECT_EQ(get(kLcr), 0x00);
  EXPECT_EQ(get(kMcr), 0x00);
  EXPECT_EQ(get(kLsr), 0x60);
  EXPECT_EQ(get(kMsr), 0xB0);
  EXPECT_FALSE(pins_.level(kSerialPin));
}

TEST_F(SerialTest, WhatIsWrittenIsSent) {
  for (const char c : std::string_view{"hello"}) {
    set(kDataPort, static_cast<std::uint8_t>(c));
    EXPECT_EQ(get(kLsr), 0x60) << "the transmitter is always empty";
  }
  EXPECT_EQ(output_.text, "hello");
}

TEST_F(SerialTest, UnusedBitsReadAsZero) {
  set(kIer, 0xFF);
  EXPECT_EQ(get(kIer), 0x0F);
  set(kMcr, 0xFF);
  EXPECT_EQ(get(kMcr), 0x1F);
}

TEST_F(SerialTest, ScratchAndLineControlReadBack) {
  for (const std::uint8_t value : std::to_array<std::uint8_t>({0x00, 0x55, 0x2A})) {
    set(kScr, value);
    set(kLcr, value);
    EXPECT_EQ(get(kScr), value);
    EXPECT_EQ(get(kLcr), value);
  }
}

TEST_F(SerialTest, TheDivisorLatchIsBehindItsBit) {
  set(kIer, kIerReceived);
  set(kLcr, 0x83);
  EXPECT_EQ(get(kDataPort), 12) << "9600 baud";
  set(kDataPort, 0x01);
  set(kIer, 0x02);
  EXPECT_EQ(get(kDataPort), 0x01);
  EXPECT_EQ(get(kIer), 0x02);
  set(kLcr, 0x03);
  EXPECT_EQ(get(kIer), kIerReceived);
  EXPECT_EQ(output_.text, "");
}

TEST_F(SerialTest, StatusRegistersIgnoreWrites) {
  set(kLsr, 0xFF);
  set(kMsr, 0xFF);
  EXPECT_EQ(get(kLsr), 0x60);
  EXPECT_EQ(get(kMsr), 0xB0);
}

TEST_F(SerialTest, AWideAccessIsSuccessiveBytes) {
  fakes::store<std::uint16_t>(serial_, kMcr, 0xEE0B);
  EXPECT_EQ(get(kMcr), 0x0B);
  EXPECT_EQ(fakes::load<std::uint16_t>(serial_, kMcr), 0x600B);
}

// --- FIFO ------------------------------------------------------------------------------------------------------------

TEST_F(SerialTest, TheFifoIsIdentifiedAsA16550A) {
  set(kFcr, 0x01);
  EXPECT_EQ(get(kIir), 0xC1);
  set(kFcr, 0x00);
  EXPECT_EQ(get(kIir), 0x01);
}

TEST_F(SerialTest, WithoutFifoOneByteIsReceivedAtATime) {
  EXPECT_EQ(serial_.room(), 1U);
  EXPECT_EQ(type("abc"), 1U);
  EXPECT_EQ(serial_.room(), 0U);
  EXPECT_EQ(get(kLsr), 0x61);
  EXPECT_EQ(get(kDataPort), 'a');
  EXPECT_EQ(get(kLsr), 0x60);
  EXPECT_EQ(get(kDataPort), 0) << "nothing there";
}

TEST_F(SerialTest, WithFifoSixteenBytesAreReceivedInOrder) {
  set(kFcr, 0x01);
  EXPECT_EQ(serial_.room(), kSerialFifoSize);
  EXPECT_EQ(type("0123456789abcdefXYZ"), kSerialFifoSize);
  EXPECT_EQ(read_all(), "0123456789abcdef");
}

TEST_F(SerialTest, AReceiverResetEmptiesTheFifo) {
  set(kFcr, 0x01);
  EXPECT_EQ(type("abc"), 3U);
  set(kFcr, 0x05);
  EXPECT_EQ(get(kLsr), 0x61) << "that was the transmitter's";
  set(kFcr, 0x03);
  EXPECT_EQ(get(kLsr), 0x60);
}

TEST_F(SerialTest, SwitchingTheFifoEmptiesItAndAResetBitAloneDoesNothing) {
  EXPECT_EQ(type("a"), 1U);
  set(kFcr, 0x02);
  EXPECT_EQ(get(kLsr), 0x61);
  set(kFcr, 0x01);
  EXPECT_EQ(get(kLsr), 0x60);
  EXPECT_EQ(type("abc"), 3U);
  set(kFcr, 0x00);
  EXPECT_EQ(get(kLsr), 0x60);
}

TEST_F(SerialTest, TheTriggerLevelTellsDataFromATimeout) {
  set(kIer, kIerReceived);
  const std::array<std::pair<std::uint8_t, std::size_t>, 4> levels{{{0x01, 1}, {0x41, 4}, {0x81, 8}, {0xC1, 14}}};
  for (const auto& [control, level] : levels) {
    set(kFcr, control | 0x02);
    if (level > 1) {
      EXPECT_EQ(type(std::string(level - 1, 'x')), level - 1);
      EXPECT_EQ(get(kIir), 0xCC) << level;
    }
    EXPECT_EQ(type(std::string(level > 1 ? 1 : level, 'x')), 1U);
    EXPECT_EQ(get(kIir), 0xC4) << level;
    read_all();
    EXPECT_EQ(get(kIir), 0xC1) << level;
  }
}

// --- Interrupts ------------------------------------------------------------------------------------------------------

TEST_F(SerialTest, ReceivedDataInterruptsUntilItIsRead) {
  set(kIer, kIerReceived);
  EXPECT_EQ(type("a"), 1U);
  EXPECT_TRUE(pins_.level(kSerialPin));
  EXPECT_EQ(get(kIir), 0x04);
  EXPECT_TRUE(pins_.level(kSerialPin)) << "identifying does not answer it";
  get(kDataPort);
  EXPECT_FALSE(pins_.level(kSerialPin));
  EXPECT_EQ(pins_.edges(kSerialPin), 1U);
}

TEST_F(SerialTest, ADisabledCauseDoesNotInterrupt) {
  EXPECT_EQ(type("a"), 1U);
  set(kDataPort, 'x');
  EXPECT_EQ(get(kIir), 0x01);
  EXPECT_EQ(pins_.edges(kSerialPin), 0U);
  set(kIer, kIerReceived);
  EXPECT_TRUE(pins_.level(kSerialPin)) << "enabled later";
  set(kIer, 0);
  EXPECT_FALSE(pins_.level(kSerialPin));
}

TEST_F(SerialTest, EnablingTheTransmitterInterruptRaisesItAndIdentifyingEndsIt) {
  set(kIer, kIerTransmitter);
  EXPECT_TRUE(pins_.level(kSerialPin));
  EXPECT_EQ(get(kIir), 0x02);
  EXPECT_FALSE(pins_.level(kSerialPin));
  EXPECT_EQ(get(kIir), 0x01);
  set(kIer, kIerTransmitter);
  EXPECT_EQ(get(kIir), 0x01) << "it was enabled already";
  set(kIer, 0);
  set(kIer, kIerTransmitter);
  EXPECT_EQ(get(kIir), 0x02);
}

TEST_F(SerialTest, EachWriteRunsTheTransmitterEmptyAgain) {
  set(kIer, kIerTransmitter);
  get(kIir);
  EXPECT_EQ(pins_.edges(kSerialPin), 1U);
  for (unsigned i = 0; i < 16; ++i) set(kDataPort, 'x');
  EXPECT_EQ(pins_.edges(kSerialPin), 1U) << "one for the batch";
  EXPECT_EQ(get(kIir), 0x02);
}

TEST_F(SerialTest, CausesAreIdentifiedInOrderOfPriority) {
  set(kMcr, kLoopback);
  get(kMsr);
  set(kIer, 0x0F);
  set(kDataPort, 'a');
  set(kDataPort, 'b');          // overruns
  set(kMcr, kLoopback | 0x02);  // RTS to CTS
  EXPECT_EQ(get(kIir), 0x06);
  EXPECT_EQ(get(kLsr), 0x63);
  EXPECT_EQ(get(kIir), 0x04);
  EXPECT_EQ(get(kDataPort), 'a');
  EXPECT_EQ(get(kIir), 0x02);
  EXPECT_EQ(get(kIir), 0x00);
  EXPECT_TRUE(pins_.level(kSerialPin));
  EXPECT_EQ(get(kMsr), 0x11);
  EXPECT_EQ(get(kIir), 0x01);
  EXPECT_FALSE(pins_.level(kSerialPin));
}

TEST_F(SerialTest, IdentifyingAnotherCauseLeavesTheTransmittersPending) {
  set(kIer, kIerReceived | kIerTransmitter);
  EXPECT_EQ(type("a"), 1U);
  EXPECT_EQ(get(kIir), 0x04);
  get(kDataPort);
  EXPECT_EQ(get(kIir), 0x02);
}

TEST_F(SerialTest, ANewCauseIsANewEdgeThoughAnotherHoldsTheLine) {
  set(kIer, kIerReceived | kIerTransmitter);
  EXPECT_EQ(pins_.edges(kSerialPin), 1U);
  EXPECT_EQ(type("a"), 1U);
  EXPECT_EQ(pins_.edges(kSerialPin), 1U);
  EXPECT_TRUE(pins_.level(kSerialPin));
  get(kDataPort);
  EXPECT_TRUE(pins_.level(kSerialPin)) << "the transmitter's is still there";
  EXPECT_EQ(pins_.edges(kSerialPin), 0U);
}

TEST_F(SerialTest, NoWakeUpIsLostByAGuestThatLoopsUntilNothingIsPending) {
  set(kFcr, 0x81);
  set(kIer, kIerReceived | kIerTransmitter);
  std::string received;
  std::string_view to_send = "the guest's answer";
  unsigned offered = 0;
  for (unsigned round = 0; round < 100; ++round) {
    if (round < 50 && type("k") == 1) ++offered;
    if (pins_.edges(kSerialPin) == 0) continue;
    for (std::uint8_t iir = get(kIir); (iir & 1) == 0; iir = get(kIir)) {
      received += read_all();
      if ((iir & 0x0F) == 0x02 && !to_send.empty()) {
        set(kDataPort, static_cast<std::uint8_t>(to_send.front()));
        to_send.remove_prefix(1);
      }
    }
  }
  EXPECT_EQ(received.size(), offered);
  EXPECT_EQ(output_.text, "the guest's answer");
}

// --- Loopback and modem ----------------------------------------------------------------------------------------------

TEST_F(SerialTest, LoopbackMapsOutputsToInputs) {
  const std::array<std::pair<std::uint8_t, std::uint8_t>, 5> lines{
      {{0x00, 0x00}, {0x01, 0x20}, {0x02, 0x10}, {0x04, 0x40}, {0x08, 0x80}}};
  for (const auto& [outputs, inputs] : lines) {
    set(kMcr, kLoopback | outputs);
    EXPECT_EQ(get(kMsr) & 0xF0, inputs) << int{outputs};
  }
  set(kMcr, kLoopback | 0x0A);
  EXPECT_EQ(get(kMsr) & 0xF0, 0x90) << "Linux's test for a UART";
  set(kMcr, 0x0B);
  EXPECT_EQ(get(kMsr) & 0xF0, 0xB0);
}

TEST_F(SerialTest, ModemChangesAreRememberedUntilRead) {
  set(kMcr, kLoopback | 0x04);
  EXPECT_EQ(get(kMsr), 0x4B) << "CTS, DSR and DCD fell; RI rose, which does not count";
  EXPECT_EQ(get(kMsr), 0x40);
  set(kMcr, kLoopback);
  EXPECT_EQ(get(kMsr), 0x04) << "trailing edge of RI";
}

TEST_F(SerialTest, LoopedBackDataIsReceivedAndNotSent) {
  set(kFcr, 0x01);
  set(kMcr, kLoopback);
  for (const char c : std::string_view{"echo"}) set(kDataPort, static_cast<std::uint8_t>(c));
  EXPECT_EQ(output_.text, "");
  EXPECT_EQ(read_all(), "echo");
}

TEST_F(SerialTest, LoopbackCanOverrunTheFifo) {
  set(kFcr, 0x01);
  set(kMcr, kLoopback);
  for (unsigned i = 0; i < 17; ++i) set(kDataPort, static_cast<std::uint8_t>('a' + i));
  EXPECT_EQ(get(kLsr), 0x63);
  EXPECT_EQ(get(kLsr), 0x61) << "reading clears the error";
  EXPECT_EQ(read_all(), "abcdefghijklmnop");
}

// --- Flow control ----------------------------------------------------------------------------------------------------

TEST_F(SerialTest, AnOfferThatCameShortIsFollowedByOneNotice) {
  set(kFcr, 0x01);
  EXPECT_EQ(type("0123456789abcdef"), 16U);
  read_all();
  EXPECT_EQ(feeder_.notices, 0U) << "it did not come short";
  EXPECT_EQ(type("0123456789abcdefg"), 16U);
  EXPECT_EQ(type("g"), 0U);
  for (unsigned i = 0; i < 15; ++i) get(kDataPort);
  EXPECT_EQ(feeder_.notices, 0U) << "not drained yet";
  get(kDataPort);
  EXPECT_EQ(feeder_.notices, 1U);
  get(kDataPort);
  EXPECT_EQ(feeder_.notices, 1U);
}

TEST_F(SerialTest, AFifoResetMakesRoomToo) {
  set(kFcr, 0x01);
  EXPECT_EQ(type("0123456789abcdefg"), 16U);
  set(kFcr, 0x03);
  EXPECT_EQ(feeder_.notices, 1U);
}

TEST_F(SerialTest, LoopbackHoldsInputBackUntilItEnds) {
  set(kMcr, kLoopback);
  EXPECT_EQ(serial_.room(), 0U);
  EXPECT_EQ(type("a"), 0U);
  EXPECT_EQ(feeder_.notices, 0U);
  set(kMcr, 0);
  EXPECT_EQ(feeder_.notices, 1U);
  EXPECT_EQ(type("a"), 1U);
}

TEST_F(SerialTest, NothingTypedIsLostHoweverSlowlyTheGuestReads) {
  set(kFcr, 0x01);
  std::string text;
  for (unsigned i = 0; i < 1000; ++i) text.push_back(static_cast<char>('a' + i % 26));
  std::string received;
  std::string_view rest = text;
  rest.remove_prefix(type(rest));
  while (received.size() < text.size()) {
    const unsigned before = feeder_.notices;
    received.push_back(static_cast<char>(get(kDataPort)));
    if (feeder_.notices > before) rest.remove_prefix(type(rest));
  }
  EXPECT_EQ(received, text);
}

// --- Snapshot and hostility ------------------------------------------------------------------------------------------

TEST_F(SerialTest, ItsStateSurvives) {
  set(kFcr, 0x41);
  set(kIer, kIerReceived | kIerTransmitter);
  set(kLcr, 0x1B);
  set(kMcr, 0x0B);
  set(kScr, 0x77);
  EXPECT_EQ(type("abcde"), 5U);
  get(kDataPort);
  Serial restored{InterruptLine{pins_, kSerialPin}, output_, feeder_};
  restored.restore(serial_.state());
  EXPECT_EQ(restored.state(), serial_.state());
  pins_.set_pin(kSerialPin, true);
  EXPECT_GE(pins_.edges(kSerialPin), 1U);
  EXPECT_EQ(fakes::load(restored, kIir), 0xC4);
  for (const char c : std::string_view{"bcde"}) EXPECT_EQ(fakes::load(restored, kDataPort), c);
  EXPECT_EQ(fakes::load(restored, kIir), 0xC2);
  EXPECT_FALSE(pins_.level(kSerialPin));
  EXPECT_EQ(pins_.edges(kSerialPin), 0U) << "no cause was new";
}

TEST_F(SerialTest, AStateFromElsewhereCannotOverrunTheFifo) {
  SerialState state;
  state.received_count = 255;
  state.interrupt_enable = state.fifo_control = state.modem_control = state.line_errors = 0xFF;
  serial_.restore(state);
  EXPECT_EQ(serial_.state().received_count, kSerialFifoSize);
  EXPECT_EQ(serial_.room(), 0U);
  EXPECT_EQ(read_all().size(), kSerialFifoSize);
}

TEST_F(SerialTest, AnyAccessIsSafeAndTheLineTellsWhetherACauseIsPending) {
  fakes::torment(serial_, 1, 16, [this](unsigned random) {
    static_cast<void>(type(std::string(random % 20, 'x')));
    const SerialState state = serial_.state();
    ASSERT_LE(state.received_count, kSerialFifoSize);
    const bool pending = (state.received_count > 0 && (state.interrupt_enable & kIerReceived) != 0) ||
                         (state.transmitter_event && (state.interrupt_enable & kIerTransmitter) != 0) ||
                         (state.line_errors != 0 && (state.interrupt_enable & kIerLine) != 0) ||
                         ((state.modem_status & 0x0F) != 0 && (state.interrupt_enable & kIerModem) != 0);
    ASSERT_EQ(pins_.level(kSerialPin), pending);
    output_.text.clear();
  });
}

// --- Bursts ----------------------------------------------------------------------------------------------------------

TEST_F(SerialTest, ADriverThatWritesIerHasSentItsBurst) {
  set(kIer, kIerTransmitter);
  for (const char c : std::string_view{"two\nlines\n"}) set(kDataPort, static_cast<std::uint8_t>(c));
  EXPECT_EQ(output_.flushed, "");  // it waits for interrupts: it will say when it is done
  set(kIer, 0);
  EXPECT_EQ(output_.flushed, "two\nlines\n");
}

TEST_F(SerialTest, ALineOfADriverThatPollsIsABurst) {
  for (const char c : std::string_view{"line\nand"}) set(kDataPort, static_cast<std::uint8_t>(c));
  EXPECT_EQ(output_.flushed, "line\n");
}

TEST_F(SerialTest, TheDivisorAndLoopbackEndNoBurst) {
  set(kDataPort, 'x');
  set(kLcr, 0x80);
  set(kIer, 0);  // the divisor's high byte
  set(kLcr, 0);
  set(kMcr, kLoopback);
  set(kDataPort, '\n');
  EXPECT_EQ(output_.flushed, "");
}

}  // namespace
}  // namespace mayfly
