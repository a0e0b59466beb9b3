#include "vmm/monitor/monitor.h"

#include "api/schema.h"
#include "jailer/seccomp/violation.h"
#include "snapshot/host_cpu.h"
#include "vmm/base/branch_mark.h"
#include "vmm/base/clock.h"
#include "vmm/base/owned_fd.h"
#include "vmm/base/raw_terminal.h"
#include "vmm/base/spare_memory.h"
#include "vmm/base/try.h"
#include "vmm/cli/exit_codes.h"
#include "vmm/machine/machine_state.h"
#if defined(MAYFLY_BACK_DOOR)  // a binary for tests, never the product
#include "tests/attacks/back_door.h"
#endif

#include <fcntl.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstdlib>
#include <iterator>
#include <utility>

#include <fmt/format.h>

namespace mayfly {
namespace {

/// Descriptors that the table holds without growing. Growing it later, with threads, waits for a grace period of RCU.
constexpr int kDescriptorRoom = 255;

void grow_descriptor_table() { const OwnedFd high{::fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, kDescriptorRoom)}; }

/// Clients of the dialect look for this line to recognize the log.
std::string log_greeting() {
  return fmt::format("Running Firecracker v{}: the dialect, as Mayfly v{} speaks it", kDialectVersion, MAYFLY_VERSION);
}

}  // namespace

Monitor::Monitor(const CommonOptions& common, seccomp::ThreadFilters filters, ConsoleOptions console)
    : common_(common), console_(std::move(console)), log_(common.id, log_greeting()), filters_(std::move(filters)) {
  if (common_.start.wall_us == 0) common_.start.wall_us = monotonic_ns() / 1000;
}

Monitor::~Monitor() {
  open_gate();  // for whoever waits there, and is to be joined
  if (loop_) loop_->close();
  if (controller_) controller_->shut_down();
}

Status Monitor::prepare(std::size_t metadata_limit) {
  grow_descriptor_table();
  (void)this_host_kernel();
  if (auto blocked = StopSignals::block(); !blocked) return blocked;
  if (auto configured = log_.configure(common_.logger); !configured) return configured;
  if (auto watched = filters_.watch(log_); !watched) return watched;
  metadata_limit_ = metadata_limit;
  loop_ = TRY(EventLoop::create());
  if (auto made = make_parts(); !made) return made;
  TRY(show_logger());
  if (common_.metrics_path)
    (void)TRY(controller_->carry_out(
        PutMetrics{{.metrics_path = *common_.metrics_path, .emit_id = false, .properties = {}}}));
  return {};
}

/// Through the controller once more, so that GET /vm/config shows it.
Status Monitor::show_logger() {
  const LoggerConfig& logger = common_.logger;
  if (logger.log_path || logger.level || logger.show_log_origin || logger.show_level || logger.module)
    (void)TRY(controller_->carry_out(PutLogger{common_.logger}));
  return {};
}

Status Monitor::make_parts() {
  trimmer_ = std::make_unique<LogTrimmer>(*loop_, log_);
  auto signals = StopSignals::watch(*loop_, [this](int number) {
    controller_->finish({number == SIGINT ? EndReason::Interrupted : EndReason::Terminated,
                         number == SIGINT ? "interrupted (SIGINT)" : "told to stop (SIGTERM)"});
  });
  if (!signals) return propagate(signals);
  signals_ = std::move(*signals);
  deadline_ = TRY(EndDeadline::create(log_, signals_->fd(), [this](int code) { leave(code); }));
  if (console_.on_quit)
    console_.on_quit = [this] { loop_->post([this] { controller_->finish({EndReason::UserQuit, "Ctrl-A x"}); }); };
  // Made before this thread has its filter, so that the filter need not allow what making children takes.
  if (common_.branches)
    brancher_ = TRY(
        ForkBrancher::start({.loop = *loop_,
                             .children = metrics_.branch.children,
                             .live = [this](BranchOrder& order, std::size_t index,
                                            BranchReport report) { live_as_child(order, index, std::move(report)); },
                             .enter_thread = [this](ThreadKind kind) { enter_thread(kind); }}));
  controller_ =
      std::make_unique<Controller>(*loop_, log_, metrics_,
                                   ControllerOptions{.id = common_.id,
                                                     .start = common_.start,
                                                     .boot_timer = common_.boot_timer,
                                                     .live_snapshots = common_.live_snapshots,
                                                     .brancher = brancher_.get(),
                                                     .metadata_limit = metadata_limit_,
                                                     .console = console_,
                                                     .before_command = [this] { signals_->look(); },
                                                     .enter_thread = [this](ThreadKind kind) { enter_thread(kind); },
                                                     .deadline = deadline_.get()});
  return {};
}

