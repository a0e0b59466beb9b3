#include "api/client/remote.h"
#include "api/client/top/top.h"
#include "api/config_file.h"
#include "api/responses.h"
#include "api/schema.h"
#include "api/server.h"
#include "jailer/seccomp/thread_filters.h"
#include "vmm/base/clock.h"
#include "vmm/base/files.h"
#include "vmm/base/log.h"
#include "vmm/base/metrics.h"
#include "vmm/base/printable.h"
#include "vmm/base/raw_terminal.h"
#include "vmm/base/try.h"
#include "vmm/cli/completion.h"
#include "vmm/cli/options.h"
#include "vmm/cli/snapshot_tools.h"
#include "vmm/doctor/doctor.h"
#include "vmm/io/event_loop.h"
#include "vmm/io/signals.h"
#include "vmm/machine/controller.h"
#include "vmm/machine/end_deadline.h"
#include "vmm/machine/machine_state.h"
#if defined(MAYFLY_BACK_DOOR)  // a binary for tests, never the product
#include "tests/attacks/back_door.h"
#endif

#include <fcntl.h>
#include <malloc.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <exception>
#include <iterator>

#include <fmt/core.h>

namespace mayfly {
namespace {

/// Descriptors that the table holds without growing. Growing it later, with threads, waits for a grace period of RCU.
constexpr int kDescriptorRoom = 255;

void grow_descriptor_table() { const OwnedFd high{::fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, kDescriptorRoom)}; }

/// Standard descriptors that are closed would be taken over by the first files that we open.
void fill_standard_descriptors() {
  int fd = -1;
  do {
    fd = ::open("/dev/null", O_RDWR);  // without O_CLOEXEC: as standard descriptors are
  } while (fd >= 0 && fd <= STDERR_FILENO);
  if (fd > STDERR_FILENO) ::close(fd);
}

/// One heap for all threads: vCPUs allocate nothing, and the API's thread would pay for one of its own at its first
/// request.
void share_one_heap() { ::mallopt(M_ARENA_MAX, 1); }  // NOLINT(concurrency-mt-unsafe): no other thread exists yet

/// A message may quote a path of a file from elsewhere, which is not to move a terminal's cursor.
int report(const Error& error, int code) {
  std::fprintf(stderr, "mayfly: %s\n", printable(error.message, std::string::npos).c_str());
  return code;
}

/// What the user configured is wrong, or the host cannot do it.
int code_of(const Error& error) {
  switch (error.kind) {
    case ErrorKind::Kvm:
    case ErrorKind::Unsupported:
    case ErrorKind::System:
      return kExitError;
    default:
      return kExitBadConfiguration;
  }
}

/// Clients of the dialect look for it, to see that the log is one, and whose.
std::string log_greeting() {
  return fmt::format("Running Firecracker v{}: the dialect, as Mayfly v{} speaks it", kDialectVersion, MAYFLY_VERSION);
}

/// A machine's surroundings, in the order in which they are made.
class Process {
 public:
  Process(const CommonOptions& common, seccomp::ThreadFilters filters, ConsoleOptions console)
      : common_(common), console_(std::move(console)), log_(common.id, log_greeting()), filters_(std::move(filters)) {
    if (common_.start.wall_us == 0) common_.start.wall_us = monotonic_ns() / 1000;
  }

  Process(const Process&) = delete;
  Process& operator=(const Process&) = delete;
  /// A client may wait for an answer of the loop, which will not run (again).
  ~Process() {
    open_gate();  // for whoever waits there, and is to be joined
    if (loop_) loop_->close();
    if (controller_) controller_->shut_down();
  }

  /// Everything but the API; no thread exists yet. `metadata_limit`: see ControllerOptions.
  [[nodiscard]] Status prepare(std::size_t metadata_limit);
  [[nodiscard]] Status serve_api(const std::string& socket_path, std::size_t max_payload);
  /// From here on this thread, and those that it makes, can make only the system calls that their filters allow; and
  /// clients are served.
  [[nodiscard]] Status lock_in();
  /// Carries the commands out until one is refused, and serves until the machine ends: the exit code. Error: the
  /// refusal.
  [[nodiscard]] Result<int> run(std::vector<Command> commands);

