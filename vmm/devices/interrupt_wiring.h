#pragma once

#include "vmm/devices/dual_pic.h"
#include "vmm/devices/interrupt.h"
#include "vmm/devices/ioapic.h"

#include <optional>

namespace mayfly {

/// The wires of a PC's board: each line (GSI) goes to its pin of the IOAPIC, and the first sixteen to the PIC as well.
///
///   InterruptWiring wiring{ioapic, pic};
///   Serial serial{InterruptLine{wiring, layout::kSerialGsi}, ...};
///
/// The timer is input 0 of the PIC and pin 2 of the IOAPIC, as the tables say (layout::kTimerGsi). Any thread.
class InterruptWiring final : public InterruptSink {
 public:
  InterruptWiring(Ioapic& ioapic, DualPic& pic) noexcept : ioapic_(ioapic), pic_(pic) {}

  void set_pin(unsigned gsi, bool level) noexcept override {
    ioapic_.set_pin(gsi, level);
    if (const auto irq = pic_input(gsi)) pic_.set_pin(*irq, level);
  }
  void pulse_pin(unsigned gsi) noexcept override {
    ioapic_.pulse_pin(gsi);
    if (const auto irq = pic_input(gsi)) pic_.pulse_pin(*irq);
  }
  /// The way to the PIC alone: for devices whose messages KVM sends (Ioapic::let_kvm_send).
  [[nodiscard]] std::optional<InterruptLine> pic_line(unsigned gsi) const noexcept {
    const auto irq = pic_input(gsi);
    return irq ? std::optional{InterruptLine{pic_, *irq}} : std::nullopt;
  }

 private:
  static constexpr unsigned kTimerGsi = 2;
  static constexpr unsigned kTimerInput = 0;
  static constexpr unsigned kInputs = 16;
  [[nodiscard]] static std::optional<unsigned> pic_input(unsigned gsi) noexcept {
    if (gsi == kTimerGsi) return kTimerInput;
    if (gsi == kTimerInput || gsi >= kInputs) return std::nullopt;
    return gsi;
  }

  Ioapic& ioapic_;
  DualPic& pic_;
};

}  // namespace mayfly
