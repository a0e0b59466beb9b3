#include "vmm/devices/serial.h"

#include <algorithm>
#include <iterator>

namespace mayfly {
namespace {

// Register offsets (PC16550D, table II).
constexpr std::uint64_t kData = 0;             // RBR, THR; DLL with DLAB
constexpr std::uint64_t kInterruptEnable = 1;  // IER; DLM with DLAB
constexpr std::uint64_t kInterruptIdentification = 2;
constexpr std::uint64_t kFifoControl = 2;
constexpr std::uint64_t kLineControl = 3;
constexpr std::uint64_t kModemControl = 4;
constexpr std::uint64_t kLineStatus = 5;
constexpr std::uint64_t kModemStatus = 6;
constexpr std::uint64_t kScratch = 7;

// IER; the same bits stand for the causes of an interrupt.
constexpr std::uint8_t kReceivedData = 1U << 0;
constexpr std::uint8_t kTransmitterEmpty = 1U << 1;
constexpr std::uint8_t kLineError = 1U << 2;
constexpr std::uint8_t kModemChange = 1U << 3;
constexpr std::uint8_t kInterruptEnableBits = 0x0F;

// IIR, in falling order of priority.
constexpr std::uint8_t kIdLineError = 0x06;
constexpr std::uint8_t kIdReceivedData = 0x04;
constexpr std::uint8_t kIdCharacterTimeout = 0x0C;
constexpr std::uint8_t kIdTransmitterEmpty = 0x02;
constexpr std::uint8_t kIdModemChange = 0x00;
constexpr std::uint8_t kIdNone = 0x01;
constexpr std::uint8_t kIdFifosEnabled = 0xC0;

// FCR
constexpr std::uint8_t kFifoEnable = 1U << 0;
constexpr std::uint8_t kReceiverReset = 1U << 1;
constexpr std::uint8_t kTriggerBits = 0xC0;
constexpr unsigned kTriggerShift = 6;
constexpr std::array<std::uint8_t, 4> kTriggerLevels{1, 4, 8, 14};

constexpr std::uint8_t kDivisorAccess = 1U << 7;  // LCR

// MCR
constexpr std::uint8_t kDataTerminalReady = 1U << 0;
constexpr std::uint8_t kRequestToSend = 1U << 1;
constexpr std::uint8_t kOut1 = 1U << 2;
constexpr std::uint8_t kOut2 = 1U << 3;
constexpr std::uint8_t kLoopback = 1U << 4;
constexpr std::uint8_t kModemControlBits = 0x1F;

// LSR
constexpr std::uint8_t kDataReady = 1U << 0;
constexpr std::uint8_t kOverrun = 1U << 1;
constexpr std::uint8_t kErrorBits = 0x1E;
constexpr std::uint8_t kHoldingRegisterEmpty = 1U << 5;
constexpr std::uint8_t kShiftRegisterEmpty = 1U << 6;

// MSR: the deltas are four bits below their lines.
constexpr std::uint8_t kClearToSend = 1U << 4;
constexpr std::uint8_t kDataSetReady = 1U << 5;
constexpr std::uint8_t kRing = 1U << 6;
constexpr std::uint8_t kCarrier = 1U << 7;
constexpr std::uint8_t kModemLines = 0xF0;
constexpr std::uint8_t kModemDeltas = 0x0F;
constexpr std::uint8_t kTrailingRing = 1U << 2;
/// The other end is there, has carrier and always lets us send.
constexpr std::uint8_t kPeerLines = kClearToSend | kDataSetReady | kCarrier;

/// The modem lines as the guest sees them: the peer's, or in loopback its own outputs (PC16550D, 8.6.7).
std::uint8_t modem_lines(std::uint8_t modem_control) noexcept {
  if ((modem_control & kLoopback) == 0) return kPeerLines;
  unsigned lines = 0;
  if ((modem_control & kRequestToSend) != 0) lines |= kClearToSend;
  if ((modem_control & kDataTerminalReady) != 0) lines |= kDataSetReady;
  if ((modem_control & kOut1) != 0) lines |= kRing;
  if ((modem_control & kOut2) != 0) lines |= kCarrier;
  return static_cast<std::uint8_t>(lines);
}

}  // namespace

Serial::Serial(InterruptLine line, SerialOutput& output, SerialInputPort& input_port) noexcept
    : line_(line), output_(output), input_port_(input_port) {
  state_.modem_status = kPeerLines;
}

// --- Control path ----------------------------------------------------------------------------------------------------

std::uint8_t Serial::load(std::uint64_t port) noexcept {
  std::uint8_t value = 0;
  bool room = false;
  {
    const MutexLock lock{mutex_};
    value = read_register(port);
    update_line();
    room = take_room_notice();
  }
  if (room) input_port_.room_available();
  return value;
}

void Serial::store(std::uint64_t port, std::uint8_t value) noexcept {
  bool sent = false;
  bool burst_ends = false;
  bool room = false;
  {
    const MutexLock lock{mutex_};
    sent = port == kData && !divisor_access() && !looped_back();
    // Linux writes IER after each message of the kernel (which it sends by polling), and when a terminal's buffer has
    // run empty; the tuned kernel, which polls for that too, only where no line has ended. Other drivers that poll may never
    // write it: for them, a line ends a burst. Not for one that waits for interrupts: it has several lines to send, and
    // says when it is done.
    const bool polls = (state_.interrupt_enable & kTransmitterEmpty) == 0;
    burst_ends = sent ? value == '\n' && polls : port == kInterruptEnable && !divisor_access();
    write_register(port, value);
    update_line();
    room = take_room_notice();
  }
  if (sent) output_.put(std::byte{value});
  if (burst_ends) output_.flush();
  if (room) input_port_.room_available();
}

std::uint8_t Serial::read_register(std::uint64_t port) noexcept {
  switch (port) {
    case kData:
      return divisor_access() ? state_.divisor_low : take_received();
    case kInterruptEnable:
      return divisor_access() ? state_.divisor_high : state_.interrupt_enable;
    case kInterruptIdentification:
      return identify_interrupt();
    case kLineControl:
      return state_.line_control;
    case kModemControl:
      return state_.modem_control;
    case kLineStatus: {
      const std::uint8_t status = line_status();
      state_.line_errors = 0;
      return status;
    }
    case kModemStatus: {
      const std::uint8_t status = state_.modem_status;
      state_.modem_status &= kModemLines;
      return status;
    }
    case kScratch:
      return state_.scratch;
    default:
      return kFloatingPort;
  }
}

void Serial::write_register(std::uint64_t port, std::uint8_t value) noexcept {
  switch (port) {
    case kData:
      if (divisor_access()) {
        state_.divisor_low = value;
        break;
      }
      if (looped_back()) receive_looped_back(value);
      state_.transmitter_event = true;  // full and empty again at once
      break;
    case kInterruptEnable:
      if (divisor_access()) {
        state_.divisor_high = value;
        break;
      }
      // Enabled while the transmitter is empty, the interrupt is due at once: drivers start sending so.
      if ((value & ~state_.interrupt_enable & kTransmitterEmpty) != 0) state_.transmitter_event = true;
      state_.interrupt_enable = value & kInterruptEnableBits;
      break;
    case kFifoControl:
      write_fifo_control(value);
      break;
    case kLineControl:
      state_.line_control = value;
      break;
    case kModemControl:
      write_modem_control(value);
      break;
    case kScratch:
      state_.scratch = value;
      break;
    default:  // LSR and MSR are read-only here: writing them is for factory tests (PC16550D, 8.6.3)
      break;
  }
}

std::uint8_t Serial::identify_interrupt() noexcept {
  const std::uint8_t causes = pending_causes();
  std::uint8_t id = kIdNone;
  if ((causes & kLineError) != 0) {
    id = kIdLineError;
  } else if ((causes & kReceivedData) != 0) {
    const std::uint8_t trigger = kTriggerLevels[state_.fifo_control >> kTriggerShift];
    id = fifo_enabled() && state_.received_count < trigger ? kIdCharacterTimeout : kIdReceivedData;
  } else if ((causes & kTransmitterEmpty) != 0) {
    id = kIdTransmitterEmpty;
    state_.transmitter_event = false;  // reading it as the source ends it (PC16550D, table V)
  } else if ((causes & kModemChange) != 0) {
    id = kIdModemChange;
  }
  return fifo_enabled() ? id | kIdFifosEnabled : id;
}

void Serial::write_fifo_control(std::uint8_t value) noexcept {
  // Switching the FIFOs on or off clears them; the other bits count only together with the enable bit.
  const bool switched = ((value ^ state_.fifo_control) & kFifoEnable) != 0;
  if (switched || (value & (kFifoEnable | kReceiverReset)) == (kFifoEnable | kReceiverReset)) clear_receiver();
  state_.fifo_control = (value & kFifoEnable) != 0 ? value & (kFifoEnable | kTriggerBits) : 0;
}

void Serial::write_modem_control(std::uint8_t value) noexcept {
  state_.modem_control = value & kModemControlBits;
  const std::uint8_t before = state_.modem_status & kModemLines;
  const std::uint8_t after = modem_lines(state_.modem_control);
  auto deltas = static_cast<std::uint8_t>((before ^ after) >> 4);
  if ((after & kRing) != 0) deltas &= static_cast<std::uint8_t>(~kTrailingRing);  // only the end of a ring counts
  state_.modem_status = after | ((state_.modem_status & kModemDeltas) | deltas);
}

// --- Data path -------------------------------------------------------------------------------------------------------

std::size_t Serial::offer(std::span<const std::byte> input) {
  const MutexLock lock{mutex_};
  const std::size_t taken = std::min(input.size(), room_locked());
  for (const std::byte byte : input.first(taken))
    state_.received[state_.received_count++] = std::to_integer<std::uint8_t>(byte);
  if (taken < input.size()) offer_came_short_ = true;
  update_line();
  return taken;
}

std::size_t Serial::room() const {
  const MutexLock lock{mutex_};
  return room_locked();
}

std::size_t Serial::room_locked() const noexcept {
  if (looped_back()) return 0;
  const std::size_t size = fifo_enabled() ? kSerialFifoSize : 1;
  return size - std::min<std::size_t>(size, state_.received_count);
}

std::uint8_t Serial::take_received() noexcept {
  if (state_.received_count == 0) return 0;
  const std::uint8_t value = state_.received[0];
  std::shift_left(state_.received.begin(), state_.received.end(), 1);
  state_.received[--state_.received_count] = 0;
  return value;
}

void Serial::receive_looped_back(std::uint8_t value) noexcept {
  if (state_.received_count < (fifo_enabled() ? kSerialFifoSize : 1))
    state_.received[state_.received_count++] = value;
  else
    state_.line_errors |= kOverrun;
}

void Serial::clear_receiver() noexcept {
  state_.received.fill(0);
  state_.received_count = 0;
}

/// Whether the feeder waits for room and there is some; true once.
bool Serial::take_room_notice() noexcept {
  if (!offer_came_short_ || state_.received_count > 0 || looped_back()) return false;
  offer_came_short_ = false;
  return true;
}

// --- Interrupts ------------------------------------------------------------------------------------------------------

std::uint8_t Serial::pending_causes() const noexcept {
  unsigned causes = 0;
  if (state_.received_count > 0) causes |= kReceivedData;
  if (state_.transmitter_event) causes |= kTransmitterEmpty;
  if (state_.line_errors != 0) causes |= kLineError;
  if ((state_.modem_status & kModemDeltas) != 0) causes |= kModemChange;
  return static_cast<std::uint8_t>(causes & state_.interrupt_enable);
}

void Serial::update_line() noexcept {
  const std::uint8_t causes = pending_causes();
  const bool arose = (causes & ~signalled_causes_) != 0;
  if (signalled_causes_ != 0 && (causes == 0 || arose)) line_.set(false);
  if (arose) line_.set(true);
  signalled_causes_ = causes;
}

std::uint8_t Serial::line_status() const noexcept {
  const unsigned ready = state_.received_count > 0 ? kDataReady : 0;
  return static_cast<std::uint8_t>(kHoldingRegisterEmpty | kShiftRegisterEmpty | state_.line_errors | ready);
}

bool Serial::fifo_enabled() const noexcept { return (state_.fifo_control & kFifoEnable) != 0; }
bool Serial::looped_back() const noexcept { return (state_.modem_control & kLoopback) != 0; }
bool Serial::divisor_access() const noexcept { return (state_.line_control & kDivisorAccess) != 0; }

// --- Snapshot --------------------------------------------------------------------------------------------------------

SerialState Serial::state() const {
  const MutexLock lock{mutex_};
  return state_;
}

void Serial::restore(const SerialState& state) {
  const MutexLock lock{mutex_};
  state_ = state;
  state_.interrupt_enable &= kInterruptEnableBits;
  state_.fifo_control &= kFifoEnable | kTriggerBits;
  state_.modem_control &= kModemControlBits;
  state_.line_errors &= kErrorBits;
  state_.received_count = std::min<std::uint8_t>(state_.received_count, fifo_enabled() ? kSerialFifoSize : 1);
  std::fill(std::next(state_.received.begin(), state_.received_count), state_.received.end(), std::uint8_t{0});
  signalled_causes_ = pending_causes();  // their edges were given before the snapshot
  offer_came_short_ = false;             // to the receiver as it was
}

}  // namespace mayfly
