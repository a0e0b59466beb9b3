#include "rootfs-tools/agent/host/exec_client.h"

#include "rootfs-tools/agent/host/escape_keys.h"
#include "rootfs-tools/agent/host/forwarded_signals.h"
#include "vmm/base/files.h"
#include "vmm/base/raw_terminal.h"
#include "vmm/base/try.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <memory>
#include <optional>
#include <utility>

namespace mayfly::agent {
namespace {

constexpr std::size_t kMostPending = 256 * 1024;
constexpr std::size_t kPieceOfInput = 32 * 1024;
constexpr int kSignalsToLeave = 3;
constexpr std::chrono::seconds kLongestRow{10};  // from one to the next: SIGHUP may mean "reload", once a day

std::optional<WindowSize> terminal_size() {
  for (const int fd : {STDOUT_FILENO, STDIN_FILENO, STDERR_FILENO}) {
    winsize size{};
    if (::ioctl(fd, TIOCGWINSZ, &size) == 0 && size.ws_row > 0 && size.ws_col > 0)
      return WindowSize{.rows = size.ws_row, .columns = size.ws_col};
  }
  return std::nullopt;
}

/// A standard stream that the command writes to.
class Output {
 public:
  explicit Output(int fd) : twin_(nonblocking_twin(fd, O_WRONLY)), fd_(twin_ ? twin_.get() : fd) {}

  void add(std::string_view bytes) { waiting_.add(bytes); }
  [[nodiscard]] std::size_t size() const { return waiting_.size(); }
  [[nodiscard]] pollfd wanted() const { return {.fd = waiting_.empty() ? -1 : fd_, .events = POLLOUT, .revents = 0}; }
  Result<std::size_t> flush() { return waiting_.flush(fd_); }
  void clear() { waiting_.clear(); }

 private:
  OwnedFd twin_;
  int fd_;
  Outbox waiting_;
};

enum class Input { None, Bytes, Keys };

class Session {
 public:
  Session(FrameStream& stream, const ForwardedSignals& signals, const ExecRequest& request, Input input)
      : stream_(stream),
        tty_(request.tty),
        has_input_(input != Input::None),
        has_keys_(input == Input::Keys),
        signals_(signals),
        output_(STDOUT_FILENO),
        errors_(STDERR_FILENO) {
    // Nobody told us while the agent was waited for.
    if (const auto size = tty_ ? terminal_size() : std::nullopt; size && *size != request.size)
      to_guest_.add(FrameType::Resize, encode(*size));
  }

  Result<ExitReport> run() {
    if (!has_input_) to_guest_.add(FrameType::StdinEnd, "");
    while (!is_over() || output_.size() + errors_.size() > 0) TRY(turn());
    if (failure_) return std::unexpected(std::move(*failure_));
    return *exit_;
  }

 private:
  /// Nothing more comes; what came before that is still shown.
  [[nodiscard]] bool is_over() const { return exit_ || failure_; }

  /// Waits for something, and does it.
  Status turn() {
    const bool takes_output = !is_over() && output_.size() + errors_.size() < kMostPending;
    const bool takes_input = has_input_ && window_ > escape_.held() && to_guest_.size() < kStdinWindow && !is_over();
    const short of_socket =
        static_cast<short>((takes_output ? POLLIN : 0) | (to_guest_.empty() || is_over() ? 0 : POLLOUT));
    // Not asked for, a hang-up of the socket's would come all the same, again and again.
    std::array ready = {pollfd{.fd = of_socket != 0 ? stream_.fd() : -1, .events = of_socket, .revents = 0},
                        pollfd{.fd = signals_.fd(), .events = POLLIN, .revents = 0},
                        pollfd{.fd = takes_input ? STDIN_FILENO : -1, .events = POLLIN, .revents = 0}, output_.wanted(),
                        errors_.wanted()};
    const bool has_frames = takes_output && !is_drained_;
    if (::poll(ready.data(), ready.size(), has_frames ? 0 : -1) < 0 && errno != EINTR)
      return fail_errno(ErrorKind::System, "cannot wait for the guest");
    if (ready[1].revents != 0) forward_signals();
    if (ready[2].revents != 0) forward_input();
    if (!is_over() && !to_guest_.empty() && !to_guest_.flush(stream_.fd()) && !takes_output) failure_ = is_lost();
    if (takes_output && (ready[0].revents != 0 || has_frames))
      if (auto taken = take_frames(); !taken) failure_ = std::move(taken.error());
    TRY(flush(output_, "standard output"));
    TRY(flush(errors_, "standard error"));
    return {};
  }

