#pragma once

#include "vmm/base/error.h"
#include "vmm/base/log.h"
#include "vmm/base/thread_kind.h"

#include <cstddef>
#include <span>
#include <string_view>

namespace mayfly::seccomp {

/// Installs SIGSYS's handler: one line in `log`, then the end with kExitViolation. Error: sigaction(2) failed.
[[nodiscard]] Status report_violations(const Log& log);
/// In a child process, whose handler is there already: lines go to that log.
void log_violations_to(const Log& log) noexcept;
/// From here on no line is written: the log is about to go.
void stop_reporting_violations() noexcept;

/// What the line calls the calling thread.
void name_thread_for_violations(ThreadKind kind) noexcept;

/// "thread loop called system call 59 (execve), which its filter does not allow", written into `text`. Nothing is
/// allocated or locked.
[[nodiscard]] std::string_view describe_violation(std::span<char> text, std::string_view thread, int call) noexcept;

/// The name of a system call of this machine; empty where this build does not know it.
[[nodiscard]] std::string_view name_of_call(int number) noexcept;

}  // namespace mayfly::seccomp
