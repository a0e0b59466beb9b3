#pragma once

#include "vmm/devices/byte_port_device.h"

#include <array>
#include <cstdint>
#include <mutex>

namespace mayfly {

inline constexpr std::uint64_t kMasterPicPort = 0x20;
inline constexpr std::uint64_t kSlavePicPort = 0xA0;
inline constexpr std::uint64_t kPicTriggerPort = 0x4D0;  ///< ELCR of the master; the slave's follows.
inline constexpr std::uint64_t kPicPortCount = 2;        ///< Of each of the three ranges.

/// What one 8259A was programmed with.
struct PicState {
  std::uint8_t mask = 0;          ///< IMR
  std::uint8_t trigger = 0;       ///< ELCR: bit n: input n is level-triggered.
  std::uint8_t vector_base = 0;   ///< ICW2
  std::uint8_t cascade = 0;       ///< ICW3
  std::uint8_t mode = 0;          ///< ICW4
  std::uint8_t awaited_word = 0;  ///< 2, 3 or 4: the next write to the data port is this ICW; 0: it is the IMR.
  bool single = false;            ///< ICW1: there is no ICW3.
  bool wants_mode = false;        ///< ICW1: ICW4 follows.
  friend bool operator==(const PicState&, const PicState&) = default;
};

struct DualPicState {
  std::array<PicState, 2> chips;  ///< Master, slave.
  friend bool operator==(const DualPicState&, const DualPicState&) = default;
};

/// The pair of 8259A interrupt controllers that a PC has, as far as guests need it: they find it, program it, mask it.
///
///   DualPic pic;
///   ports.attach("pic", kMasterPicPort, kPicPortCount, pic);
///   ports.attach("pic", kSlavePicPort, kPicPortCount, pic.slave_ports());
///   ports.attach("pic", kPicTriggerPort, kPicPortCount, pic.trigger_ports());
///
/// It never delivers an interrupt. Every device of this machine is wired to the IOAPIC, its tables say so, and guests
/// with a local APIC use that; the line from the PIC to the boot processor (virtual wire, ExtINT) would need the
/// kernel's PIC or an exit at each interrupt window. But Linux decides by writing the master's mask and reading it back
/// whether this is a PC with legacy interrupts at all (and numbers 0 to 15 hang on that), so the registers are there.
/// As nothing is wired to the inputs, IRR and ISR read as zero, a poll finds nothing, and an EOI (OCW2) ends nothing.
///
/// Registers after the data sheet of the 8259A, and of ELCR1/ELCR2 in Intel's PIIX. Any thread.
class DualPic final : public BytePortDevice {
 public:
  DualPic() noexcept;

  /// Ports count from 0x20 on, over all three ranges.
  std::uint8_t load(std::uint64_t port) noexcept override;
  void store(std::uint64_t port, std::uint8_t value) noexcept override;

  [[nodiscard]] BusDevice& slave_ports() noexcept { return slave_ports_; }
  [[nodiscard]] BusDevice& trigger_ports() noexcept { return trigger_ports_; }

  [[nodiscard]] DualPicState state() const;
  void restore(const DualPicState& state);

 private:
  mutable std::mutex mutex_;
  DualPicState state_;
  PortWindow slave_ports_;
  PortWindow trigger_ports_;
};

}  // namespace mayfly
