#pragma once

#include <cstdint>
#include <optional>

/// How devices raise interrupts: a device holds an InterruptLine, which leads to the IOAPIC and, for the lines that a
/// PC has, to the PIC (InterruptWiring); the IOAPIC's messages leave through a MessagePort (KVM in a machine, a fake in
/// tests), the PIC's output leads to the first vCPU (ExternalInterrupts).
namespace mayfly {

/// Takes the level of numbered input pins. Safe on any thread.
class InterruptSink {
 public:
  InterruptSink() = default;
  InterruptSink(const InterruptSink&) = delete;
  InterruptSink& operator=(const InterruptSink&) = delete;
  virtual ~InterruptSink() = default;
  virtual void set_pin(unsigned pin, bool level) noexcept = 0;
  /// An edge: up and down again.
  virtual void pulse_pin(unsigned pin) noexcept {
    set_pin(pin, true);
    set_pin(pin, false);
  }
};

/// One wire from a device to a pin of the interrupt controller. A plain value; the sink outlives it.
class InterruptLine {
 public:
  InterruptLine(InterruptSink& sink, unsigned pin) noexcept : sink_(&sink), pin_(pin) {}
  void set(bool level) const noexcept { sink_->set_pin(pin_, level); }
  /// An edge: up and down again.
  void pulse() const noexcept { sink_->pulse_pin(pin_); }

 private:
  InterruptSink* sink_;
  unsigned pin_;
};

/// A device whose interrupts KVM sends when an event descriptor is written. Safe on any thread.
class InterruptSource {
 public:
  InterruptSource() = default;
  InterruptSource(const InterruptSource&) = delete;
  InterruptSource& operator=(const InterruptSource&) = delete;
  virtual ~InterruptSource() = default;
  /// The pin was closed and is open again: interrupts once more where the driver has not acknowledged the last one.
  /// Called without locks of the interrupt controllers; must not wait for anybody.
  virtual void interrupt_again() noexcept = 0;
};

}  // namespace mayfly
