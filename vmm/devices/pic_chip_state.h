#pragma once

#include <cstdint>

namespace mayfly {

/// One 8259A: what it was programmed with, and what is under way.
struct PicState {
  std::uint8_t mask = 0;          ///< IMR
  std::uint8_t trigger = 0;       ///< ELCR: bit n: input n is level-triggered.
  std::uint8_t vector_base = 0;   ///< ICW2
  std::uint8_t cascade = 0;       ///< ICW3
  std::uint8_t mode = 0;          ///< ICW4
  std::uint8_t awaited_word = 0;  ///< 2, 3 or 4: the next write to the data port is this ICW; 0: it is the IMR.
  bool single = false;            ///< ICW1: there is no ICW3.
  bool wants_mode = false;        ///< ICW1: ICW4 follows.
  bool initialized = false;       ///< All words came since the last ICW1; until then it asks for nothing.
  std::uint8_t lines = 0;         ///< Bit n: the line at input n is asserted.
  std::uint8_t edges = 0;         ///< Bit n: an edge came and was not acknowledged.
  std::uint8_t in_service = 0;    ///< ISR
  std::uint8_t lowest = 7;        ///< The input with the lowest priority; the next one has the highest.
  bool reads_in_service = false;  ///< OCW3: the command port shows ISR, not IRR.
  bool polled = false;            ///< OCW3: the next read is a poll.
  bool special_mask = false;      ///< OCW3: what is masked and in service keeps nobody out.
  bool rotates = false;           ///< OCW2: with automatic EOI, what was served gets the lowest priority.
  friend bool operator==(const PicState&, const PicState&) = default;
};

}  // namespace mayfly
