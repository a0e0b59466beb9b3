#include "api/client/top/live.h"

#include <poll.h>
#include <pthread.h>
#include <sys/ioctl.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <csignal>
#include <string>
#include <string_view>
#include <utility>

namespace mayfly::top {
namespace {

/// The other screen, which leaves what was on this one, and no cursor.
constexpr std::string_view kEnter = "\x1B[?1049h\x1B[?25l\x1B[2J";
constexpr std::string_view kLeave = "\x1B[?25h\x1B[?1049l";
constexpr std::string_view kHome = "\x1B[H";
constexpr std::string_view kClear = "\x1B[2J";
constexpr std::string_view kClearLine = "\x1B[K";
constexpr int kSignalBase = 128;  // of an exit code, as shells count

Result<OwnedFd> watch_signals() {
  sigset_t set;
  ::sigemptyset(&set);
  for (const int number : {SIGINT, SIGTERM, SIGHUP, SIGWINCH, SIGTSTP}) ::sigaddset(&set, number);
  errno = ::pthread_sigmask(SIG_BLOCK, &set, nullptr);
  if (errno != 0) return fail_errno(ErrorKind::System, "cannot set the signal mask");
  OwnedFd fd{::signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK)};
  if (!fd) return fail_errno(ErrorKind::System, "cannot make a signal descriptor");
  return fd;
}

/// Each line is cleared before it is written: behind its last column, clearing would take that one, too.
std::string drawn(std::string_view screen, bool cleared) {
  std::string out{cleared ? kClear : ""};
  out += kHome;
  out += kClearLine;
  for (const char c : screen) {
    if (c != '\n') {
      out += c;
      continue;
    }
    out += "\r\n";
    out += kClearLine;
  }
  return out;
}

}  // namespace

ScreenSize screen_size(int fd) {
  winsize size{};
  if (::ioctl(fd, TIOCGWINSZ, &size) != 0 || size.ws_col == 0 || size.ws_row == 0) return {};
  return {.columns = size.ws_col, .lines = size.ws_row};
}

LiveTop::LiveTop(Collector collector, std::chrono::milliseconds interval, double ticks_per_second, bool colours)
    : collector_(std::move(collector)),
      interval_(interval),
      ticks_per_second_(ticks_per_second),
      view_{.colours = colours} {}

Result<int> LiveTop::run() {
  auto signals = watch_signals();
  if (!signals) return propagate(signals);
  signals_ = std::move(*signals);
  if (auto entered = enter_terminal(); !entered) return propagate(entered);
  begin_round();
  while (!exit_code_) serve_once();
  terminal_.reset();
  return *exit_code_;
}

Status LiveTop::enter_terminal() {
  auto terminal = RawTerminal::enter(STDIN_FILENO, {.fd = STDOUT_FILENO, .text = kLeave});
  if (!terminal) return propagate(terminal);
  terminal_ = std::move(*terminal);
  write(kEnter);
  return {};
}

void LiveTop::serve_once() {
  std::array<pollfd, 3> ready = {pollfd{.fd = STDIN_FILENO, .events = POLLIN, .revents = 0},
                                 pollfd{.fd = signals_.get(), .events = POLLIN, .revents = 0},
                                 pollfd{.fd = collector_.fd(), .events = POLLIN, .revents = 0}};
  const auto left = time_left(in_round_ ? round_end_ : next_round_);
  if (::poll(ready.data(), ready.size(), static_cast<int>(left.count())) < 0) return;  // a signal: once more
  if (ready[2].revents != 0) collector_.take_answers();
  if (in_round_ && (collector_.is_complete() || time_left(round_end_).count() == 0)) end_round();
  if (ready[0].revents != 0) on_input();
  if (ready[1].revents != 0) on_signal();
  if (!in_round_ && time_left(next_round_).count() == 0) begin_round();
}

void LiveTop::begin_round() {
  const Deadline now = Deadline::clock::now();
  in_round_ = true;
  round_end_ = now + std::min(kRoundPatience, interval_);
  next_round_ = now + interval_;
  collector_.begin_round();
}

void LiveTop::end_round() {
  in_round_ = false;
  std::vector<Sample> samples = collector_.samples();
  rows_ = rows_of(before_, samples, ticks_per_second_);
  before_ = std::move(samples);
  draw();
}

void LiveTop::on_input() {
  std::array<char, 256> bytes{};
  const ssize_t count = ::read(STDIN_FILENO, bytes.data(), bytes.size());
  if (count < 0 && (errno == EAGAIN || errno == EINTR)) return;
  if (count <= 0) {  // the terminal is gone
    exit_code_ = 0;
    return;
  }
  const std::vector<Key> keys = keys_.take({bytes.data(), static_cast<std::size_t>(count)});
  for (const Key key : keys) {
    if (key == Key::Quit) {
      exit_code_ = 0;
      return;
    }
    if (key == Key::Suspend) suspend();
    view_ = view_after(key, view_, rows_.size(), screen_size(STDOUT_FILENO));
  }
  if (!keys.empty()) draw();
}

void LiveTop::on_signal() {
  signalfd_siginfo info{};
  while (!exit_code_ && ::read(signals_.get(), &info, sizeof info) == sizeof info) {
    const int number = static_cast<int>(info.ssi_signo);
    if (number == SIGWINCH)
      draw(true);
    else if (number == SIGTSTP)
      suspend();
    else
      exit_code_ = kSignalBase + number;
  }
}

/// The shell gets its terminal as it was; we set it up again when we are continued.
void LiveTop::suspend() {
  terminal_.reset();
  ::raise(SIGSTOP);
  if (!enter_terminal()) exit_code_ = 1;
  draw(true);
}

void LiveTop::draw(bool cleared) {
  const ScreenSize size = screen_size(STDOUT_FILENO);
  sort_rows(rows_, view_.sort);
  view_.first = clamp_first(view_.first, rows_.size(), size);
  write(drawn(screen_of(rows_, view_, size), cleared));
}

void LiveTop::write(std::string_view text) {
  while (!text.empty()) {
    const ssize_t count = ::write(STDOUT_FILENO, text.data(), text.size());
    if (count >= 0) {
      text.remove_prefix(static_cast<std::size_t>(count));
      continue;
    }
    pollfd ready{.fd = STDOUT_FILENO, .events = POLLOUT, .revents = 0};
    if (errno == EAGAIN) ::poll(&ready, 1, -1);
    if (errno == EAGAIN || errno == EINTR) continue;
    exit_code_ = 1;
    return;
  }
}

}  // namespace mayfly::top