 private:
  void enter_thread(ThreadKind kind);
  void open_gate();
  /// The next of the commands, which tells its successor.
  void carry_out_next();
  [[noreturn]] void leave(int code);

  CommonOptions common_;
  ConsoleOptions console_;
  Log log_;
  seccomp::ThreadFilters filters_;
  std::atomic<bool> gate_open_{false};
  Metrics metrics_;
  std::unique_ptr<EventLoop> loop_;
  std::unique_ptr<StopSignals> signals_;
  std::unique_ptr<EndDeadline> deadline_;
  std::unique_ptr<Controller> controller_;
  std::unique_ptr<EndWatch> watch_;  // without an API
  std::unique_ptr<ApiServer> api_;
  std::deque<Command> commands_;  // that are still to be carried out
  std::optional<Error> refusal_;
};

Status Process::prepare(std::size_t metadata_limit) {
  grow_descriptor_table();
  if (auto blocked = StopSignals::block(); !blocked) return blocked;
  if (auto configured = log_.configure(common_.logger); !configured) return configured;
  if (auto watched = filters_.watch(log_); !watched) return watched;
  auto loop = EventLoop::create();
  if (!loop) return propagate(loop);
  loop_ = std::move(*loop);
  auto signals = StopSignals::watch(*loop_, [this](int number) {
    controller_->finish({number == SIGINT ? EndReason::Interrupted : EndReason::Terminated,
                         number == SIGINT ? "interrupted (SIGINT)" : "told to stop (SIGTERM)"});
  });
  if (!signals) return propagate(signals);
  signals_ = std::move(*signals);
  deadline_ = TRY(EndDeadline::create(log_, signals_->fd(), [this](int code) { leave(code); }));
  if (console_.on_quit)
    console_.on_quit = [this] { loop_->post([this] { controller_->finish({EndReason::UserQuit, "Ctrl-A x"}); }); };
  controller_ =
      std::make_unique<Controller>(*loop_, log_, metrics_,
                                   ControllerOptions{.id = common_.id,
                                                     .start = common_.start,
                                                     .boot_timer = common_.boot_timer,
                                                     .metadata_limit = metadata_limit,
                                                     .console = console_,
                                                     .before_command = [this] { signals_->look(); },
                                                     .enter_thread = [this](ThreadKind kind) { enter_thread(kind); },
                                                     .deadline = deadline_.get()});
  // Through the controller once more, so that GET /vm/config shows it.
  if (common_.logger.log_path || common_.logger.level || common_.logger.show_log_origin || common_.logger.show_level)
    (void)TRY(controller_->carry_out(PutLogger{common_.logger}));
  if (common_.metrics_path)
    (void)TRY(controller_->carry_out(
        PutMetrics{{.metrics_path = *common_.metrics_path, .emit_id = false, .properties = {}}}));
  return {};
}

Status Process::serve_api(const std::string& socket_path, std::size_t max_payload) {
  // Made before this thread has its filter, which need not allow what serving clients takes then; and serves nobody
  // until this thread, which carries their commands out, has it.
  auto server = ApiServer::create({.socket_path = socket_path,
                                   .max_payload = max_payload,
                                   .enter_thread =
                                       [this](ThreadKind kind) {
                                         enter_thread(kind);
                                         gate_open_.wait(false);
                                       },
                                   .watched_fds = {deadline_->begun_fd(), deadline_->signal_fd()},
                                   .watch = [this] { return deadline_->watch(); }},
                                  *controller_);
  if (!server) return propagate(server);
  api_ = std::move(*server);
  const ProcessTimes times = times_since(common_.start);
  metrics_.api.process_startup_time_us.set(times.wall_us);
  metrics_.api.process_startup_time_cpu_us.set(times.cpu_us);
  return api_->start();
}

Status Process::lock_in() {
  if (!api_) watch_ = TRY(EndWatch::start(*deadline_, [this] { enter_thread(ThreadKind::Api); }));
  if (auto in = filters_.enter(ThreadKind::Loop); !in) return in;
  open_gate();
#if defined(MAYFLY_BACK_DOOR)
  back_door::attack_from(ThreadKind::Loop, *loop_);
#endif
  return {};
}

void Process::open_gate() {
  gate_open_.store(true);
  gate_open_.notify_all();
}

/// A thread that cannot have its filter must not go on; others may be at work, so that nothing is destroyed.
void Process::enter_thread(ThreadKind kind) {
  const auto in = filters_.enter(kind);
#if defined(MAYFLY_BACK_DOOR)
  back_door::attack_from(kind, *loop_);
#endif
  if (in) return;
  RawTerminal::put_back();
  log_.error("{}", in.error().message);
  std::_Exit(report(in.error(), kExitError));
}

void Process::leave(int code) {
  RawTerminal::put_back();
  ::_exit(code);  // threads hang, so that nothing is destroyed
}

void Process::carry_out_next() {
  if (commands_.empty()) return;
  Command command = std::move(commands_.front());
  commands_.pop_front();
  const std::string_view name = name_of(command);
  controller_->perform(std::move(command), Reply{[this, name](const Result<Answer>& answer) {
                         if (answer) return loop_->post([this] { carry_out_next(); });
                         if (controller_->end()) return;  // which is how the process ends
                         // Our caller prints the sentence: a log in the same place would say it twice.
                         if (!log_.on_standard_error()) log_.error("{} refused: {}", name, answer.error().message);
                         refusal_ = answer.error();
                         loop_->stop();
                       }});
}

Result<int> Process::run(std::vector<Command> commands) {
  std::ranges::move(commands, std::back_inserter(commands_));
  loop_->post([this] { carry_out_next(); });
  auto served = loop_->run();
  if (refusal_) return std::unexpected(*refusal_);
  loop_->close();
  controller_->shut_down();
  if (api_) api_->stop();
  if (!served) return report(served.error(), kExitError);
  return static_cast<int>(controller_->end()->reason);
}

/// More than any configuration needs, and white space of metadata that are within their limit.
constexpr std::size_t kLargestConfigFile = 1 << 20;

Result<std::vector<Command>> commands_of_file(const std::string& path) {
  const std::string what = "--config-file " + path;
  auto text = read_file(path, what, kLargestConfigFile);
  if (!text) return propagate(text);
  auto commands = parse_config_file(*text);
  if (!commands) return propagate(commands, what);
  return commands;
}

Result<Command> metadata_of_file(const std::string& path, std::size_t limit) {
  const std::string what = "--metadata " + path;
  auto text = read_file(path, what, kLargestConfigFile + limit);
  if (!text) return propagate(text);
  auto json = parse_json(*text, what);
  if (!json) return propagate(json);
  auto metadata = read_metadata(*json, what);
  if (!metadata) return propagate(metadata);
  return PutMmds{std::move(*metadata)};
}

/// What the files say, metadata first: a machine that a configuration starts has them from the begin.
Result<std::vector<Command>> commands_of_files(const ServeOptions& options) {
  std::vector<Command> commands;
  if (options.metadata_file) {
    auto metadata = metadata_of_file(*options.metadata_file, options.limits.metadata());
    if (!metadata) return propagate(metadata);
    commands.push_back(std::move(*metadata));
  }
  if (options.config_file) {
    auto parsed = commands_of_file(*options.config_file);
    if (!parsed) return propagate(parsed);
    std::ranges::move(*parsed, std::back_inserter(commands));
  }
  return commands;
}

int serve(const ServeOptions& options) {
  auto commands = commands_of_files(options);
  if (!commands) return report(commands.error(), kExitBadConfiguration);
  auto filters = seccomp::ThreadFilters::open(options.common.filters);
  if (!filters) return report(filters.error(), kExitBadConfiguration);
  Process process{options.common,
                  std::move(*filters),
                  {.input_fd = STDIN_FILENO, .output_fd = STDOUT_FILENO, .rate_limiter = {}, .on_quit = {}}};
  if (auto prepared = process.prepare(options.limits.metadata()); !prepared)
    return report(prepared.error(), kExitError);
  if (options.api_sock)
    if (auto serving = process.serve_api(*options.api_sock, options.limits.max_payload); !serving)
      return report(serving.error(), kExitError);
  if (auto in = process.lock_in(); !in) return report(in.error(), kExitError);
  const auto code = process.run(std::move(*commands));
  return code ? *code : report(code.error(), code_of(code.error()));
}

int run(RunOptions options) {
  auto filters = seccomp::ThreadFilters::open(options.common.filters);
  if (!filters) return report(filters.error(), kExitBadConfiguration);
  Process process{options.common,
                  std::move(*filters),
                  {.input_fd = STDIN_FILENO, .output_fd = STDOUT_FILENO, .rate_limiter = {}, .on_quit = [] {}}};
  if (auto prepared = process.prepare(options.limits.metadata()); !prepared)
    return report(prepared.error(), kExitError);
  auto terminal = RawTerminal::enter(STDIN_FILENO);
  if (!terminal) return report(terminal.error(), kExitError);
  const auto refuse = [&terminal](const Error& error, int code) {
    terminal->reset();
    return report(error, code);
  };
  if (options.api_sock)
    if (auto serving = process.serve_api(*options.api_sock, options.limits.max_payload); !serving)
      return refuse(serving.error(), kExitError);
  if (auto in = process.lock_in(); !in) return refuse(in.error(), kExitError);
  const auto code = process.run(std::move(options.commands));
  return code ? *code : refuse(code.error(), code_of(code.error()));
}

Status ask(const RemoteOptions& options) {
  switch (options.verb) {
    case RemoteOptions::Verb::List:
      return list_machines(stdout);
    case RemoteOptions::Verb::Pause:
      return pause_machine(options.machine);
    case RemoteOptions::Verb::Resume:
      return resume_machine(options.machine);
    case RemoteOptions::Verb::Snapshot:
      return snapshot_machine(
          {.machine = options.machine, .state = options.state, .memory = options.memory, .diff = options.diff});
    case RemoteOptions::Verb::Stop:
      return stop_machine({.machine = options.machine, .now = options.now, .timeout_s = options.timeout_s});
    case RemoteOptions::Verb::Config:
      return print_config(options.machine, stdout);
    case RemoteOptions::Verb::Metrics:
      break;
  }
  return print_metrics(options.machine, stdout);
}

int top(const TopOptions& options) {
  const auto interval = std::chrono::duration<double>{options.interval_s};
  const auto code =
      run_top({.once = options.once, .interval = std::chrono::round<std::chrono::milliseconds>(interval)});
  return code ? *code : report(code.error(), kExitError);
}

struct Start {
  int operator()(const ServeOptions& options) const { return serve(options); }
  int operator()(RunOptions& options) const { return run(std::move(options)); }
  int operator()(const DoctorOptions& options) const { return run_doctor(options.json, stdout); }
  int operator()(const DescribeOptions& options) const { return run_describe(options.state, stdout); }
  int operator()(const MergeOptions& options) const { return run_merge(options.base, options.diff, options.output); }
  int operator()(const VerifyOptions& options) const { return run_verify(options.state, options.memory, stdout); }
  int operator()(const SweepOptions& options) const { return run_sweep(options.directories, options.dry_run, stdout); }
  int operator()(const RemoteOptions& options) const {
    const auto done = ask(options);
    return done ? 0 : report(done.error(), kExitError);
  }
  int operator()(const TopOptions& options) const { return top(options); }
  int operator()(const CompletionOptions& options) const {
    const std::string script = completion_script(options.shell, options.commands);
    return std::fputs(script.c_str(), stdout) == EOF || std::fflush(stdout) == EOF ? kExitError : 0;
  }
  int operator()(const ExitNow& exit) const { return exit.code; }
};

}  // namespace
}  // namespace mayfly

int main(int argc, char** argv) {
  mayfly::fill_standard_descriptors();
  mayfly::share_one_heap();
#if defined(MAYFLY_BACK_DOOR)
  mayfly::back_door::take_attack(argc, argv);
#endif
  try {
    auto invocation = mayfly::parse_options(argc, argv);
    return std::visit(mayfly::Start{}, invocation);
  } catch (const std::exception& failure) {  // no memory, no threads: nothing of ours throws
    std::fprintf(stderr, "mayfly: %s\n", failure.what());
    return mayfly::kExitError;
  }
}
