#include "vmm/machine/end_deadline.h"

#include "vmm/base/clock.h"
#include "vmm/machine/machine_end.h"

#include <poll.h>
#include <pthread.h>
#include <sys/eventfd.h>

#include <algorithm>
#include <array>
#include <csignal>
#include <system_error>
#include <utility>

#include <fmt/format.h>

namespace mayfly {
namespace {

constexpr std::uint64_t kDeadlineNs = 5'000'000'000;

/// The code of a signal to stop that nobody has taken yet; 0: there is none.
int code_of_waiting_signal() noexcept {
  sigset_t waiting;
  if (::sigpending(&waiting) != 0) return 0;
  if (::sigismember(&waiting, SIGTERM) == 1) return static_cast<int>(EndReason::Terminated);
  return ::sigismember(&waiting, SIGINT) == 1 ? static_cast<int>(EndReason::Interrupted) : 0;
}

}  // namespace

Result<std::unique_ptr<EndDeadline>> EndDeadline::create(Log& log, int signal_fd, Leave leave) {
  OwnedFd begun{::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)};
  if (!begun) return fail_errno(ErrorKind::System, "cannot make an event descriptor");
  return std::unique_ptr<EndDeadline>{new EndDeadline{log, signal_fd, std::move(begun), std::move(leave)}};
}

void EndDeadline::begin(int exit_code) noexcept {
  std::uint64_t none = 0;
  // The code first: who sees the deadline leaves with it. A signal's that was seen waiting is the same one's, taken
  // now.
  int no_code = 0;
  exit_code_.compare_exchange_strong(no_code, exit_code);
  if (!deadline_ns_.compare_exchange_strong(none, monotonic_ns() + kDeadlineNs)) return;
  (void)::eventfd_write(begun_.get(), 1);
}

int EndDeadline::watch() {
  if (deadline_ns_.load() == 0) {
    // The loop takes a signal at once, where it can.
    const int code = code_of_waiting_signal();
    if (code == 0) return -1;
    begin(code);
  }
  const std::uint64_t now = monotonic_ns();
  const std::uint64_t deadline = deadline_ns_.load();
  if (now < deadline) return static_cast<int>((deadline - now) / kNsPerMs) + 1;
  // Past the log's lock, which a thread that hangs may hold.
  std::array<char, 256> line;
  const auto end = fmt::format_to_n(line.data(), line.size(), "the machine did not end in 5 s: waited for {}",
                                    waiting_for_.load(std::memory_order_relaxed));
  log_.urgent({line.data(), std::min(end.size, line.size())});
  leave_(exit_code_.load());
  return -1;
}

// --- A thread that watches -------------------------------------------------------------------------------------------

Result<std::unique_ptr<EndWatch>> EndWatch::start(EndDeadline& deadline, std::function<void()> enter) {
  OwnedFd stop_event{::eventfd(0, EFD_CLOEXEC)};
  if (!stop_event) return fail_errno(ErrorKind::System, "cannot make an event descriptor");
  std::unique_ptr<EndWatch> watch{new EndWatch{deadline, std::move(stop_event)}};
  try {
    watch->thread_ = std::thread{[&watch = *watch, enter = std::move(enter)] {
      ::pthread_setname_np(::pthread_self(), "end-watch");
      enter();
      watch.serve();
    }};
  } catch (const std::system_error& error) {
    return fail(ErrorKind::System, "the host gives no more threads: {}", error.code().message());
  }
  return watch;
}

EndWatch::~EndWatch() {
  if (!thread_.joinable()) return;
  (void)::eventfd_write(stop_event_.get(), 1);
  thread_.join();
}

void EndWatch::serve() {
  std::array<pollfd, 3> events{{{.fd = stop_event_.get(), .events = POLLIN, .revents = 0},
                                {.fd = deadline_.begun_fd(), .events = POLLIN, .revents = 0},
                                {.fd = deadline_.signal_fd(), .events = POLLIN, .revents = 0}}};
  int patience = -1;
  for (;;) {
    (void)::poll(events.data(), events.size(), patience);
    if ((events[0].revents & POLLIN) != 0) return;
    patience = deadline_.watch();
    // Both stay readable: once the time runs, that is all that counts.
    if (patience >= 0) events[1].fd = events[2].fd = -1;
  }
}

}  // namespace mayfly
