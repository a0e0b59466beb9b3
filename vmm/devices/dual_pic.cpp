#include "vmm/devices/dual_pic.h"

namespace mayfly {
namespace {

constexpr std::uint64_t kSlave = kSlavePicPort - kMasterPicPort;
constexpr std::uint64_t kTrigger = kPicTriggerPort - kMasterPicPort;

// 8259A, "Initialization Command Words".
constexpr std::uint8_t kInitialize = 1U << 4;  // of a write to the command port: it is ICW1
constexpr std::uint8_t kWantsMode = 1U << 0;
constexpr std::uint8_t kSingle = 1U << 1;
constexpr std::uint8_t kVectorBaseBits = 0xF8;

// Timer, keyboard and cascade of the master, clock and coprocessor of the slave are edges by wire.
constexpr std::array<std::uint8_t, 2> kTriggerBits{0xF8, 0xDE};

void write_command(PicState& chip, std::uint8_t value) noexcept {
  // OCW2 and OCW3 have nothing to act on: no interrupt is ever pending or in service.
  if ((value & kInitialize) == 0) return;
  chip = {.trigger = chip.trigger,
          .awaited_word = 2,
          .single = (value & kSingle) != 0,
          .wants_mode = (value & kWantsMode) != 0};
}

void write_data(PicState& chip, std::uint8_t value) noexcept {
  const std::uint8_t mode_word = chip.wants_mode ? 4 : 0;
  switch (chip.awaited_word) {
    case 2:
      chip.vector_base = value & kVectorBaseBits;
      chip.awaited_word = chip.single ? mode_word : 3;
      break;
    case 3:
      chip.cascade = value;
      chip.awaited_word = mode_word;
      break;
    case 4:
      chip.mode = value;
      chip.awaited_word = 0;
      break;
    default:
      chip.mask = value;
  }
}

}  // namespace

DualPic::DualPic() noexcept : slave_ports_(*this, kSlave, kPicPortCount), trigger_ports_(*this, kTrigger, 2) {}

std::uint8_t DualPic::load(std::uint64_t port) noexcept {
  const std::lock_guard lock{mutex_};
  switch (port) {
    case 0:
    case kSlave:
      return 0;  // IRR, ISR or the answer to a poll
    case 1:
      return state_.chips[0].mask;
    case kSlave + 1:
      return state_.chips[1].mask;
    case kTrigger:
      return state_.chips[0].trigger;
    case kTrigger + 1:
      return state_.chips[1].trigger;
    default:
      return kFloatingPort;
  }
}

void DualPic::store(std::uint64_t port, std::uint8_t value) noexcept {
  const std::lock_guard lock{mutex_};
  switch (port) {
    case 0:
      return write_command(state_.chips[0], value);
    case 1:
      return write_data(state_.chips[0], value);
    case kSlave:
      return write_command(state_.chips[1], value);
    case kSlave + 1:
      return write_data(state_.chips[1], value);
    case kTrigger:
      state_.chips[0].trigger = value & kTriggerBits[0];
      return;
    case kTrigger + 1:
      state_.chips[1].trigger = value & kTriggerBits[1];
      return;
    default:
      return;
  }
}

DualPicState DualPic::state() const {
  const std::lock_guard lock{mutex_};
  return state_;
}

void DualPic::restore(const DualPicState& state) {
  const std::lock_guard lock{mutex_};
  state_ = state;
}

}  // namespace mayfly
