#pragma once

#include "vmm/devices/pic_chip_state.h"

#include <cstdint>
#include <optional>

namespace mayfly {

/// One 8259A interrupt controller: eight inputs become one request, which the CPU acknowledges and gets an input for.
///
///   PicChip chip;
///   chip.write_command(0x11);                     // ICW1
///   chip.write_data(0x20);                        // ICW2: vectors from 0x20 on; ICW3 and ICW4 follow
///   chip.pulse(4);
///   if (chip.request()) vector = chip.vector(chip.acknowledge());
///
/// After Intel's data sheet of the 8259A and, for the trigger modes, of the PIIX (ELCR1, ELCR2). In short:
/// * An edge is kept until it is acknowledged, also while its input is masked or its line falls again. The data sheet
///   wants the line to stay up until then; KVM's and QEMU's 8259s, which guests know, keep it as well.
/// * A level-triggered input asks while its line is up.
/// * An acknowledgement that finds nothing to serve is that of input 7, and leaves ISR alone (spurious interrupt).
/// * ICW1's LTIM is ignored: ELCR says what is level-triggered. ICW4's 8080 mode is, too: there are only vectors.
/// * ICW3 is kept and has no effect: the slave is wired to input 2 of the master.
///
/// Not locked: DualPic does that. Any sequence of calls is safe.
class PicChip {
 public:
  enum class Role : std::uint8_t { Master, Slave };
  static constexpr unsigned kInputs = 8;
  static constexpr unsigned kCascade = 2;  ///< The master's input that the slave is wired to.

  explicit PicChip(Role role) noexcept : role_(role) {}

  // Control path: the command port has A0 low, the data port high.
  void write_command(std::uint8_t value) noexcept;
  void write_data(std::uint8_t value) noexcept;
  [[nodiscard]] std::uint8_t read_command() noexcept;
  [[nodiscard]] std::uint8_t read_data() noexcept;
  void write_trigger(std::uint8_t value) noexcept;
  [[nodiscard]] std::uint8_t trigger() const noexcept { return state_.trigger; }

  // Data path: inputs below kInputs
  void set_line(unsigned input, bool level) noexcept;
  /// An edge, whatever the input's trigger mode: of a line that is up for no time at all.
  void pulse(unsigned input) noexcept;
  /// The input that the CPU is to be interrupted for, if there is one.
  [[nodiscard]] std::optional<unsigned> request() const noexcept;
  /// The CPU's acknowledgement (INTA): the input that it is of is in service from now on.
  [[nodiscard]] unsigned acknowledge() noexcept;
  [[nodiscard]] std::uint8_t vector(unsigned input) const noexcept;

  [[nodiscard]] const PicState& state() const noexcept { return state_; }
  /// Takes a state from anywhere over; what cannot be is made possible.
  void restore(const PicState& state) noexcept;

 private:
  void initialize(std::uint8_t value) noexcept;
  void write_operation(std::uint8_t value) noexcept;
  void write_selection(std::uint8_t value) noexcept;
  void finish_word(std::uint8_t next) noexcept;
  void serve(unsigned input) noexcept;
  [[nodiscard]] std::uint8_t poll() noexcept;
  [[nodiscard]] std::uint8_t asked() const noexcept;
  [[nodiscard]] std::uint8_t serving() const noexcept;
  [[nodiscard]] std::optional<unsigned> highest_in_service() const noexcept;
  [[nodiscard]] std::uint8_t level_inputs() const noexcept;

  Role role_;
  PicState state_;
};

}  // namespace mayfly
