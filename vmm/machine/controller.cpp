#include "vmm/machine/controller.h"

#include "snapshot/host_cpu.h"
#include "vmm/base/clock.h"
#include "vmm/boot/command_line.h"
#include "vmm/boot/image_file.h"
#include "vmm/machine/machine_state.h"
#include "vmm/machine/request_metrics.h"

#include <algorithm>
#include <ctime>
#include <utility>

namespace mayfly {
namespace {

/// The dialect's clients count on a metrics line at least this often.
constexpr std::uint64_t kMetricsPeriodNs = 60'000'000'000;

}  // namespace

ProcessTimes times_since(const ProcessStart& start) noexcept {
  const std::uint64_t now = monotonic_ns() / 1000;
  const std::uint64_t used = clock_ns(CLOCK_PROCESS_CPUTIME_ID) / 1000;
  return {.wall_us = now - std::min(now, start.wall_us),
          .cpu_us = used - std::min(used, start.cpu_us) + start.parent_cpu_us};
}

Controller::Controller(EventLoop& loop, Log& log, Metrics& metrics, ControllerOptions options)
    : loop_(loop), log_(log), metrics_(metrics), options_(std::move(options)), metadata_(options_.metadata_limit) {}

Controller::~Controller() = default;

void Controller::submit(Command command, Reply reply) {
  loop_.post([this, command = std::move(command), reply = std::move(reply)]() mutable {
    const std::string_view name = name_of(command);
    if (options_.before_command) options_.before_command();
    auto answer = carry_out(std::move(command));
    if (!answer && refusals_.allow()) log_.error("{} refused: {}", name, answer.error().message);
    std::move(reply).give(std::move(answer));
  });
}

Result<Answer> Controller::carry_out(Command command) {
  if (end_) return fail(ErrorKind::State, "the machine has ended");
  enter_running();
  auto legal = check_legal(command, state_);
  auto answer = legal ? dispatch(command) : Result<Answer>{propagate(legal)};
  count_request(metrics_, command, answer.has_value());
  return answer;
}

void Controller::go_live(MachineState state) {
  state_ = state;
  // Not now: the kernel takes 0.1 ms to compile a filter, and a client waits for its answer.
  loop_.post([this] { enter_running(); });
}

void Controller::enter_running() {
  if (state_ == MachineState::NotStarted || std::exchange(entered_running_, true)) return;
  if (options_.enter_thread) options_.enter_thread(ThreadKind::Running);
}

Result<Answer> Controller::dispatch(Command& command) {
  return std::visit([this](auto& alternative) { return apply(alternative); }, command);
}

void Controller::refused(std::string_view method, std::string_view why) {
  count_refused_request(metrics_, method);
  if (refusals_.allow()) log_.error("a {} request was refused: {}", method, why);
}

Result<Answer> Controller::apply(GetInstanceInfo&) { return InstanceInfo{options_.id, state_}; }

Result<Answer> Controller::apply(GetMachineConfig&) { return config_.machine; }

Result<Answer> Controller::apply(GetVmConfig&) {
  VmConfig config = config_;
  config.drives = devices_.drives();
  config.network_interfaces = devices_.network_interfaces();
  return config;
}

Result<Answer> Controller::apply(GetPrometheusMetrics&) {
  note_missed_log_lines();
  return PrometheusText{prometheus_text(metrics_)};
}

Result<Answer> Controller::apply(PutBootSource& command) {
  BootSource& source = command.value;
  auto checked = check_command_line(source.boot_args.value_or(kDefaultBootArgs));
  if (!checked) return propagate(checked);
  auto kernel = open_boot_file(source.kernel_image_path, BootFileRole::Kernel);
  if (!kernel) return propagate(kernel);
  OwnedFd initrd;
  if (source.initrd_path) {
    auto opened = open_boot_file(*source.initrd_path, BootFileRole::Initrd);
    if (!opened) return propagate(opened);
    initrd = std::move(*opened);
  }
  files_.kernel = std::move(*kernel);
  files_.initrd = std::move(initrd);
  config_.boot_source = std::move(source);
  prepared_ = false;  // a start is near
  return {};
}

namespace {

Status check_machine(const MachineConfig& machine) {
  if (machine.vcpu_count < 1 || machine.vcpu_count > kMaximumVcpus)
    return fail(ErrorKind::InvalidArgument, "vcpu_count is {}; it must be from 1 to {}", machine.vcpu_count,
                kMaximumVcpus);
  if (machine.smt && machine.vcpu_count > 1 && machine.vcpu_count % 2 != 0)
    return fail(ErrorKind::InvalidArgument, "vcpu_count is {}; with smt it must be 1 or even", machine.vcpu_count);
  return GuestMemory::check({.size_mib = machine.mem_size_mib, .pages = machine.huge_pages});
}

}  // namespace

Result<Answer> Controller::apply(PutMachineConfig& command) {
  if (auto checked = check_machine(command.value); !checked) return propagate(checked);
  config_.machine = command.value;
  warn_of_template();
  machine_configured_ = true;
  return {};
}

Result<Answer> Controller::apply(PatchMachineConfig& command) {
  const MachineConfigPatch& patch = command.value;
  MachineConfig machine = config_.machine;
  machine.vcpu_count = patch.vcpu_count.value_or(machine.vcpu_count);
  machine.mem_size_mib = patch.mem_size_mib.value_or(machine.mem_size_mib);
  machine.smt = patch.smt.value_or(machine.smt);
  machine.track_dirty_pages = patch.track_dirty_pages.value_or(machine.track_dirty_pages);
  machine.huge_pages = patch.huge_pages.value_or(machine.huge_pages);
  machine.cpu_template = patch.cpu_template.value_or(machine.cpu_template);
  if (auto checked = check_machine(machine); !checked) return propagate(checked);
  config_.machine = machine;
  if (patch.cpu_template) warn_of_template();
  machine_configured_ = true;
  return {};
}

void Controller::warn_of_template() {
  if (config_.machine.cpu_template != CpuTemplate::None)
    log_.warning("cpu_template is deprecated: describe the CPU with PUT /cpu-config instead");
}

Result<Answer> Controller::apply(PutCpuConfig& command) {
  config_.cpu = std::move(command.value);
  return {};
}

Result<Answer> Controller::apply(PutSerial& command) {
  OwnedFd file;
  if (command.value.serial_out_path) {
    auto opened = open_line_sink(*command.value.serial_out_path, "serial_out_path");
    if (!opened) return propagate(opened);
    file = std::move(*opened);
  }
  serial_out_ = std::move(file);
  config_.serial = std::move(command.value);
  return {};
}

Result<Answer> Controller::apply(PutDrive& command) {
  if (auto put = devices_.put(std::move(command.value)); !put) return propagate(put);
  return {};
}

Result<Answer> Controller::apply(PatchDrive& command) {
  if (auto patched = devices_.patch(command.value, *microvm_); !patched) return propagate(patched);
  return {};
}

Result<Answer> Controller::apply(PutNetworkInterface& command) {
  if (auto put = devices_.put(std::move(command.value)); !put) return propagate(put);
  return {};
}

Result<Answer> Controller::apply(PatchNetworkInterface& command) {
  if (auto patched = devices_.patch(command.value, *microvm_); !patched) return propagate(patched);
  return {};
}

Result<Answer> Controller::apply(PutMmdsConfig& command) {
  if (auto checked = devices_.check(command.value); !checked) return propagate(checked);
  config_.mmds = std::move(command.value);
  return {};
}

Result<Answer> Controller::apply(GetMmds&) { return MmdsContents{metadata_.json()}; }

Result<Answer> Controller::apply(PutMmds& command) {
  if (auto put = metadata_.put(std::move(command.value)); !put) return propagate(put);
  return {};
}

Result<Answer> Controller::apply(PatchMmds& command) {
  if (auto patched = metadata_.patch(std::move(command.value)); !patched) return propagate(patched);
  return {};
}

Result<Answer> Controller::apply(PutLogger& command) {
  if (auto configured = log_.configure(command.value); !configured) return propagate(configured);
  LoggerConfig& kept = config_.logger ? *config_.logger : config_.logger.emplace();
  const auto take = [](auto& old, auto& given) {
    if (given) old = std::move(given);
  };
  take(kept.log_path, command.value.log_path);
  take(kept.level, command.value.level);
  take(kept.show_level, command.value.show_level);
  take(kept.show_log_origin, command.value.show_log_origin);
  take(kept.module, command.value.module);
  return {};
}

Result<Answer> Controller::apply(PutMetrics& command) {
  auto sink = MetricsSink::open(command.value, options_.id);
  if (!sink) return propagate(sink);
  if (!metrics_timer_) {
    auto timer = LoopTimer::create(loop_, [this] {
      if (metrics_sink_) (void)flush_metrics();
      metrics_timer_->arm(monotonic_ns() + kMetricsPeriodNs);
    });
    if (!timer) return propagate(timer);
    metrics_timer_ = std::move(*timer);
    metrics_timer_->listen();
    metrics_timer_->arm(monotonic_ns() + kMetricsPeriodNs);
  }
  metrics_sink_.emplace(std::move(*sink));
  config_.metrics = std::move(command.value);
  return {};
}

Status Controller::need_shell() {
  if (shell_) return {};
  auto shell = MachineShell::prepare(options_.enter_thread);
  if (!shell) return propagate(shell);
  shell_.emplace(std::move(*shell));
  return {};
}

MachineShell Controller::take_shell() {
  MachineShell taken = std::move(*shell_);
  shell_.reset();
  return taken;
}

void Controller::answered() {
  // Once after the first answer, and once more when it is known that a kernel will be started.
  if (!prepared_.exchange(true)) loop_.post([this] { prepare_shell(); });
}

void Controller::prepare_shell() {
  if (state_ != MachineState::NotStarted || end_) return;
  (void)this_host_cpu();  // which asks CPUID: slow on a host that is virtual
  Status prepared = need_shell();
  if (prepared && config_.boot_source) prepared = shell_->learn_cpuid();
  if (!prepared) log_.debug("not prepared for a start: {}", prepared.error().message);
}

ConsoleOptions Controller::console_options() const {
  ConsoleOptions console = options_.console;
  if (serial_out_) console.output_fd = serial_out_.get();
  if (config_.serial) console.rate_limiter = config_.serial->rate_limiter;
  return console;
}

MicrovmContext Controller::context() {
  return {.loop = loop_,
          .log = log_,
          .metrics = metrics_,
          .metadata = metadata_,
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

Result<MicrovmPlan> Controller::plan_start() {
  if (!config_.boot_source)
    return fail(ErrorKind::State, "there is no kernel to start: send PUT /boot-source with kernel_image_path first");
  if (auto made = need_shell(); !made) return propagate(made);
  if (auto learned = shell_->learn_cpuid(); !learned) return propagate(learned);
  const BootSource& source = *config_.boot_source;
  auto command_line = compose_command_line(source.boot_args.value_or(kDefaultBootArgs), devices_.kernel_arguments());
  if (!command_line) return propagate(command_line, "boot_args and what describes the devices");
  DevicePlans devices;
  if (auto lent = devices_.lend(devices); !lent) return propagate(lent);
  devices.mmds = config_.mmds;
  return MicrovmPlan{
      .shell = take_shell(),
      .machine = config_.machine,
      .cpu = config_.cpu.value_or(CpuConfig{}),
      .kernel_fd = files_.kernel.get(),
      .kernel_path = source.kernel_image_path,
      .initrd_fd = files_.initrd ? std::optional{files_.initrd.get()} : std::nullopt,
      .initrd_path = source.initrd_path.value_or(""),
      .command_line = std::move(*command_line),
      .devices = std::move(devices),
      .console = console_options(),
      .boot_timer = options_.boot_timer,
  };
}

Result<Answer> Controller::apply(StartInstance&) {
  const std::uint64_t begin = monotonic_ns();
  auto plan = plan_start();
  if (!plan) return propagate(plan);
  auto machine = Microvm::create(std::move(*plan), context());
  if (!machine) return propagate(machine);
  microvm_ = std::move(*machine);
  devices_.started();
  microvm_->resume();
  go_live(MachineState::Running);
  metrics_.latency.start_us.set((monotonic_ns() - begin) / 1000);
  log_.info("started {} with {} vCPUs and {} MiB in {} us", config_.boot_source->kernel_image_path,
            config_.machine.vcpu_count, config_.machine.mem_size_mib, metrics_.latency.start_us.value());
  return {};
}

Result<Answer> Controller::apply(FlushMetrics&) {
  if (!metrics_sink_)
    return fail(ErrorKind::State, "there is no metrics file: send PUT /metrics with metrics_path first");
  if (auto flushed = flush_metrics(); !flushed) return propagate(flushed);
  return {};
}

Status Controller::flush_metrics() {
  note_missed_log_lines();
  auto flushed = metrics_sink_->flush(metrics_);
  if (!flushed) metrics_.logger.missed_metrics_count.add();
  return flushed;
}

void Controller::note_missed_log_lines() {
  Counter& counted = metrics_.logger.missed_log_count;
  counted.add(log_.missed() - counted.value());
}

Result<Answer> Controller::apply(SendCtrlAltDel&) {
  if (auto pressed = microvm_->press_ctrl_alt_del(); !pressed) return propagate(pressed);
  return {};
}

Result<Answer> Controller::apply(PauseVm&) {
  if (state_ == MachineState::Paused) return {};
  const std::uint64_t begin = monotonic_ns();
  microvm_->pause();
  state_ = MachineState::Paused;
  metrics_.latency.pause_us.set((monotonic_ns() - begin) / 1000);
  log_.info("paused in {} us", metrics_.latency.pause_us.value());
  return {};
}

Result<Answer> Controller::apply(ResumeVm&) {
  if (state_ == MachineState::Running) return {};
  const std::uint64_t begin = monotonic_ns();
  microvm_->resume();
  state_ = MachineState::Running;
  metrics_.latency.resume_us.set((monotonic_ns() - begin) / 1000);
  log_.info("resumed in {} us", metrics_.latency.resume_us.value());
  return {};
}

void Controller::log_boot_time() const {
  const ProcessTimes times = times_since(options_.start);
  log_.info("Guest-boot-time = {} us, {} CPU us", times.wall_us, times.cpu_us);
}

void Controller::finish(MachineEnd end) {
  if (end_) return;
  if (is_failure(end.reason))
    log_.error("the machine ended: {} (exit code {})", end.message, static_cast<int>(end.reason));
  else
    log_.info("the machine ended: {} (exit code {})", end.message, static_cast<int>(end.reason));
  end_.emplace(std::move(end));
  if (!microvm_) {
    loop_.stop();
    return;
  }
  microvm_->pause();
  end_recording();
  microvm_->drain_console([this] { loop_.stop(); });
}

void Controller::shut_down() {
  microvm_.reset();
  if (metrics_sink_) (void)flush_metrics();
}

}  // namespace mayfly
