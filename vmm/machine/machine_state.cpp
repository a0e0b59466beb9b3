#include "vmm/machine/machine_state.h"

namespace mayfly {
namespace {

bool is_legal(const LegalStates& legal, MachineState state) {
  switch (state) {
    case MachineState::NotStarted:
      return legal.not_started;
    case MachineState::Running:
      return legal.running;
    case MachineState::Paused:
      break;
  }
  return legal.paused;
}

}  // namespace

std::string_view name_of(MachineState state) noexcept {
  switch (state) {
    case MachineState::NotStarted:
      return "Not started";
    case MachineState::Running:
      return "Running";
    case MachineState::Paused:
      break;
  }
  return "Paused";
}

std::string_view name_of(const Command& command) noexcept { return info_of(command).name; }

bool is_read(const Command& command) noexcept { return info_of(command).kind == CommandKind::Read; }

Status check_legal(const Command& command, MachineState state) {
  const CommandInfo& info = info_of(command);
  if (is_legal(info.legal, state)) return {};
  if (state == MachineState::NotStarted)
    return fail(ErrorKind::State,
                "{} is only possible after the machine has started; it is Not started: send InstanceStart first",
                info.name);
  if (info.legal.not_started)
    return fail(ErrorKind::State, "{} is only possible before the machine starts; it is {}", info.name, name_of(state));
  if (info.legal.paused)
    return fail(ErrorKind::State,
                "{} is only possible while the machine is paused; it is {}: send PATCH /vm with "
                "state Paused first",
                info.name, name_of(state));
  return fail(ErrorKind::State, "{} is only possible while the machine runs; it is {}", info.name, name_of(state));
}

}  // namespace mayfly
