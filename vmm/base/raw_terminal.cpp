#include "vmm/base/raw_terminal.h"

#include <termios.h>
#include <unistd.h>

#include <array>
#include <csignal>

namespace mayfly {
namespace {

/// Global, since a crash handler takes no arguments. Written only while no handler is installed, by the only thread.
struct Saved {
  int fd = -1;
  termios settings{};
  RawTerminal::Farewell farewell{};
};
Saved saved;  // NOLINT: see above

constexpr std::array kFatalSignals = {SIGABRT, SIGBUS, SIGFPE, SIGILL, SIGQUIT, SIGSEGV, SIGSYS, SIGHUP};

/// Whose signals these were: SIGSYS may have a handler that says which system call was refused.
std::array<struct sigaction, kFatalSignals.size()> before{};  // NOLINT: as `saved`

void restore_and_die(int signal, siginfo_t* info, void* context) {
  RawTerminal::put_back();
  for (std::size_t i = 0; i < kFatalSignals.size(); ++i)
    if (kFatalSignals[i] == signal && (before[i].sa_flags & SA_SIGINFO) != 0)
      before[i].sa_sigaction(signal, info, context);
  ::signal(signal, SIG_DFL);
  ::raise(signal);
}

}  // namespace

// Of what POSIX 2.4.3 calls async-signal-safe.
void RawTerminal::put_back() noexcept {
  if (saved.fd < 0) return;
  ::tcsetattr(saved.fd, TCSANOW, &saved.settings);
  if (saved.farewell.fd < 0) return;
  // A failed write means that the terminal is gone.
  [[maybe_unused]] const ssize_t told =
      ::write(saved.farewell.fd, saved.farewell.text.data(), saved.farewell.text.size());
}

Result<std::unique_ptr<RawTerminal>> RawTerminal::enter(int fd, Farewell farewell, Output output) {
  if (::isatty(fd) == 0) return std::unique_ptr<RawTerminal>{};
  termios settings{};
  if (::tcgetattr(fd, &settings) != 0) return fail_errno(ErrorKind::System, "cannot read the terminal's settings");
  saved = {.fd = fd, .settings = settings, .farewell = farewell};
  ::cfmakeraw(&settings);
  if (output == Output::Processed) settings.c_oflag |= OPOST;
  struct sigaction fatal{};
  fatal.sa_sigaction = restore_and_die;
  fatal.sa_flags = SA_SIGINFO;
  for (std::size_t i = 0; i < kFatalSignals.size(); ++i) ::sigaction(kFatalSignals[i], &fatal, &before[i]);
  if (::tcsetattr(fd, TCSANOW, &settings) != 0)
    return fail_errno(ErrorKind::System, "cannot switch the terminal to raw mode");
  return std::unique_ptr<RawTerminal>{new RawTerminal};
}

RawTerminal::~RawTerminal() {
  put_back();
  for (std::size_t i = 0; i < kFatalSignals.size(); ++i)
    if (kFatalSignals[i] != SIGSYS)  // which filters let nobody touch
      ::sigaction(kFatalSignals[i], &before[i], nullptr);
}

}  // namespace mayfly
