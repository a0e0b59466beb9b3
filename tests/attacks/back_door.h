#pragma once

#include "vmm/base/thread_kind.h"
#include "vmm/io/event_loop.h"

#include <string_view>
#include <vector>

/// A way to have a thread of the monitor do what an attacker would who has taken it over. Only mayfly-back-door has it,
/// a binary for tests: `mayfly-back-door --attack THREAD:NAME` among the monitor's arguments. The thread tries as
/// soon as it is set up, says on standard error what became of it, and ends the process.
namespace mayfly::back_door {

/// Takes the two words from the arguments, if they are there. Once, before any thread is made.
void take_attack(int& argc, char** argv);

/// The attack, where it is that thread's.
void attack_from(ThreadKind thread, EventLoop& loop);

/// How the process ends where no filter ended it: the attack was refused (or went through, which standard error says).
inline constexpr int kExitTried = 77;

struct Attack {
  std::string_view name;
  /// What a filter's line in the log calls it; empty: no system call of its own, but an operation of the ring.
  std::string_view call;
  /// An errno, or 0 where it went through.
  int (*attempt)(EventLoop& loop);
  /// What the loop may do until its machine runs, since it sets that up.
  bool is_setting_up = false;
};
[[nodiscard]] const std::vector<Attack>& attacks();

}  // namespace mayfly::back_door
