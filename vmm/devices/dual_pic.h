#pragma once

#include "vmm/base/mutex.h"
#include "vmm/devices/byte_port_device.h"
#include "vmm/devices/dual_pic_state.h"
#include "vmm/devices/interrupt.h"
#include "vmm/devices/pic_chip.h"

#include <atomic>
#include <cstdint>
#include <optional>

namespace mayfly {

inline constexpr std::uint64_t kMasterPicPort = 0x20;
inline constexpr std::uint64_t kSlavePicPort = 0xA0;
inline constexpr std::uint64_t kPicTriggerPort = 0x4D0;  ///< ELCR of the master; the slave's follows.
inline constexpr std::uint64_t kPicPortCount = 2;        ///< Of each of the three ranges.

/// The pair of 8259A interrupt controllers that a PC has (PicChip), the second behind input 2 of the first.
///
///   DualPic pic{InterruptLine{wire, 0}};                 // rises when the CPU is to be interrupted
///   ports.attach("pic", kMasterPicPort, kPicPortCount, pic);
///   ports.attach("pic", kSlavePicPort, kPicPortCount, pic.slave_ports());
///   ports.attach("pic", kPicTriggerPort, kPicPortCount, pic.trigger_ports());
///   Serial serial{InterruptLine{pic, 4}, ...};           // IRQ 4
///   if (pic.requests()) vector = pic.acknowledge();      // on the vCPU's thread
///
/// Guests without an IOAPIC driver take all their interrupts from here. Others mask it: Linux decides by writing the
/// master's mask and reading it back whether this is a PC with legacy interrupts at all, and uses the IOAPIC. Until its
/// initialization is complete a chip asks for nothing, so guests that never look at it never hear of it.
///
/// Any thread. The output is driven under the device's lock.
class DualPic final : public BytePortDevice, public InterruptSink {
 public:
  /// Without an output only requests() tells.
  explicit DualPic(std::optional<InterruptLine> output = std::nullopt) noexcept;

  /// The line of ISA interrupt `irq`, 0 to 15; 2, which is the slave's, and those beyond are ignored.
  void set_pin(unsigned irq, bool level) noexcept override;
  /// An edge that is kept until it is acknowledged, also at a level-triggered input.
  void pulse_pin(unsigned irq) noexcept override;

  /// Whether the CPU is to be interrupted: the level of the output.
  [[nodiscard]] bool requests() const noexcept { return output_level_.load(std::memory_order_acquire); }
  /// The CPU's acknowledgement: the vector. That of input 7 of a chip that asks for nothing any more.
  [[nodiscard]] std::uint8_t acknowledge() noexcept;

  /// Ports count from 0x20 on, over all three ranges.
  std::uint8_t load(std::uint64_t port) noexcept override;
  void store(std::uint64_t port, std::uint8_t value) noexcept override;

  [[nodiscard]] BusDevice& slave_ports() noexcept { return slave_ports_; }
  [[nodiscard]] BusDevice& trigger_ports() noexcept { return trigger_ports_; }

  [[nodiscard]] DualPicState state() const;
  /// Takes over the state, and drives the output as it asks.
  void restore(const DualPicState& state);

 private:
  [[nodiscard]] PicChip& chip_of(unsigned irq) noexcept REQUIRES(mutex_) {
    return irq < PicChip::kInputs ? master_ : slave_;
  }
  [[nodiscard]] std::uint8_t load_locked(std::uint64_t port) noexcept REQUIRES(mutex_);
  void store_locked(std::uint64_t port, std::uint8_t value) noexcept REQUIRES(mutex_);
  void drive_output() noexcept REQUIRES(mutex_);

  std::optional<InterruptLine> output_;
  mutable Mutex mutex_;
  PicChip master_ GUARDED_BY(mutex_){PicChip::Role::Master};
  PicChip slave_ GUARDED_BY(mutex_){PicChip::Role::Slave};
  std::atomic<bool> output_level_ = false;  // written under mutex_
  PortWindow slave_ports_;
  PortWindow trigger_ports_;
};

}  // namespace mayfly
