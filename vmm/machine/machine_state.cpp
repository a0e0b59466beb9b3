#include "vmm/machine/machine_state.h"

#include <array>
#include <cstddef>

namespace mayfly {
namespace {

struct Rule {
  std::string_view name;
  bool not_started;
  bool running;
  bool paused;
};

// clang-format off: a table is read by its columns.
/// One row a command, in the order of Command's alternatives.
constexpr std::array kRules = {
    //    command                    not started  running  paused
    Rule{"GET /",                    true,        true,    true},
    Rule{"GET /machine-config",      true,        true,    true},
    Rule{"GET /vm/config",           true,        true,    true},
    Rule{"GET /metrics/prometheus",  true,        true,    true},
    Rule{"GET /mmds",                true,        true,    true},
    Rule{"PUT /boot-source",         true,        false,   false},
    Rule{"PUT /machine-config",      true,        false,   false},
    Rule{"PATCH /machine-config",    true,        false,   false},
    Rule{"PUT /cpu-config",          true,        false,   false},
    Rule{"PUT /serial",              true,        false,   false},
    Rule{"PUT /drives",              true,        false,   false},
    Rule{"PATCH /drives",            false,       true,    true},
    Rule{"PUT /network-interfaces",  true,        false,   false},
    Rule{"PATCH /network-interfaces", false,      true,    true},
    Rule{"PUT /mmds/config",         true,        false,   false},
    Rule{"PUT /mmds",                true,        true,    true},
    Rule{"PATCH /mmds",              true,        true,    true},
    Rule{"PUT /logger",              true,        false,   false},
    Rule{"PUT /metrics",             true,        false,   false},
    Rule{"InstanceStart",            true,        false,   false},
    Rule{"FlushMetrics",             true,        true,    true},
    Rule{"SendCtrlAltDel",           false,       true,    false},
    Rule{"FinishWorkingSet",         false,       true,    true},
    Rule{"PATCH /vm Paused",         false,       true,    true},
    Rule{"PATCH /vm Resumed",        false,       true,    true},
    Rule{"PUT /snapshot/create",     false,       false,   true},
    Rule{"PUT /snapshot/load",       true,        false,   false},
};
// clang-format on
static_assert(kRules.size() == std::variant_size_v<Command>);
// The rows' order is checked where it is easiest to get wrong: at the ends and at the start.
static_assert(std::is_same_v<std::variant_alternative_t<0, Command>, GetInstanceInfo>);
static_assert(std::is_same_v<std::variant_alternative_t<19, Command>, StartInstance>);
static_assert(std::is_same_v<std::variant_alternative_t<24, Command>, ResumeVm>);

bool is_legal(const Rule& rule, MachineState state) {
  switch (state) {
    case MachineState::NotStarted:
      return rule.not_started;
    case MachineState::Running:
      return rule.running;
    case MachineState::Paused:
      break;
  }
  return rule.paused;
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

std::string_view name_of(const Command& command) noexcept { return kRules[command.index()].name; }

Status check_legal(const Command& command, MachineState state) {
  const Rule& rule = kRules[command.index()];
  if (is_legal(rule, state)) return {};
  if (state == MachineState::NotStarted)
    return fail(ErrorKind::State,
                "{} is only possible after the machine has started; it is Not started: send InstanceStart first",
                rule.name);
  if (rule.not_started)
    return fail(ErrorKind::State, "{} is only possible before the machine starts; it is {}", rule.name, name_of(state));
  if (rule.paused)
    return fail(ErrorKind::State,
                "{} is only possible while the machine is paused; it is {}: send PATCH /vm with "
                "state Paused first",
                rule.name, name_of(state));
  return fail(ErrorKind::State, "{} is only possible while the machine runs; it is {}", rule.name, name_of(state));
}

}  // namespace mayfly
