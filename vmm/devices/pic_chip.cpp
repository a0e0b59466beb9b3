#include "vmm/devices/pic_chip.h"

namespace mayfly {
namespace {

// 8259A, "Initialization Command Words".
constexpr std::uint8_t kInitialize = 1U << 4;  // of a write to the command port: it is ICW1
constexpr std::uint8_t kWantsMode = 1U << 0;
constexpr std::uint8_t kSingle = 1U << 1;
constexpr std::uint8_t kVectorBaseBits = 0xF8;
constexpr std::uint8_t kAutomaticEnd = 1U << 1;        // of ICW4
constexpr std::uint8_t kSpecialFullyNested = 1U << 4;  // of ICW4

// 8259A, "Operation Command Words".
constexpr std::uint8_t kSelection = 1U << 3;  // of a write to the command port: it is OCW3, not OCW2
constexpr std::uint8_t kInputBits = 0x07;
constexpr unsigned kOperationShift = 5;
constexpr std::uint8_t kReadIsr = 1U << 0;  // OCW3: RIS
constexpr std::uint8_t kReadRegister = 1U << 1;
constexpr std::uint8_t kPoll = 1U << 2;
constexpr std::uint8_t kSpecialMask = 1U << 5;
constexpr std::uint8_t kSetSpecialMask = 1U << 6;
constexpr std::uint8_t kPollFound = 1U << 7;

/// OCW2's bits R, SL and EOI.
enum class PicOperation : std::uint8_t {
  StopRotating = 0,
  End = 1,
  Nothing = 2,
  EndOne = 3,
  Rotate = 4,
  RotateAndEnd = 5,
  SetLowest = 6,
  RotateAndEndOne = 7,
};

constexpr unsigned kSpurious = 7;
constexpr std::uint8_t kLastWord = 4;

// PIIX, ELCR1 and ELCR2: timer, keyboard and cascade of the master, clock and coprocessor of the slave are edges.
constexpr std::uint8_t kMasterTriggerBits = 0xF8;
constexpr std::uint8_t kSlaveTriggerBits = 0xDE;

constexpr std::uint8_t bit(unsigned input) noexcept { return static_cast<std::uint8_t>(1U << input); }

constexpr std::uint8_t without(std::uint8_t set, std::uint8_t bits) noexcept {
  return static_cast<std::uint8_t>(set & ~bits);
}

}  // namespace

// --- Control path ----------------------------------------------------------------------------------------------------

void PicChip::write_command(std::uint8_t value) noexcept {
  if ((value & kInitialize) != 0)
    initialize(value);
  else if ((value & kSelection) != 0)
    write_selection(value);
  else
    write_operation(value);
}

/// ICW1 clears the mask and the edge sense: an input must rise again. The lines and ELCR are not its own.
void PicChip::initialize(std::uint8_t value) noexcept {
  state_ = {.trigger = state_.trigger,
            .awaited_word = 2,
            .single = (value & kSingle) != 0,
            .wants_mode = (value & kWantsMode) != 0,
            .lines = state_.lines};
}

void PicChip::write_data(std::uint8_t value) noexcept {
  const std::uint8_t mode_word = state_.wants_mode ? 4 : 0;
  switch (state_.awaited_word) {
    case 2:
      state_.vector_base = value & kVectorBaseBits;
      return finish_word(state_.single ? mode_word : 3);
    case 3:
      state_.cascade = value;
      return finish_word(mode_word);
    case 4:
      state_.mode = value;
      return finish_word(0);
    default:
      state_.mask = value;
  }
}

void PicChip::finish_word(std::uint8_t next) noexcept {
  state_.awaited_word = next;
  state_.initialized = next == 0;
}

/// OCW2: ends of interrupts and priorities.
void PicChip::write_operation(std::uint8_t value) noexcept {
  const unsigned input = value & kInputBits;
  const auto highest = highest_in_service();
  switch (static_cast<PicOperation>(value >> kOperationShift)) {
    case PicOperation::StopRotating:
    case PicOperation::Rotate:
      state_.rotates = static_cast<PicOperation>(value >> kOperationShift) == PicOperation::Rotate;
      return;
    case PicOperation::RotateAndEnd:
      if (highest) state_.lowest = static_cast<std::uint8_t>(*highest);
      [[fallthrough]];
    case PicOperation::End:
      if (highest) state_.in_service = without(state_.in_service, bit(*highest));
      return;
    case PicOperation::RotateAndEndOne:
      state_.lowest = static_cast<std::uint8_t>(input);
      [[fallthrough]];
    case PicOperation::EndOne:
      state_.in_service = without(state_.in_service, bit(input));
      return;
    case PicOperation::SetLowest:
      state_.lowest = static_cast<std::uint8_t>(input);
      return;
    case PicOperation::Nothing:
      return;
  }
}

/// OCW3: special mask mode, what the command port shows, and the poll command, which comes before it.
void PicChip::write_selection(std::uint8_t value) noexcept {
  if ((value & kSetSpecialMask) != 0) state_.special_mask = (value & kSpecialMask) != 0;
  if ((value & kPoll) != 0)
    state_.polled = true;
  else if ((value & kReadRegister) != 0)
    state_.reads_in_service = (value & kReadIsr) != 0;
}

std::uint8_t PicChip::read_command() noexcept {
  if (state_.polled) return poll();
  return state_.reads_in_service ? state_.in_service : asked();
}

std::uint8_t PicChip::read_data() noexcept { return state_.polled ? poll() : state_.mask; }

/// The read after a poll command is an acknowledgement; 0 where there is nothing to serve.
std::uint8_t PicChip::poll() noexcept {
  state_.polled = false;
  const auto input = request();
  if (!input) return 0;
  serve(*input);
  return static_cast<std::uint8_t>(kPollFound | *input);
}

void PicChip::write_trigger(std::uint8_t value) noexcept {
  state_.trigger = value & (role_ == Role::Master ? kMasterTriggerBits : kSlaveTriggerBits);
}

// --- Data path -------------------------------------------------------------------------------------------------------

/// The slave's request is a level, whatever ELCR says: it falls when there is nothing to ask for any more.
std::uint8_t PicChip::level_inputs() const noexcept {
  return role_ == Role::Master ? static_cast<std::uint8_t>(state_.trigger | bit(kCascade)) : state_.trigger;
}

void PicChip::set_line(unsigned input, bool level) noexcept {
  const bool rises = level && (state_.lines & bit(input)) == 0;
  state_.lines = level ? static_cast<std::uint8_t>(state_.lines | bit(input)) : without(state_.lines, bit(input));
  if (rises && (level_inputs() & bit(input)) == 0) pulse(input);
}

void PicChip::pulse(unsigned input) noexcept { state_.edges = static_cast<std::uint8_t>(state_.edges | bit(input)); }

/// IRR
std::uint8_t PicChip::asked() const noexcept {
  return static_cast<std::uint8_t>(state_.edges | (state_.lines & level_inputs()));
}

/// What of ISR keeps others out.
std::uint8_t PicChip::serving() const noexcept {
  return state_.special_mask ? without(state_.in_service, state_.mask) : state_.in_service;
}

std::optional<unsigned> PicChip::highest_in_service() const noexcept {
  for (unsigned i = 1; i <= kInputs; ++i) {
    const unsigned input = (state_.lowest + i) % kInputs;
    if ((serving() & bit(input)) != 0) return input;
  }
  return std::nullopt;
}

std::optional<unsigned> PicChip::request() const noexcept {
  if (!state_.initialized) return std::nullopt;
  const std::uint8_t pending = without(asked(), state_.mask);
  if (pending == 0) return std::nullopt;
  // Special fully nested mode: an interrupt of the slave in service does not keep a more important one of it out.
  const bool slave_nests = role_ == Role::Master && (state_.mode & kSpecialFullyNested) != 0;
  for (unsigned i = 1; i <= kInputs; ++i) {
    const unsigned input = (state_.lowest + i) % kInputs;
    const bool in_service = (serving() & bit(input)) != 0;
    if ((pending & bit(input)) != 0 && (!in_service || (slave_nests && input == kCascade))) return input;
    if (in_service) return std::nullopt;
  }
  return std::nullopt;
}

unsigned PicChip::acknowledge() noexcept {
  const auto input = request();
  if (!input) return kSpurious;
  serve(*input);
  return *input;
}

void PicChip::serve(unsigned input) noexcept {
  state_.edges = without(state_.edges, bit(input));
  if ((state_.mode & kAutomaticEnd) == 0)
    state_.in_service = static_cast<std::uint8_t>(state_.in_service | bit(input));
  else if (state_.rotates)
    state_.lowest = static_cast<std::uint8_t>(input);
}

std::uint8_t PicChip::vector(unsigned input) const noexcept {
  return static_cast<std::uint8_t>(state_.vector_base | input);
}

// --- Snapshot --------------------------------------------------------------------------------------------------------

void PicChip::restore(const PicState& state) noexcept {
  state_ = state;
  write_trigger(state.trigger);
  state_.vector_base &= kVectorBaseBits;
  state_.lowest &= kInputBits;
  if (state_.awaited_word == 1 || state_.awaited_word > kLastWord) state_.awaited_word = 0;
  state_.initialized = state_.initialized && state_.awaited_word == 0;
}

}  // namespace mayfly
