#include "rootfs-tools/agent/guest/exec_session.h"

#include "rootfs-tools/agent/guest/command.h"
#include "vmm/base/try.h"

#include <poll.h>
#include <sys/ioctl.h>
#include <sys/wait.h>

#include <array>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <optional>
#include <string_view>
#include <utility>

namespace mayfly::agent {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int kGraceMs = 2000;  // between SIGHUP and SIGKILL
/// Output of a command that has ended may take as long to come through its terminal.
constexpr std::chrono::milliseconds kTerminalDrain{1000};
constexpr std::size_t kMostToHost = 256 * 1024;
constexpr std::size_t kPiece = 32 * 1024;
constexpr std::string_view kEndOfInput = "\4\4";  // ^D

class ExecSession {
 public:
  ExecSession(FrameStream& stream, Command command) : stream_(stream), command_(std::move(command)) {}

  /// True: the command has ended, and the host knows.
  bool run() {
    if (!take_frames()) return false;  // that came with the request
    feed_command();
    while (!is_over())
      if (!turn()) return false;
    to_host_.add(FrameType::Exit, encode(*exit_));
    while (!to_host_.empty())
      if (!turn()) return false;
    return true;
  }

  void hang_up() {
    if (exit_) return;
    // The terminal, too, so that whoever is in its foreground hears of it.
    for (OwnedFd* each : {&command_.input, &command_.output, &command_.errors}) each->reset();
    ::kill(-command_.pid, SIGHUP);
    ::kill(-command_.pid, SIGCONT);
    pollfd end{.fd = command_.process.get(), .events = POLLIN, .revents = 0};
    while (::poll(&end, 1, kGraceMs) < 0 && errno == EINTR) {
    }
    ::kill(-command_.pid, SIGKILL);
    ::waitpid(command_.pid, nullptr, 0);
  }

 private:
  bool is_over() const { return exit_ && !command_.output && !command_.errors; }

  /// Waits for something, and does it. False: the host is gone, or does not keep to the protocol.
  bool turn() {
    const bool has_room = to_host_.size() < kMostToHost;
    const auto want = [](bool wanted, const OwnedFd& file, short events) {
      return pollfd{.fd = wanted ? file.get() : -1, .events = events, .revents = 0};
    };
    const short of_socket = static_cast<short>(POLLIN | POLLRDHUP | (to_host_.empty() ? 0 : POLLOUT));
    std::array ready = {pollfd{.fd = stream_.fd(), .events = of_socket, .revents = 0},
                        want(!to_command_.empty(), command_.input, POLLOUT), want(has_room, command_.output, POLLIN),
                        want(has_room, command_.errors, POLLIN), want(!exit_, command_.process, POLLIN)};
    if (::poll(ready.data(), ready.size(), patience(has_room)) < 0 && errno != EINTR) return false;
    if ((ready[0].revents & (POLLHUP | POLLERR | POLLNVAL)) != 0) return false;
    if ((ready[0].revents & (POLLIN | POLLRDHUP)) != 0 && !take_frames()) return false;
    feed_command();
    if (ready[4].revents != 0) take_exit();
    // What it wrote is in the pipe before its end can be seen: one look after that finds all of it.
    if (has_room && (ready[2].revents != 0 || exit_)) forward(command_.output, FrameType::Stdout);
    if (has_room && (ready[3].revents != 0 || exit_)) forward(command_.errors, FrameType::Stderr);
    return to_host_.flush(stream_.fd()).has_value();
  }

  /// A command that has ended leaves nothing to wait for but room, and a terminal's last words.
  [[nodiscard]] int patience(bool has_room) const {
    if (!exit_ || !has_room || is_over()) return -1;
    return command_.tty ? 10 : 0;
  }

  bool take_frames() {
    for (;;) {
      auto frame = stream_.poll();
      if (!frame) return false;
      if (!*frame) return true;
      if (!take_frame(**frame)) return false;
    }
  }

  Status take_frame(const Frame& frame) {
    switch (frame.type) {
      case FrameType::Stdin:
        if (to_command_.size() + frame.payload.size() > kStdinWindow)
          return fail(ErrorKind::TooLarge, "the host sends more than the window");
        if (command_.input)
          to_command_.add(frame.payload);
        else
          acknowledge(frame.payload.size());
        return {};
      case FrameType::StdinEnd:
        input_ends_ = true;
        return {};
      case FrameType::Signal: {
        const auto number = TRY(decode_number(frame.payload));
        if (!exit_ && number >= 1 && number < NSIG) ::kill(-command_.pid, static_cast<int>(number));
        return {};
      }
      case FrameType::Resize: {
        const auto size = TRY(decode_size(frame.payload));
        const winsize window{.ws_row = size.rows, .ws_col = size.columns, .ws_xpixel = 0, .ws_ypixel = 0};
        if (command_.tty && command_.output) ::ioctl(command_.output.get(), TIOCSWINSZ, &window);
        return {};
      }
      default:
        return fail(ErrorKind::InvalidArgument, "the host sends what belongs to no command");
    }
  }

  void acknowledge(std::size_t bytes) {
    to_host_.add(FrameType::StdinTaken, encode_number(static_cast<std::uint32_t>(bytes)));
  }

  void feed_command() {
    if (!command_.input) return;
    const auto taken = to_command_.flush(command_.input.get());
    if (!taken) {  // nobody reads any more
      acknowledge(to_command_.size());
      to_command_.clear();
      command_.input.reset();
      return;
    }
    if (*taken > 0 && !has_end_) acknowledge(*taken);
    if (!input_ends_ || !to_command_.empty()) return;
    if (!command_.tty || has_end_) return command_.input.reset();
    // A terminal stays open for output. The first ^D ends a line that has begun, the second one the input.
    to_command_.add(kEndOfInput);
    has_end_ = true;
    feed_command();
  }

  void forward(OwnedFd& from, FrameType type) {
    if (!from) return;
    std::array<char, kPiece> piece;
    const ssize_t count = ::read(from.get(), piece.data(), piece.size());
    if (count > 0) return to_host_.add(type, {piece.data(), static_cast<std::size_t>(count)});
    const bool waits = count < 0 && (errno == EAGAIN || errno == EINTR);
    const bool is_drained = exit_ && (!command_.tty || Clock::now() >= drained_);
    if (!waits || is_drained) from.reset();  // EIO: nobody has the terminal open
  }

  void take_exit() {
    int status = 0;
    if (::waitpid(command_.pid, &status, WNOHANG) != command_.pid) return;
    exit_ = WIFSIGNALED(status) ? ExitReport{.by_signal = true, .number = static_cast<std::uint32_t>(WTERMSIG(status))}
                                : ExitReport{.number = static_cast<std::uint32_t>(WEXITSTATUS(status))};
    drained_ = Clock::now() + kTerminalDrain;
  }

  FrameStream& stream_;
  Command command_;
  Outbox to_host_;
  Outbox to_command_;
  bool input_ends_ = false;
  bool has_end_ = false;  ///< kEndOfInput is on its way.
  std::optional<ExitReport> exit_{};
  Clock::time_point drained_{};
};

}  // namespace

void serve_exec(FrameStream& stream, const ExecRequest& request, const Defaults& defaults) {
  auto command = start_command(request, defaults);
  if (!command) {
    if (stream.send(FrameType::Refused, encode(command.error()))) stream.finish();
    return;
  }
  ExecSession session{stream, std::move(*command)};
  if (stream.send(FrameType::Done) && session.run())
    stream.finish();
  else
    session.hang_up();
}

}  // namespace mayfly::agent
