#include "vmm/machine/controller.h"

#include "snapshot/host_cpu.h"
#include "vmm/base/clock.h"
#include "vmm/base/try.h"
#include "vmm/kvm/cpu_features.h"
#include "vmm/machine/machine_state.h"
#include "vmm/machine/microvm.h"
#include "vmm/machine/request_metrics.h"

#include <algorithm>
#include <ctime>
#include <utility>

namespace mayfly {
namespace {

/// Takes the page faults of a load while there is time: 3 to 10 us each. Its code lies behind that of the first thing
/// that prepare_vm() calls, as perf/functions.order has it; heap and stack grow by about as much as this.
void touch_pages_of_a_load() {
  constexpr std::size_t kPage = 4096;
  constexpr std::size_t kFaultAround = 64 << 10;  // what the kernel maps at a fault of a file
  constexpr std::size_t kCode = 256 << 10;
  const auto* code = reinterpret_cast<const volatile std::byte*>(&this_host_cpu);
  for (std::size_t at = 0; at < kCode; at += kFaultAround) (void)code[at];
  const auto heap = std::make_unique_for_overwrite<std::byte[]>(96 << 10);
  std::array<volatile std::byte, 32 << 10> stack;  // NOLINT(cppcoreguidelines-pro-type-member-init)
  for (std::size_t at = 0; at < std::size_t{96} << 10; at += kPage) static_cast<volatile std::byte&>(heap[at]) = {};
  for (std::size_t at = 0; at < stack.size(); at += kPage) stack[at] = {};
}

}  // namespace

ProcessTimes times_since(const ProcessStart& start) noexcept {
  const std::uint64_t now = monotonic_ns() / 1000;
  const std::uint64_t used = clock_ns(CLOCK_PROCESS_CPUTIME_ID) / 1000;
  return {.wall_us = now - std::min(now, start.wall_us),
          .cpu_us = used - std::min(used, start.cpu_us) + start.parent_cpu_us};
}

MachineMakers MachineMakers::real(EventLoop& loop) {
  const auto run = [](Result<std::unique_ptr<Board>> board) -> Result<std::unique_ptr<Machine>> {
    auto whole = TRY(std::move(board));
    return std::make_unique<Microvm>(std::move(whole));
  };
  return {
      .prepare = [](const ThreadEntry& enter_thread) { return PreparedVm::begin(enter_thread); },
      .boot = [run](BootPlan plan,
                    MachineContext context) { return run(mayfly::boot(std::move(plan), std::move(context))); },
      .restore = [run](RestorePlan plan,
                       MachineContext context) { return run(mayfly::restore(std::move(plan), std::move(context))); },
      .worker = std::make_unique<ThreadWorker>(loop)};
}

Controller::Controller(EventLoop& loop, Log& log, Metrics& metrics, ControllerOptions options)
    : Controller(loop, log, metrics, std::move(options), MachineMakers::real(loop)) {}

Controller::Controller(EventLoop& loop, Log& log, Metrics& metrics, ControllerOptions options, MachineMakers makers)
    : loop_(loop),
      log_(log),
      metrics_(metrics),
      options_(std::move(options)),
      makers_(std::move(makers)),
      configured_(log, options_.metadata_limit, options_.console),
      metrics_file_(loop, log, metrics) {}

Controller::~Controller() = default;

// --- Commands: at once, or when their turn has come ------------------------------------------------------------------

void Controller::submit(Command command, Reply reply) {
  loop_.post([this, command = std::move(command), reply = std::move(reply)]() mutable {
    if (options_.before_command) options_.before_command();
    const std::string_view name = name_of(command);
    perform(std::move(command), Reply{[this, name, reply = std::move(reply)](Result<Answer> answer) mutable {
              if (!answer && refusals_.allow()) log_.error("{} refused: {}", name, answer.error().message);
              std::move(reply).give(std::move(answer));
            }});
  });
}

void Controller::perform(Command command, Reply reply) {
  if (end_) return std::move(reply).give(has_ended());
  if (transition_ != Transition::None && !is_read(command)) {
    waiting_.push_back({std::move(command), std::move(reply)});
    return;
  }
  enter_running();
  if (auto legal = check_legal(command, state_); !legal) {
    count_request(metrics_, info_of(command), false);
    return std::move(reply).give(propagate(legal));
  }
  dispatch(command, std::move(reply));
}

void Controller::dispatch(Command& command, Reply reply) {
  if (options_.deadline != nullptr && transition_ == Transition::None)
    // A literal, which ends with a NUL.
    options_.deadline->waiting_for(name_of(command).data());  // NOLINT(bugprone-suspicious-stringview-data-usage)
  if (info_of(command).kind == CommandKind::Change) stay_drained_no_more();
  std::visit(
      [&]<typename Kind>(Kind& one) {
        if constexpr (requires { apply(one); }) {
          auto answer = apply(one);
          count_request(metrics_, Kind::info, answer.has_value());
          std::move(reply).give(std::move(answer));
        } else {
          begin(one, Reply{[this, reply = std::move(reply)](Result<Answer> answer) mutable {
                  count_request(metrics_, Kind::info, answer.has_value());
                  std::move(reply).give(std::move(answer));
                }});
        }
      },
      command);
}

Result<Answer> Controller::carry_out(Command command) {
  std::optional<Result<Answer>> given;
  perform(std::move(command), Reply{[&](Result<Answer> answer) { given.emplace(std::move(answer)); }});
  ensure(given.has_value(), "a command that takes time was to be carried out at once");
  return std::move(*given);
}

void Controller::enter(Transition transition, const char* what, Reply reply) {
  pending_.emplace(std::move(reply));
  advance_to(transition, what);
}

void Controller::advance_to(Transition transition, const char* what) {
  disarm_patience();
  transition_ = transition;
  if (options_.deadline != nullptr) options_.deadline->waiting_for(what);
}

void Controller::leave(Result<Answer> answer) {
  leave_unanswered().give(std::move(answer));
  go_on();
}

Reply Controller::leave_unanswered() {
  disarm_patience();
  transition_ = Transition::None;
  Reply reply = std::move(*pending_);
  pending_.reset();
  return reply;
}

void Controller::go_on() {
  if (end_) return end_vcpus();
  if (std::exchange(recording_is_over_, false)) end_recording();
  while (transition_ == Transition::None && !waiting_.empty()) {
    Waiting next = std::move(waiting_.front());
    waiting_.pop_front();
    perform(std::move(next.command), std::move(next.reply));
  }
}

Status Controller::arm_patience(std::function<void()> late) {
  if (!patience_timer_) {
    patience_timer_ = TRY(LoopTimer::create(loop_, [this] {
      if (late_) std::exchange(late_, nullptr)();
    }));
    patience_timer_->listen();
  }
  late_ = std::move(late);
  patience_timer_->arm(monotonic_ns() + options_.patience_ns);
  return {};
}

void Controller::disarm_patience() {
  if (std::exchange(late_, nullptr)) patience_timer_->cancel();
}

void Controller::refused(std::string_view method, std::string_view why) {
  count_refused_request(metrics_, method);
  if (refusals_.allow()) log_.error("a {} request was refused: {}", method, why);
}

// --- What is carried out at once -------------------------------------------------------------------------------------

Result<Answer> Controller::apply(const GetInstanceInfo&) { return InstanceInfo{options_.id, state_}; }

Result<Answer> Controller::apply(const GetMachineConfig&) { return configured_.config.machine; }

Result<Answer> Controller::apply(const GetVmConfig&) { return configured_.all(); }

Result<Answer> Controller::apply(const GetMmds&) { return MmdsContents{configured_.metadata.json()}; }

Result<Answer> Controller::apply(PutBootSource& command) {
  auto put = configured_.put(std::move(command.value));
  if (put) need_not_prepare_ = false;  // a start is near
  return answer_of(std::move(put));
}

Result<Answer> Controller::apply(const PutMachineConfig& command) { return answer_of(configured_.put(command.value)); }

Result<Answer> Controller::apply(const PatchMachineConfig& command) {
  return answer_of(configured_.patch(command.value));
}

Result<Answer> Controller::apply(PutCpuConfig& command) {
  configured_.config.cpu = std::move(command.value);
  return {};
}

Result<Answer> Controller::apply(PutSerial& command) { return answer_of(configured_.put(std::move(command.value))); }

Result<Answer> Controller::apply(PutDrive& command) {
  return answer_of(configured_.devices.put(std::move(command.value)));
}

Result<Answer> Controller::apply(const PatchDrive& command) {
  return answer_of(configured_.devices.patch(command.value, *machine_));
}

Result<Answer> Controller::apply(PutNetworkInterface& command) {
  return answer_of(configured_.devices.put(std::move(command.value)));
}

Result<Answer> Controller::apply(const PatchNetworkInterface& command) {
  return answer_of(configured_.devices.patch(command.value, *machine_));
}

Result<Answer> Controller::apply(PutMmdsConfig& command) {
  return answer_of(configured_.put(std::move(command.value)));
}

Result<Answer> Controller::apply(PutChannel& command) { return answer_of(configured_.put(std::move(command.value))); }

Result<Answer> Controller::apply(PutMmds& command) {
  return answer_of(configured_.metadata.put(std::move(command.value)));
}

Result<Answer> Controller::apply(PatchMmds& command) {
  return answer_of(configured_.metadata.patch(std::move(command.value)));
}

Result<Answer> Controller::apply(const PutLogger& command) { return answer_of(configured_.put(command.value)); }

Result<Answer> Controller::apply(const PutMetrics& command) {
  auto opened = metrics_file_.open(command.value, options_.id);
  if (opened) configured_.config.metrics = command.value;
  return answer_of(std::move(opened));
}

Result<Answer> Controller::apply(const FlushMetrics&) { return answer_of(metrics_file_.flush()); }

Result<Answer> Controller::apply(const SendCtrlAltDel&) { return answer_of(machine_->press_ctrl_alt_del()); }

Result<Answer> Controller::apply(const ResumeVm&) {
  if (state_ == MachineState::Running) return {};
  const std::uint64_t begun = monotonic_ns();
  machine_->resume();
  state_ = MachineState::Running;
  metrics_.latency.resume_us.set(us_since(begun));
  log_.info("resumed in {} us", metrics_.latency.resume_us.value());
  return {};
}

// --- The start -------------------------------------------------------------------------------------------------------

void Controller::answered() {
  // Once after the first answer, and once more when it is known that a kernel will be started.
  if (!need_not_prepare_.exchange(true)) loop_.post([this] { prepare_vm(); });
}

void Controller::prepare_vm() {
  if (state_ != MachineState::NotStarted || transition_ != Transition::None || end_) return;
  (void)this_host_cpu();  // which asks CPUID: slow on a host that is virtual
  touch_pages_of_a_load();
  Status prepared = need_prepared_vm();
  if (!configured_.config.boot_source) {
    (void)cpuid_of_processor();  // for a load, while the thread makes the VM
  } else if (prepared) {
    prepared = prepared_->learn_cpuid();
  }
  if (!prepared) log_.debug("not prepared for a start: {}", prepared.error().message);
}

Status Controller::need_prepared_vm() {
  if (!prepared_) {
    auto prepared = TRY(makers_.prepare(options_.enter_thread));
    prepared_.emplace(std::move(prepared));
  }
  return {};
}

MachineContext Controller::context() {
  return {.loop = loop_,
          .log = log_,
          .metrics = metrics_,
          .metadata = configured_.metadata,
          .on_end = [this](MachineEnd end) { finish(std::move(end)); },
          .on_booted =
              [this] {
                log_boot_time();
                loop_.post([this] {
                  if (recording_ && recording_->until_boot_timer) end_recording();
                });
              },
          .enter_thread = options_.enter_thread};
}

Result<Answer> Controller::apply(const StartInstance&) {
  const std::uint64_t begun = monotonic_ns();
  if (!configured_.config.boot_source)
    return fail(ErrorKind::State, "there is no kernel to start: send PUT /boot-source with kernel_image_path first");
  TRY(need_prepared_vm());
  TRY(prepared_->learn_cpuid());
  auto plan = TRY(configured_.plan_boot(std::move(*prepared_), options_.boot_timer));
  prepared_.reset();
  machine_ = TRY(makers_.boot(std::move(plan), context()));
  configured_.devices.started();
  machine_->resume();
  go_live(MachineState::Running);
  metrics_.latency.start_us.set(us_since(begun));
  log_.info("started {} with {} vCPUs and {} MiB in {} us", configured_.config.boot_source->kernel_image_path,
            configured_.config.machine.vcpu_count, configured_.config.machine.mem_size_mib,
            metrics_.latency.start_us.value());
  return {};
}

void Controller::go_live(MachineState state) {
  state_ = state;
  // Later: the kernel takes time to compile a filter, and a client waits for its answer.
  loop_.post([this] { enter_running(); });
}

void Controller::adopt(std::unique_ptr<Machine> machine, std::optional<Adopted> loaded) {
  machine_ = std::move(machine);
  loaded_ = loaded.has_value();
  if (loaded && loaded->revertible) reverts_to_ = last_snapshot_ = DiffBase{};
  state_ = MachineState::Running;
}

void Controller::enter_running() {
  if (state_ == MachineState::NotStarted || std::exchange(entered_running_, true)) return;
  if (!options_.enter_thread) return;
  options_.enter_thread(running_kind({.reverts = reverts_to_.has_value(),
                                      .takes_live_snapshots = options_.live_snapshots,
                                      .has_channels = !configured_.channels.empty()}));
}

void Controller::log_boot_time() const {
  const ProcessTimes times = times_since(options_.start);
  log_.info("Guest-boot-time = {} us, {} CPU us", times.wall_us, times.cpu_us);
}

// --- A pause ---------------------------------------------------------------------------------------------------------

void Controller::pause_for(std::function<void()> paused) {
  if (auto armed = arm_patience([this] {
        machine_->resume();
        leave(
            fail(ErrorKind::System,
                 "the machine was not paused in {} s, as a vCPU waits for a device whose requests do not come back; it "
                 "runs on: look at the storage of its drives",
                 options_.patience_ns / 1'000'000'000));
      });
      !armed)
    return leave(propagate(armed));
  machine_->pause(std::move(paused));
}

void Controller::begin(const PauseVm&, Reply reply) {
  if (state_ == MachineState::Paused) return std::move(reply).give({});
  const std::uint64_t begun = monotonic_ns();
  enter(Transition::Pausing, "the vCPUs, one of which waits for a device", std::move(reply));
  pause_for([this, begun] {
    state_ = MachineState::Paused;
    metrics_.latency.pause_us.set(us_since(begun));
    log_.info("paused in {} us", metrics_.latency.pause_us.value());
    leave({});
  });
}

// --- The end: vCPUs, working set, console, loop ----------------------------------------------------------------------

void Controller::finish(MachineEnd end) {
  if (end_) return;
  if (options_.deadline != nullptr) options_.deadline->begin(static_cast<int>(end.reason));
  if (is_failure(end.reason))
    log_.error("the machine ended: {} (exit code {})", end.message, static_cast<int>(end.reason));
  else
    log_.info("the machine ended: {} (exit code {})", end.message, static_cast<int>(end.reason));
  end_.emplace(std::move(end));
  while (!waiting_.empty()) waiting_.pop_front();  // told so, in their order
  metrics_asked_.clear();
  if (writing_) makers_.worker->stop();
  stay_drained_no_more();
  switch (transition_) {
    case Transition::Loading:
    case Transition::Saving:
    case Transition::Recording:
    case Transition::Looking:
      return makers_.worker->stop();  // its end goes on from here, in leave()
    case Transition::Branching:       // the children go on without us
      return leave(has_ended());
    case Transition::Draining:
      machine_->undrain();  // else the last request that comes back would begin the snapshot
      return leave(has_ended());
    case Transition::Pausing:
      return leave(has_ended());
    case Transition::Reverting:
      return;  // revert_drained() leaves
    case Transition::None:
      return end_vcpus();
  }
}

void Controller::end_vcpus() {
  if (!machine_) return loop_.stop();
  if (writing_) {  // live_saved() goes on
    if (options_.deadline != nullptr) options_.deadline->waiting_for("the live snapshot's files to be given up");
    machine_->pause([] {});  // and not what a PATCH of /vm was waiting with
    return;
  }
  if (options_.deadline != nullptr) options_.deadline->waiting_for("the vCPUs, one of which waits for a device");
  machine_->pause([this] {
    if (!recording_) return end_console();
    if (options_.deadline != nullptr) options_.deadline->waiting_for("the working set to be written");
    const auto end = [this](const Status& written) {
      if (!written) log_.error("the working set is not written: {}", written.error().message);
      end_console();
    };
    if (auto begun = write_recording(end); !begun) end(begun);
  });
}

void Controller::end_console() {
  if (options_.deadline != nullptr) options_.deadline->waiting_for("what was in flight to come back");
  machine_->drain_console([this] { loop_.stop(); });
}

void Controller::shut_down() {
  if (std::exchange(shut_down_, true)) return;
  waiting_.clear();
  pending_.reset();
  metrics_asked_.clear();
  machine_.reset();
  prepared_.reset();
  (void)metrics_file_.flush();
}

}  // namespace mayfly
