#pragma once

#include <string>

/// How a machine's life ended, and the exit code of the process that was its monitor.
namespace mayfly {

/// The values are the exit codes (README.md, "Exit codes"); 1, 152 and 153 are main.cpp's own, and
/// 148 is the filters'.
enum class EndReason : int {
  Reset = 0,           ///< The guest pulled the reset line (i8042), as `reboot=k` does.
  PowerOff = 10,       ///< The guest switched itself off (ACPI sleep control).
  GuestPanic = 11,     ///< The guest's kernel told of its panic (pvpanic).
  TripleFault = 12,    ///< A vCPU shut down (KVM_EXIT_SHUTDOWN), as `reboot=t` does.
  InternalError = 13,  ///< KVM gave up (KVM_EXIT_INTERNAL_ERROR), emulation failures included.
  FailedEntry = 14,    ///< The CPU refused the guest's state (KVM_EXIT_FAIL_ENTRY).
  VcpuFailure = 15,    ///< KVM_RUN failed, or ended for a reason that Mayfly does not serve.
  Interrupted = 130,   ///< SIGINT to the monitor.
  Terminated = 143,    ///< SIGTERM to the monitor.
  UserQuit = 16,       ///< Ctrl-A x on the console of `mayfly run`.
  HalfReverted = 17,   ///< A return to the snapshot failed half-way.
};

struct MachineEnd {
  EndReason reason = EndReason::Reset;
  std::string message;  ///< One line for the log; a failure's names the vCPU, its registers and instruction bytes.
};

/// Whether the end is a failure (logged as an error) or the guest's or the user's wish.
[[nodiscard]] constexpr bool is_failure(EndReason reason) noexcept {
  switch (reason) {
    case EndReason::Reset:
    case EndReason::PowerOff:
    case EndReason::Interrupted:
    case EndReason::Terminated:
    case EndReason::UserQuit:
      return false;
    default:
      return true;
  }
}

}  // namespace mayfly
