#pragma once

#include "vmm/machine/command.h"

#include <string_view>

/// The machine's life, `Not started -> Running <-> Paused`, and which command is legal in which state (command.h says
/// so of each): the API, the configuration file and the command line all go through check_legal().
namespace mayfly {

/// The state's name in the API.
[[nodiscard]] std::string_view name_of(MachineState state) noexcept;

/// The command as a client writes it, such as "PUT /boot-source".
[[nodiscard]] std::string_view name_of(const Command& command) noexcept;

/// True where `command` is answered at once, also while an earlier one takes its time.
[[nodiscard]] bool is_read(const Command& command) noexcept;

/// Nothing where `command` may be carried out in `state`; otherwise the refusal, naming both and what to do.
[[nodiscard]] Status check_legal(const Command& command, MachineState state);

}  // namespace mayfly