  static Error is_lost() {
    return {.kind = ErrorKind::System,
            .message = "the connection to the guest has ended; its machine has ended, or was restored or reverted"};
  }

  /// A reader that has gone ends this command as it would end one of this host.
  Status flush(Output& output, std::string_view what) {
    errno = 0;
    auto written = output.flush();
    const bool is_gone = errno == EPIPE;
    if (written) return {};
    if (!is_gone) return propagate(written, what);
    output.clear();
    if (!failure_) exit_ = ExitReport{.by_signal = true, .number = SIGPIPE};
    return {};
  }

  void forward_signals() {
    while (const auto number = signals_.next()) {
      if (ends_programs(*number) && leaves_at(*number)) return;
      if (*number != SIGWINCH) {
        to_guest_.add(FrameType::Signal, encode_number(static_cast<std::uint32_t>(*number)));
      } else if (const auto size = tty_ ? terminal_size() : std::nullopt) {
        to_guest_.add(FrameType::Resize, encode(*size));
      }
    }
  }

  static bool ends_programs(int number) {
    return number == SIGINT || number == SIGTERM || number == SIGHUP || number == SIGQUIT;
  }

  /// The third in a row leaves a command that does not end: its guest may be hostile, or paused. After the command's end
  /// nobody but us is there to end.
  bool leaves_at(int number) {
    const auto now = std::chrono::steady_clock::now();
    if (now - last_signal_ > kLongestRow) signals_in_a_row_ = 0;
    last_signal_ = now;
    if (++signals_in_a_row_ < kSignalsToLeave && !is_over()) return false;
    end_by_signal(number);
    return true;
  }

  /// Nothing more is waited for.
  void end_by_signal(int number) {
    output_.clear();
    errors_.clear();
    if (!failure_) exit_ = ExitReport{.by_signal = true, .number = static_cast<std::uint32_t>(number)};
  }

  void forward_input() {
    std::array<char, kPieceOfInput> piece;
    const ssize_t count = ::read(STDIN_FILENO, piece.data(), std::min(piece.size(), window_ - escape_.held()));
    if (count < 0 && (errno == EINTR || errno == EAGAIN)) return;
    if (count > 0) {
      const std::string_view bytes{piece.data(), static_cast<std::size_t>(count)};
      has_keys_ ? send_keys(bytes) : send_input(bytes);
      return;
    }
    has_input_ = false;
    to_guest_.add(FrameType::StdinEnd, "");
  }

  void send_keys(std::string_view typed) {
    const auto passed = escape_.pass(typed);
    if (!passed.keys.empty()) send_input(passed.keys);
    if (!passed.leaves) return;
    failure_ = Error{.kind = ErrorKind::State, .message = "left by ~. before the command has ended"};
    output_.clear();  // so that nothing is waited for
    errors_.clear();
  }

  void send_input(std::string_view bytes) {
    window_ -= bytes.size();
    to_guest_.add(FrameType::Stdin, bytes);
  }

  Status take_frames() {
    while (!is_over() && output_.size() + errors_.size() < kMostPending) {
      auto frame = stream_.poll();
      if (!frame) return std::unexpected(frame.error().kind == ErrorKind::System ? is_lost() : frame.error());
      is_drained_ = !frame->has_value();
      if (is_drained_) return {};
      TRY(take_frame(**frame));
    }
    return {};
  }

