#include "jailer/seccomp/violation.h"

#include "jailer/seccomp/built_in.h"
#include "jailer/seccomp/thread_filters.h"

#include <linux/seccomp.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <csignal>

namespace mayfly::seccomp {
namespace {

// A signal handler can be given nothing.
constinit std::atomic<const Log*> log_of_violations{nullptr};
constinit thread_local ThreadKind kind_of_thread = ThreadKind::Loop;  // whose filter others inherit until they have one

/// linux/seccomp.h has no name for it that user space sees: asm-generic/siginfo.h's SYS_SECCOMP.
constexpr int kSeccompCode = 1;

/// Async-signal-safe. Its own calls are let through by every filter that is built in; one that does not do so ends the
/// process at the first of them, SIGSYS being blocked meanwhile.
void on_violation(int signal, siginfo_t* info, void* /*context*/) {
  if (info->si_code != kSeccompCode) ::_exit(128 + signal);  // somebody's kill(2)
  std::array<char, 128> text;
  if (const Log* log = log_of_violations.load(std::memory_order_acquire))
    log->urgent(describe_violation(text, name_of(kind_of_thread), info->si_syscall));
  ::_exit(kExitViolation);
}

}  // namespace

void log_violations_to(const Log& log) noexcept { log_of_violations.store(&log, std::memory_order_release); }

Status report_violations(const Log& log) {
  log_violations_to(log);
  struct sigaction action{};
  action.sa_sigaction = on_violation;
  action.sa_flags = SA_SIGINFO;
  ::sigemptyset(&action.sa_mask);
  if (::sigaction(SIGSYS, &action, nullptr) != 0) return fail_errno(ErrorKind::System, "SIGSYS cannot be handled");
  return {};
}

void stop_reporting_violations() noexcept { log_of_violations.store(nullptr, std::memory_order_release); }

void name_thread_for_violations(ThreadKind kind) noexcept { kind_of_thread = kind; }

std::string_view name_of_call(int number) noexcept {
  std::string_view names = built_in_call_names();
  if (number < 0) return {};
  for (; number > 0; --number) {
    const std::size_t end = names.find('\n');
    if (end == std::string_view::npos) return {};
    names.remove_prefix(end + 1);
  }
  return names.substr(0, names.find('\n'));
}

std::string_view describe_violation(std::span<char> text, std::string_view thread, int call) noexcept {
  const std::string_view name = name_of_call(call);
  const auto end = fmt::format_to_n(text.data(), text.size(),
                                    "seccomp: thread {} called system call {}{}{}{}, which its filter does not allow",
                                    thread, call, name.empty() ? "" : " (", name, name.empty() ? "" : ")");
  return {text.data(), static_cast<std::size_t>(end.out - text.data())};
}

}  // namespace mayfly::seccomp
