#include "vmm/devices/i8042.h"

#include "vmm/boot/layout.h"

#include <algorithm>
#include <iterator>

namespace mayfly {
namespace {

constexpr std::uint64_t kCommandOffset = layout::kKeyboardCommandPort - layout::kKeyboardDataPort;

// Status register.
constexpr unsigned kOutputFull = 1U << 0;
constexpr unsigned kSystemFlag = 1U << 2;
constexpr unsigned kCommandWritten = 1U << 3;
constexpr unsigned kNotLocked = 1U << 4;

// Command byte (CTR).
constexpr std::uint8_t kKeyboardInterrupt = 1U << 0;
constexpr std::uint8_t kTested = 1U << 2;
constexpr std::uint8_t kKeyboardOff = 1U << 4;
constexpr std::uint8_t kMouseOff = 1U << 5;
constexpr std::uint8_t kTranslate = 1U << 6;

// Output port (P2).
constexpr std::uint8_t kNoReset = 1U << 0;
constexpr std::uint8_t kA20 = 1U << 1;

// Controller commands.
constexpr std::uint8_t kReadCommandByte = 0x20;
constexpr std::uint8_t kWriteCommandByte = 0x60;
constexpr std::uint8_t kMouseDisable = 0xA7;
constexpr std::uint8_t kMouseEnable = 0xA8;
constexpr std::uint8_t kMouseTest = 0xA9;
constexpr std::uint8_t kSelfTest = 0xAA;
constexpr std::uint8_t kKeyboardTest = 0xAB;
constexpr std::uint8_t kKeyboardDisable = 0xAD;
constexpr std::uint8_t kKeyboardEnable = 0xAE;
constexpr std::uint8_t kReadInputPort = 0xC0;
constexpr std::uint8_t kReadOutputPort = 0xD0;
constexpr std::uint8_t kWriteOutputPort = 0xD1;
constexpr std::uint8_t kWriteKeyboardBuffer = 0xD2;
constexpr std::uint8_t kWriteMouseBuffer = 0xD3;
constexpr std::uint8_t kWriteMouse = 0xD4;
constexpr std::uint8_t kPulseOutputPort = 0xF0;  // to 0xFF: the low bits that are 0 go low for 6 us

// Answers of the controller.
constexpr std::uint8_t kSelfTestPassed = 0x55;
constexpr std::uint8_t kInterfaceFine = 0x00;
constexpr std::uint8_t kInterfaceClockHigh = 0x02;
constexpr std::uint8_t kInputPort = 0x80;  // the keyboard lock is open

// Keyboard commands and answers.
constexpr std::uint8_t kSetLeds = 0xED;
constexpr std::uint8_t kEcho = 0xEE;
constexpr std::uint8_t kScancodeSet = 0xF0;
constexpr std::uint8_t kIdentify = 0xF2;
constexpr std::uint8_t kSetRepeat = 0xF3;
constexpr std::uint8_t kScanningOn = 0xF4;
constexpr std::uint8_t kScanningOff = 0xF5;
constexpr std::uint8_t kDefaults = 0xF6;
constexpr std::uint8_t kKeyboardReset = 0xFF;
constexpr std::uint8_t kAcknowledge = 0xFA;
constexpr std::uint8_t kKeyboardPassed = 0xAA;
constexpr std::uint8_t kResend = 0xFE;
constexpr std::uint8_t kScancodeSet2 = 2;  // the only one that this keyboard has
constexpr std::uint8_t kTranslatedScancodeSet2 = 0x41;

// Ctrl, Alt, Del pressed, and released in reverse order.
constexpr std::array<std::uint8_t, 8> kTranslatedCtrlAltDel{0x1D, 0x38, 0xE0, 0x53, 0xE0, 0xD3, 0xB8, 0x9D};
constexpr std::array<std::uint8_t, 11> kRawCtrlAltDel{0x14, 0x11, 0xE0, 0x71, 0xE0, 0xF0, 0x71, 0xF0, 0x11, 0xF0, 0x14};

std::size_t room(const I8042Queue& queue) noexcept { return I8042Queue::kCapacity - queue.count; }

std::uint8_t take(I8042Queue& queue) noexcept {
  const std::uint8_t value = queue.bytes[0];
  std::shift_left(queue.bytes.begin(), queue.bytes.end(), 1);
  queue.bytes[--queue.count] = 0;
  return value;
}

void sanitize(I8042Queue& queue) noexcept {
  queue.count = std::min<std::uint8_t>(queue.count, I8042Queue::kCapacity);
  std::fill(std::next(queue.bytes.begin(), queue.count), queue.bytes.end(), std::uint8_t{0});
}

/// Commands whose next data byte is theirs. 0x61 to 0x7F write memory of the controller that nothing reads.
bool takes_argument(std::uint8_t command) noexcept {
  return (command >= kWriteCommandByte && command < kWriteCommandByte + 0x20) ||
         (command >= kWriteOutputPort && command <= kWriteMouse);
}

}  // namespace

I8042::I8042(InterruptLine line, GuestSignals& signals) noexcept
    : line_(line), signals_(signals), command_port_(*this, kCommandOffset, 1) {
  state_.command_byte = kTested | kTranslate | kMouseOff;
  state_.output_port = kNoReset | kA20;
}

// --- Control path ----------------------------------------------------------------------------------------------------

std::uint8_t I8042::load(std::uint64_t port) noexcept {
  const MutexLock lock{mutex_};
  if (port == kCommandOffset) return status();
  if (port != 0) return kFloatingPort;
  const std::uint8_t value = read_data();
  update_line(true);
  return value;
}

void I8042::store(std::uint64_t port, std::uint8_t value) noexcept {
  if (port != 0 && port != kCommandOffset) return;
  bool reset = false;
  {
    const MutexLock lock{mutex_};
    state_.last_was_command = port != 0;
    reset = port != 0 ? write_command(value) : write_data(value);
    update_line(false);
  }
  if (reset) signals_.reset_requested();
}

std::uint8_t I8042::status() const noexcept {
  unsigned status = kNotLocked;
  if (output_full()) status |= kOutputFull;
  if ((state_.command_byte & kTested) != 0) status |= kSystemFlag;
  if (state_.last_was_command) status |= kCommandWritten;
  return static_cast<std::uint8_t>(status);
}

/// A byte to the command port. True: the guest pulled the reset line.
bool I8042::write_command(std::uint8_t command) noexcept {
  state_.awaited_command = takes_argument(command) ? command : 0;
  switch (command) {
    case kReadCommandByte:
      answer(state_.command_byte);
      break;
    case kMouseDisable:
      state_.command_byte |= kMouseOff;
      break;
    case kMouseEnable:
      state_.command_byte &= static_cast<std::uint8_t>(~kMouseOff);
      break;
    case kMouseTest:
      answer(kInterfaceClockHigh);  // nobody holds the line of a mouse that is not there
      break;
    case kSelfTest:
      state_.command_byte |= kTested;
      answer(kSelfTestPassed);
      break;
    case kKeyboardTest:
      answer(kInterfaceFine);
      break;
    case kKeyboardDisable:
      state_.command_byte |= kKeyboardOff;
      break;
    case kKeyboardEnable:
      state_.command_byte &= static_cast<std::uint8_t>(~kKeyboardOff);
      break;
    case kReadInputPort:
      answer(kInputPort);
      break;
    case kReadOutputPort:
      answer(state_.output_port);
      break;
    default:
      return command >= kPulseOutputPort && (command & kNoReset) == 0;
  }
  return false;
}

/// A byte to the data port. True: the guest pulled the reset line.
bool I8042::write_data(std::uint8_t value) noexcept {
  const std::uint8_t command = state_.awaited_command;
  state_.awaited_command = 0;
  switch (command) {
    case 0:
      write_keyboard(value);
      break;
    case kWriteCommandByte:
      state_.command_byte = value;
      break;
    case kWriteOutputPort:
      state_.output_port = value | kNoReset;  // the line comes back at once: what it resets is not this device
      return (value & kNoReset) == 0;
    case kWriteKeyboardBuffer:
    case kWriteMouseBuffer:  // a controller without a mouse does not mark the byte as a mouse's: so Linux tells
      answer(value);
      break;
    default:  // the controller's memory, and a mouse that does not answer
      break;
  }
  return false;
}

// --- The keyboard ----------------------------------------------------------------------------------------------------

void I8042::write_keyboard(std::uint8_t value) noexcept {
  state_.command_byte &= static_cast<std::uint8_t>(~kKeyboardOff);  // sending to the keyboard starts its clock
  const std::uint8_t command = state_.awaited_key_command;
  state_.awaited_key_command = 0;
  if (command != 0 && value < kSetLeds) return write_keyboard_argument(command, value);
  switch (value) {
    case kEcho:
      return send_keys(std::array{kEcho});
    case kIdentify:
      return send_keys(std::array<std::uint8_t, 3>{
          kAcknowledge, 0xAB, (state_.command_byte & kTranslate) != 0 ? std::uint8_t{0x41} : std::uint8_t{0x83}});
    case kKeyboardReset:
      state_.scanning = true;
      return send_keys(std::array{kAcknowledge, kKeyboardPassed});
    case kSetLeds:
    case kScancodeSet:
    case kSetRepeat:
      state_.awaited_key_command = value;
      break;
    case kScanningOn:
    case kScanningOff:
      state_.scanning = value == kScanningOn;
      break;
    case kDefaults:
      state_.scanning = true;
      break;
    default:
      return send_keys(std::array{kResend});
  }
  send_keys(std::array{kAcknowledge});
}

void I8042::write_keyboard_argument(std::uint8_t command, std::uint8_t value) noexcept {
  const bool translated = (state_.command_byte & kTranslate) != 0;
  if (command == kScancodeSet && value == 0)
    return send_keys(std::array{kAcknowledge, translated ? kTranslatedScancodeSet2 : kScancodeSet2});
  if (command == kScancodeSet && value != kScancodeSet2) return send_keys(std::array{kResend});
  send_keys(std::array{kAcknowledge});
}

bool I8042::press_ctrl_alt_del() {
  const MutexLock lock{mutex_};
  const bool listens =
      (state_.command_byte & (kKeyboardInterrupt | kKeyboardOff)) == kKeyboardInterrupt && state_.scanning;
  std::span<const std::uint8_t> codes = kRawCtrlAltDel;
  if ((state_.command_byte & kTranslate) != 0) codes = kTranslatedCtrlAltDel;
  if (!listens || room(state_.keys) < codes.size()) return false;
  send_keys(codes);
  update_line(false);
  return true;
}

// --- Data path -------------------------------------------------------------------------------------------------------

std::uint8_t I8042::read_data() noexcept {
  if (state_.answers.count > 0)
    state_.last_read = take(state_.answers);
  else if (output_full())
    state_.last_read = take(state_.keys);
  return state_.last_read;
}

/// Queues an answer of the controller; one that finds the queue full is lost, as the guest has not read the last ones.
void I8042::answer(std::uint8_t value) noexcept {
  if (room(state_.answers) > 0) state_.answers.bytes[state_.answers.count++] = value;
}

/// Queues what the keyboard sends: all of it or nothing.
void I8042::send_keys(std::span<const std::uint8_t> bytes) noexcept {
  if (room(state_.keys) < bytes.size()) return;
  for (const std::uint8_t byte : bytes) state_.keys.bytes[state_.keys.count++] = byte;
}

bool I8042::output_full() const noexcept {
  return state_.answers.count > 0 || (state_.keys.count > 0 && (state_.command_byte & kKeyboardOff) == 0);
}

/// The line follows "output buffer full"; between two bytes it falls, for the edge that announces the second.
void I8042::update_line(bool byte_was_taken) noexcept {
  const bool asserted = output_full() && (state_.command_byte & kKeyboardInterrupt) != 0;
  if (line_asserted_ && (!asserted || byte_was_taken)) line_.set(false);
  if (asserted && (!line_asserted_ || byte_was_taken)) line_.set(true);
  line_asserted_ = asserted;
}

// --- Snapshot --------------------------------------------------------------------------------------------------------

I8042State I8042::state() const {
  const MutexLock lock{mutex_};
  return state_;
}

void I8042::restore(const I8042State& state) {
  const MutexLock lock{mutex_};
  state_ = state;
  sanitize(state_.answers);
  sanitize(state_.keys);
  line_asserted_ = output_full() && (state_.command_byte & kKeyboardInterrupt) != 0;
}

}  // namespace mayfly
