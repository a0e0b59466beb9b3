#include "vmm/devices/dual_pic.h"

namespace mayfly {
namespace {

constexpr std::uint64_t kSlave = kSlavePicPort - kMasterPicPort;
constexpr std::uint64_t kTrigger = kPicTriggerPort - kMasterPicPort;
constexpr unsigned kLines = 2 * PicChip::kInputs;

}  // namespace

DualPic::DualPic(std::optional<InterruptLine> output) noexcept
    : output_(output), slave_ports_(*this, kSlave, kPicPortCount), trigger_ports_(*this, kTrigger, kPicPortCount) {}

// --- Lines -----------------------------------------------------------------------------------------------------------

void DualPic::set_pin(unsigned irq, bool level) noexcept {
  if (irq >= kLines || irq == PicChip::kCascade) return;
  const MutexLock lock{mutex_};
  chip_of(irq).set_line(irq % PicChip::kInputs, level);
  drive_output();
}

void DualPic::pulse_pin(unsigned irq) noexcept {
  if (irq >= kLines || irq == PicChip::kCascade) return;
  const MutexLock lock{mutex_};
  chip_of(irq).pulse(irq % PicChip::kInputs);
  drive_output();
}

std::uint8_t DualPic::acknowledge() noexcept {
  const MutexLock lock{mutex_};
  const unsigned input = master_.acknowledge();
  const std::uint8_t vector = input == PicChip::kCascade ? slave_.vector(slave_.acknowledge()) : master_.vector(input);
  drive_output();
  return vector;
}

/// Carries what has changed from chip to chip and out: under mutex_.
void DualPic::drive_output() noexcept {
  master_.set_line(PicChip::kCascade, slave_.request().has_value());
  const bool level = master_.request().has_value();
  if (level == output_level_.load(std::memory_order_relaxed)) return;
  output_level_.store(level, std::memory_order_release);
  if (output_) output_->set(level);
}

// --- Registers -------------------------------------------------------------------------------------------------------

std::uint8_t DualPic::load(std::uint64_t port) noexcept {
  const MutexLock lock{mutex_};
  const std::uint8_t value = load_locked(port);
  drive_output();  // a poll acknowledges
  return value;
}

std::uint8_t DualPic::load_locked(std::uint64_t port) noexcept {
  switch (port) {
    case 0:
      return master_.read_command();
    case 1:
      return master_.read_data();
    case kSlave:
      return slave_.read_command();
    case kSlave + 1:
      return slave_.read_data();
    case kTrigger:
      return master_.trigger();
    case kTrigger + 1:
      return slave_.trigger();
    default:
      return kFloatingPort;
  }
}

void DualPic::store(std::uint64_t port, std::uint8_t value) noexcept {
  const MutexLock lock{mutex_};
  store_locked(port, value);
  drive_output();
}

void DualPic::store_locked(std::uint64_t port, std::uint8_t value) noexcept {
  switch (port) {
    case 0:
      return master_.write_command(value);
    case 1:
      return master_.write_data(value);
    case kSlave:
      return slave_.write_command(value);
    case kSlave + 1:
      return slave_.write_data(value);
    case kTrigger:
      return master_.write_trigger(value);
    case kTrigger + 1:
      return slave_.write_trigger(value);
    default:
      return;
  }
}

// --- Snapshot --------------------------------------------------------------------------------------------------------

DualPicState DualPic::state() const {
  const MutexLock lock{mutex_};
  return {.chips = {master_.state(), slave_.state()}};
}

void DualPic::restore(const DualPicState& state) {
  const MutexLock lock{mutex_};
  master_.restore(state.chips[0]);
  slave_.restore(state.chips[1]);
  drive_output();
}

}  // namespace mayfly