  Status take_frame(const Frame& frame) {
    switch (frame.type) {
      case FrameType::Stdout:
        output_.add(frame.payload);
        return {};
      case FrameType::Stderr:
        errors_.add(frame.payload);
        return {};
      case FrameType::StdinTaken: {
        const auto bytes = TRY(decode_number(frame.payload));
        if (bytes > kStdinWindow - window_)
          return fail(ErrorKind::Guest, "the guest's agent acknowledged more input than it was sent");
        window_ += bytes;
        return {};
      }
      case FrameType::Exit:
        exit_ = TRY(decode_exit(frame.payload));
        return {};
      case FrameType::Refused:
        return refused(frame);
      default:
        return fail(ErrorKind::Guest, "the guest's agent sent a frame ({}) that belongs to no command",
                    static_cast<unsigned>(frame.type));
    }
  }

  FrameStream& stream_;
  bool tty_;
  bool has_input_;
  bool has_keys_;
  EscapeKeys escape_;
  bool is_drained_ = false;  ///< No whole frame is here that was not taken: the first came with the answer.
  std::size_t window_ = kStdinWindow;
  const ForwardedSignals& signals_;
  int signals_in_a_row_ = 0;
  std::chrono::steady_clock::time_point last_signal_{};
  Outbox to_guest_;
  Output output_;
  Output errors_;
  std::optional<ExitReport> exit_{};
  std::optional<Error> failure_{};
};

int code_of(RefusalReason reason) {
  switch (reason) {
    case RefusalReason::NotFound:
      return kExitNotFound;
    case RefusalReason::NotExecutable:
      return kExitNotExecutable;
    case RefusalReason::Other:
      break;
  }
  return kExitNoAgent;
}

/// Whether it runs.
std::expected<FrameStream, ExecFailure> start(const AgentClient& agent, const ExecRequest& request) {
  const auto failed = [](Error& error) { return std::unexpected(ExecFailure{.error = std::move(error)}); };
  auto payload = encode(request);
  if (!payload) return failed(payload.error());
  auto stream = agent.send(FrameType::Exec, *payload);
  if (!stream) return failed(stream.error());
  auto answer = agent.first_answer(*stream);
  if (!answer) return failed(answer.error());
  if (answer->type == FrameType::Done) return std::move(*stream);
  auto refusal = decode_refusal(answer->payload);
  const bool is_refusal = answer->type == FrameType::Refused && refusal.has_value();
  return std::unexpected(ExecFailure{
      .error = {.kind = ErrorKind::Guest,
                .message = is_refusal ? refusal->sentence : "the guest's agent gave an answer that is none"},
      .code = is_refusal ? code_of(refusal->reason) : kExitNoAgent});
}

}  // namespace

std::expected<int, ExecFailure> run_in_guest(const AgentClient& agent, ExecRequest request, bool with_input) {
  ::signal(SIGPIPE, SIG_IGN);
  if (request.tty) request.size = terminal_size().value_or(WindowSize{});
  auto stream = start(agent, request);
  if (!stream) return std::unexpected(std::move(stream.error()));
  const ForwardedSignals signals;  // from before the terminal is changed: none of them ends us meanwhile
  std::unique_ptr<RawTerminal> raw;
  if (request.tty && with_input) {
    auto entered = RawTerminal::enter(STDIN_FILENO, {}, RawTerminal::Output::Raw);
    if (!entered) return std::unexpected(ExecFailure{.error = std::move(entered.error())});
    raw = std::move(*entered);
  }
  const Input input = raw ? Input::Keys : with_input ? Input::Bytes : Input::None;
  const auto report = Session{*stream, signals, request, input}.run();
  if (!report) return std::unexpected(ExecFailure{.error = report.error()});
  constexpr int kSignalled = 128;
  return static_cast<int>(report->number) + (report->by_signal ? kSignalled : 0);
}

}  // namespace mayfly::agent