Status Monitor::serve_api(const std::string& socket_path, std::size_t max_payload) {
  // Made before this thread has its filter, so that the filter need not allow what serving clients takes. It serves no
  // client until this thread, which carries commands out, has its filter.
  max_payload_ = max_payload;
  // Such a process counts the pages of guest memory before it answers.
  constexpr std::chrono::seconds kCounting{60};
  const ApiServerOptions usual{};
  auto server = ApiServer::create({.socket_path = socket_path,
                                   .max_payload = max_payload,
                                   .metrics_deadline = common_.branches ? kCounting : usual.metrics_deadline,
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

Status Monitor::lock_in() {
  if (!api_) watch_ = TRY(EndWatch::start(*deadline_, [this] { enter_thread(ThreadKind::Api); }));
  if (auto in = filters_.enter(ThreadKind::Loop); !in) return in;
  open_gate();
#if defined(MAYFLY_BACK_DOOR)
  back_door::attack_from(ThreadKind::Loop, *loop_);
#endif
  return {};
}

void Monitor::open_gate() {
  gate_open_.store(true);
  gate_open_.notify_all();
}

/// A thread without its filter must not run on. Other threads may be running, so nothing is destroyed.
void Monitor::enter_thread(ThreadKind kind) {
  // A child's brancher has it already, and every other one would be asked at each of its calls.
  if (kind == ThreadKind::Brancher && has_inherited_filter_) return seccomp::name_thread_for_violations(kind);
  // A child's loop: the other one goes on top of [loop]'s, for which its parent need not have waited.
  Status in = has_inherited_filter_ && is_of_running_machine(kind) ? filters_.enter(ThreadKind::Loop) : Status{};
  if (in) in = filters_.enter(kind);
#if defined(MAYFLY_BACK_DOOR)
  back_door::attack_from(kind, *loop_);
#endif
  if (in) {
    // A child has little of it, and a first client that waits.
    if (is_of_running_machine(kind) && !has_inherited_filter_) give_back_spare_memory();
    return;
  }
  RawTerminal::put_back();
  log_.error("{}", in.error().message);
  std::_Exit(report(in.error(), kExitError));
}

void Monitor::leave(int code) {
  RawTerminal::put_back();
  ::_exit(code);  // threads hang, so that nothing is destroyed
}

void Monitor::carry_out_next() {
  const bool sets_log = !commands_.empty() && (std::holds_alternative<PutMmds>(commands_.front()) ||
                                               std::holds_alternative<PutLogger>(commands_.front()));
  if (!sets_log)
    for (const std::string& warning : std::exchange(warnings_, {})) log_.warning("{}", warning);
  if (commands_.empty()) return;
  Command command = std::move(commands_.front());
  commands_.pop_front();
  const std::string_view name = name_of(command);
  controller_->perform(std::move(command), Reply{[this, name](const Result<Answer>& answer) {
                         if (answer) return loop_->post([this] { carry_out_next(); });
                         if (controller_->end()) return;  // which is how the process ends
                         // The caller prints the sentence; a log on standard error would repeat it.
                         if (!log_.on_standard_error()) log_.error("{} refused: {}", name, answer.error().message);
                         refusal_ = answer.error();
                         loop_->stop();
                       }});
}

Result<int> Monitor::run(std::vector<Command> commands, std::vector<std::string> warnings) {
  warnings_ = std::move(warnings);
  std::ranges::move(commands, std::back_inserter(commands_));
  loop_->post([this] { carry_out_next(); });
  auto served = loop_->run();
  if (refusal_) return std::unexpected(*refusal_);
  return serve_to_end(served);
}

int Monitor::serve_to_end(const Status& served) {
  loop_->close();
  controller_->shut_down();
  if (api_) api_->stop();
  if (!served) return report(served.error(), kExitError);
  return static_cast<int>(controller_->end()->reason);
}

// --- A child ---------------------------------------------------------------------------------------------------------

namespace {

/// Closes all descriptors but these and standard error. Standard input and output are the parent's console; what takes
/// their place is opened anew, as a jail has no /dev/null: nobody reads or writes it.
void keep_descriptors(std::vector<int> kept) {
  kept.push_back(STDERR_FILENO);
  std::ranges::sort(kept);
  unsigned next = 0;
  for (const int fd : kept) {
    const auto number = static_cast<unsigned>(fd);
    if (number > next) ::syscall(SYS_close_range, next, number - 1, 0U);
    next = number + 1;
  }
  ::syscall(SYS_close_range, next, ~0U, 0U);
  (void)::eventfd(0, 0);
  (void)::eventfd(0, 0);
}

bool names_descriptor(const std::string& path) {
  return path.starts_with("/dev/std") || path.starts_with("/dev/fd/") || path.starts_with("/proc/");
}

CommonOptions options_of_child(const CommonOptions& parent, const BranchOrder& order, std::size_t index) {
  CommonOptions common = parent;
  common.id = order.children[index].id;
  common.logger = order.logger;
  // Of a descriptor that is closed there, or in a jail its parent's: standard error is left.
  if (common.logger.log_path && names_descriptor(*common.logger.log_path)) {
    common.logger.log_path.reset();
    common.logger.max_bytes.reset();  // that file's; standard error need not be one
  }
  common.metrics_path.reset();
  common.start = {};
  return common;
}

}  // namespace

Monitor::Monitor(Monitor& parent, const BranchOrder& order, std::size_t index)
    : Monitor(options_of_child(parent.common_, order, index), std::move(parent.filters_),
              ConsoleOptions{.input_fd = -1, .output_fd = -1, .rate_limiter = {}, .on_quit = {}}) {
  metadata_limit_ = parent.metadata_limit_;
  max_payload_ = parent.max_payload_;
  has_inherited_filter_ = true;
}

void Monitor::live_as_child(BranchOrder& order, std::size_t index, BranchReport report) {
  const auto pipes = report.fds();
  std::vector<int> kept{pipes.begin(), pipes.end()};
  for (const std::shared_ptr<OwnedFd>& file : order.memory.memory_files()) kept.push_back(file->get());
  keep_descriptors(std::move(kept));
  grow_descriptor_table();
  ::setsid();  // what ends its parent's group or terminal is not meant for it
  const BranchChild& own = order.children[index];
  (void)::memfd_create(branch_mark(own.id, own.api_socket).c_str(), MFD_CLOEXEC);  // else mayfly ps does not show it
  ::prctl(PR_SET_NAME, "mayfly", 0, 0, 0);
  // What the parent's monitor has is not ours, or closed: it is left as it is. Our own goes before its end is told.
  int code = kExitError;
  {
    Monitor child{*this, order, index};
    code = child.run_as_child(order, index, report);
  }
  ::_exit(code);
}

Status Monitor::prepare_child(const BranchOrder& order, const std::string& socket_path) {
  filters_.watch_inherited(log_);
  if (auto configured = log_.configure(common_.logger); !configured) return configured;
  loop_ = TRY(EventLoop::create());
  // With sisters later, for which the parent stands still meanwhile.
  std::optional<PreparedVm> vm;
  if (order.children.size() == 1) {
    auto begun =
        TRY(PreparedVm::begin([this](ThreadKind kind) { enter_thread(kind); }, order.snapshot->vcpus.front().cpuid));
    vm.emplace(std::move(begun));
  }
  if (auto made = make_parts(); !made) return made;
  if (vm) controller_->use(std::move(*vm));
  TRY(show_logger());
  return serve_api(socket_path, max_payload_);
}

int Monitor::run_as_child(BranchOrder& order, std::size_t index, BranchReport& report) {
  Status outcome = prepare_child(order, order.children[index].api_socket);
  if (outcome && !report.await_go()) outcome = fail(ErrorKind::State, "the parent ended before it had let go");
  if (!outcome) {
    if (controller_) controller_->shut_down();
    open_gate();  // for its thread, which is to be joined
    api_.reset();
    report.failed(outcome.error().message);
    return kExitError;
  }
  loop_->post([&] {
    outcome = controller_->branch_off(order, index);
    if (outcome) {
      report.up();  // first: its parent has further to go than its first client
      return open_gate();
    }
    // As a machine that was never there: nothing of it is left when its parent hears of it.
    loop_->stop();
  });
  auto served = loop_->run();
  if (outcome) return serve_to_end(served);
  loop_->close();
  controller_->shut_down();
  open_gate();
  api_->stop();
  log_.error("not branched off: {}", outcome.error().message);
  report.failed(outcome.error().message);
  return kExitError;
}

}  // namespace mayfly
