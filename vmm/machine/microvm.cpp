#include "vmm/machine/microvm.h"

#include "snapshot/userfault.h"
#include "snapshot/working_set_replay.h"
#include "vmm/base/clock.h"
#include "vmm/boot/boot.h"
#include "vmm/boot/generation_id.h"
#include "vmm/boot/layout.h"
#include "vmm/devices/acpi_sleep_ports.h"
#include "vmm/devices/boot_timer.h"
#include "vmm/devices/bus.h"
#include "vmm/devices/dual_pic.h"
#include "vmm/devices/guest_signals.h"
#include "vmm/devices/i8042.h"
#include "vmm/devices/interrupt_wiring.h"
#include "vmm/devices/ioapic.h"
#include "vmm/devices/panic_port.h"
#include "vmm/devices/pit.h"
#include "vmm/kvm/boot_msrs.h"
#include "vmm/kvm/cpu_template.h"
#include "vmm/kvm/cpuid.h"
#include "vmm/machine/vcpu_set.h"

#include <atomic>
#include <ctime>
#include <optional>
#include <utility>

namespace mayfly {
namespace {

/// How long a finished machine waits for the reader of its console.
constexpr std::uint64_t kDrainDeadlineNs = 200'000'000;

class HostClock final : public MonotonicClock {
 public:
  [[nodiscard]] std::uint64_t now_ns() const noexcept override { return monotonic_ns(); }
};

/// The PIT's alarm, on the loop.
class LoopPitTimer final : public PitTimer {
 public:
  void connect(LoopTimer& timer) noexcept { timer_ = &timer; }
  void arm(std::uint64_t deadline_ns) noexcept override { timer_->arm(deadline_ns); }
  void cancel() noexcept override { timer_->cancel(); }

 private:
  LoopTimer* timer_ = nullptr;
};

/// The PIC's output, to whoever runs the vCPUs.
class VirtualWire final : public InterruptSink {
 public:
  /// Null where there are none yet, or none any more.
  void connect(VcpuSet* vcpus) noexcept { vcpus_.store(vcpus, std::memory_order_release); }
  void set_pin(unsigned /*pin*/, bool level) noexcept override {
    if (!level) return;
    if (VcpuSet* vcpus = vcpus_.load(std::memory_order_acquire)) vcpus->look_at_pic();
  }

 private:
  std::atomic<VcpuSet*> vcpus_ = nullptr;
};

}  // namespace

Result<MachineShell> MachineShell::prepare(const ThreadEntry& enter_thread) {
  auto kvm = Kvm::open();
  if (!kvm) return propagate(kvm);
  auto vm = Vm::create(*kvm);
  if (!vm) return propagate(vm);
  auto vcpu = Vcpu::create(kvm->run_size(), **vm, 0);
  if (!vcpu) return propagate(vcpu);
  auto thread = VcpuSet::start_thread(0, enter_thread);
  if (!thread) return propagate(thread);
  return MachineShell{.vm = std::move(*vm),
                      .run_size = kvm->run_size(),
                      .first_vcpu = std::move(*vcpu),
                      .first_thread = std::move(*thread)};
}

Status MachineShell::learn_cpuid() {
  if (cpuid) return {};
  auto kvm = Kvm::open();
  if (!kvm) return propagate(kvm);
  auto supported = kvm->supported_cpuid();
  if (!supported) return propagate(supported);
  cpuid = std::move(*supported);
  tsc_deadline = kvm->check_extension(KVM_CAP_TSC_DEADLINE_TIMER) > 0;
  return {};
}

/// Everything a machine is made of. Destroyed from the end: vCPUs stop before the devices they use go.
struct Microvm::Parts final : GuestSignals {
  Parts(MicrovmContext outside, std::unique_ptr<Vm> machine, GuestMemory ram, ConsoleOptions console_options)
      : context(std::move(outside)),
        memory(std::move(ram)),
        vm(std::move(machine)),
        ioapic(*vm),
        pit(InterruptLine{wiring, layout::kTimerGsi}, clock, pit_alarm),
        i8042(InterruptLine{wiring, layout::kKeyboardGsi}, *this),
        boot_timer(*this),
        sleep_ports(*this),
        panic_port(*this),
        console(context.loop, clock, context.metrics.uart, std::move(console_options),
                InterruptLine{wiring, layout::kSerialGsi}) {}
  Parts(const Parts&) = delete;
  Parts& operator=(const Parts&) = delete;
  ~Parts() override {
    vcpus.reset();
    virtual_wire.connect(nullptr);
    if (userfault) stop_faults(userfault, memory);  // its server may be dead
  }

  /// What every machine has in place before its vCPUs know anything.
  [[nodiscard]] static Result<std::unique_ptr<Parts>> make(MicrovmContext outside, MachineShell& shell,
                                                           GuestMemory memory, const MachineConfig& machine,
                                                           ConsoleOptions console, bool with_boot_timer,
                                                           DevicePlans devices);
  /// The rest, for vCPUs that are ready to run. On success the ring holds operations of this machine.
  [[nodiscard]] Status finish(std::vector<Vcpu> made, StandbyThread first_thread, const Snapshot* restored);
  void restore_platform(const PlatformState& state);
  [[nodiscard]] PlatformState platform_state();
  [[nodiscard]] Status save(Snapshot& snapshot);
  [[nodiscard]] Status make_timers();
  [[nodiscard]] Status attach_devices(bool with_boot_timer);
  /// The shell's vCPU and the others.
  [[nodiscard]] Result<std::vector<Vcpu>> make_vcpus(MachineShell& shell, std::size_t count) const;
  [[nodiscard]] Status set_vcpus_up(const std::vector<Vcpu>& made, const MicrovmPlan& plan,
                                    const BootEntry& entry) const;
  [[nodiscard]] Status start_vcpus(std::vector<Vcpu> made, StandbyThread first_thread);
  /// Posts the end to the loop; only the first one counts. Any thread.
  void end(MachineEnd what) noexcept;

  void reset_requested() noexcept override { end({EndReason::Reset, "the guest asked for a reset"}); }
  void power_off_requested() noexcept override { end({EndReason::PowerOff, "the guest switched itself off"}); }
  void guest_panicked() noexcept override { end({EndReason::GuestPanic, "the guest's kernel panicked"}); }
  void crash_loaded() noexcept override;
  void guest_booted() noexcept override { context.on_booted(); }

  MicrovmContext context;
  std::atomic<bool> ended{false};
  LogRate crash_log_rate;
  HostClock clock;
  // These answer the faults of `memory`, while anybody touches it.
  OwnedFd userfault;
  std::unique_ptr<WorkingSetRecorder> recorder;
  GuestMemory memory;  // outlives the VM that maps it
  std::optional<WorkingSetReplay> replay;
  std::unique_ptr<Vm> vm;
  Ioapic ioapic;
  VirtualWire virtual_wire;
  DualPic pic{InterruptLine{virtual_wire, 0}};
  InterruptWiring wiring{ioapic, pic};
  LoopPitTimer pit_alarm;
  Pit pit;
  std::unique_ptr<LoopTimer> pit_timer;
  I8042 i8042;
  BootTimer boot_timer;
  AcpiSleepPorts sleep_ports;
  PanicPort panic_port;
  Console console;
  std::unique_ptr<LoopTimer> drain_timer;
  std::function<void()> drained;
  Bus ports;
  Bus mmio;
  bool has_boot_timer = false;
  bool tracks_changes = false;
  std::vector<std::uint32_t> own_msrs;  // which the boot and the user's cpu-config set
  std::vector<std::uint64_t> changed;   // with tracks_changes: a bit a page, since forget_changes()
  VirtioDevices virtio;
  std::unique_ptr<VcpuSet> vcpus;
};

Status Microvm::Parts::make_timers() {
  auto timer = LoopTimer::create(context.loop, [this] { pit.on_timer(); });
  if (!timer) return propagate(timer);
  pit_timer = std::move(*timer);
  pit_alarm.connect(*pit_timer);
  return {};
}

Status Microvm::Parts::attach_devices(bool with_boot_timer) {
  struct Place {
    std::string_view name;
    std::uint64_t base;
    std::uint64_t length;
    BusDevice& device;
  };
  const std::array places = {
      Place{"pic", kMasterPicPort, kPicPortCount, pic},
      Place{"pic", kSlavePicPort, kPicPortCount, pic.slave_ports()},
      Place{"pic", kPicTriggerPort, kPicPortCount, pic.trigger_ports()},
      Place{"pit", kPitPort, kPitPortCount, pit},
      Place{"speaker port", kSpeakerPort, 1, pit.speaker_port()},
      Place{"i8042 data", layout::kKeyboardDataPort, 1, i8042},
      Place{"i8042 command", layout::kKeyboardCommandPort, 1, i8042.command_port()},
      Place{"serial", layout::kSerialPort, layout::kSerialPorts, console.serial()},
      Place{"pvpanic", layout::kPvpanicPort, 1, panic_port},
      Place{"ACPI sleep", layout::kSleepControlPort, layout::kSleepPorts, sleep_ports},
  };
  for (const Place& place : places)
    if (auto attached = ports.attach(place.name, place.base, place.length, place.device); !attached) return attached;
  if (with_boot_timer)
    if (auto attached = ports.attach("boot timer", kBootTimerPort, 1, boot_timer); !attached) return attached;
  return mmio.attach("ioapic", layout::kIoapicBase, layout::kIoapicLength, ioapic);
}

namespace {

/// The user's MSR edits, made of what this host's KVM has there.
Result<std::vector<MsrValue>> edited_msrs(const Vcpu& vcpu, std::span<const MsrEdit> edits) {
  std::vector<MsrValue> values;
  for (const MsrEdit& edit : edits) {
    auto present = vcpu.msr(edit.address);
    if (!present) return propagate(present, "cpu-config");
    values.push_back({.index = edit.address, .value = edit.bits.apply(*present)});
  }
  return values;
}

/// The registers that the boot sets, and those that the user edits.
std::vector<std::uint32_t> own_msr_indices(std::span<const MsrEdit> edits) {
  std::vector<std::uint32_t> indices;
  indices.reserve(kBootMsrs.size() + edits.size());
  for (const MsrValue& boot : kBootMsrs) indices.push_back(boot.index);
  for (const MsrEdit& edit : edits) indices.push_back(edit.address);
  return indices;
}

Status enter_boot_processor(const Vcpu& vcpu, const BootEntry& entry) {
  auto special = vcpu.sregs();
  if (!special) return propagate(special);
  kvm_regs general{};
  set_entry_registers(entry, *special, general);
  if (auto set = vcpu.set_sregs(*special); !set) return set;
  return vcpu.set_regs(general);
}

Status check_capabilities(const Vm& vm, std::span<const KvmCapabilityEdit> capabilities) {
  for (const KvmCapabilityEdit& capability : capabilities)
    if (!capability.removed && vm.check_extension(static_cast<int>(capability.number)) <= 0)
      return fail(ErrorKind::Unsupported, "cpu-config: this host's KVM lacks capability {}", capability.number);
  return {};
}

}  // namespace

Result<std::vector<Vcpu>> Microvm::Parts::make_vcpus(MachineShell& shell, std::size_t count) const {
  std::vector<Vcpu> made;
  made.reserve(count);
  made.push_back(std::move(shell.first_vcpu));
  while (made.size() < count) {
    auto vcpu = Vcpu::create(shell.run_size, *vm, static_cast<unsigned>(made.size()));
    if (!vcpu) return propagate(vcpu);
    made.push_back(std::move(*vcpu));
  }
  return made;
}

Status Microvm::Parts::set_vcpus_up(const std::vector<Vcpu>& made, const MicrovmPlan& plan,
                                    const BootEntry& entry) const {
  if (auto checked = check_capabilities(*vm, plan.cpu.capabilities); !checked) return checked;
  const CpuIdentity identity{.vcpu_count = plan.machine.vcpu_count,
                             .smt = plan.machine.smt,
                             .tsc_deadline = plan.shell.tsc_deadline,
                             .tsc_khz = made.front().tsc_khz()};
  kvm_abi::CpuidTable& cpuid = *plan.shell.cpuid;
  apply_cpu_template(cpuid, plan.machine.cpu_template);
  if (auto prepared = prepare_cpuid(cpuid, identity, plan.cpu.cpuid); !prepared) return prepared;
  for (const Vcpu& vcpu : made) {
    set_apic_id(cpuid, vcpu.index(), identity);
    if (auto set = vcpu.set_cpuid(cpuid); !set) return set;
    if (auto set = vcpu.set_msrs(kBootMsrs); !set) return set;
    if (plan.cpu.msrs.empty()) continue;
    auto edited = edited_msrs(vcpu, plan.cpu.msrs);
    if (!edited) return propagate(edited);
    if (auto set = vcpu.set_msrs(*edited); !set) return propagate(set, "cpu-config");
  }
  return enter_boot_processor(made.front(), entry);
}

Status Microvm::Parts::start_vcpus(std::vector<Vcpu> made, StandbyThread first_thread) {
  auto set = VcpuSet::create(std::move(made),
                             VcpuWorld{.ports = ports,
                                       .mmio = mmio,
                                       .ioapic = ioapic,
                                       .pic = pic,
                                       .memory = memory,
                                       .metrics = context.metrics.vcpu,
                                       .on_end = [this](MachineEnd what) { end(std::move(what)); },
                                       .on_parked = [this] { context.loop.wake(); },
                                       .enter_thread = context.enter_thread},
                             std::move(first_thread));
  if (!set) return propagate(set);
  vcpus = std::move(*set);
  virtual_wire.connect(vcpus.get());
  return {};
}

void Microvm::Parts::end(MachineEnd what) noexcept {
  if (ended.exchange(true)) return;
  context.loop.post([this, what = std::move(what)]() mutable { context.on_end(std::move(what)); });
}

void Microvm::Parts::crash_loaded() noexcept {
  if (crash_log_rate.allow()) context.log.warning("the guest's kernel panicked; its crash kernel takes over");
}

Result<std::unique_ptr<Microvm::Parts>> Microvm::Parts::make(MicrovmContext outside, MachineShell& shell,
                                                             GuestMemory memory, const MachineConfig& machine,
                                                             ConsoleOptions console, bool with_boot_timer,
                                                             DevicePlans devices) {
  // Slots before anything on KVM's I/O bus: the other order waits for grace periods.
  if (auto mapped = shell.vm->map_memory(memory, machine.track_dirty_pages); !mapped) return propagate(mapped);
  if (machine.track_dirty_pages) memory.track_writes();
  auto parts = std::make_unique<Parts>(std::move(outside), std::move(shell.vm), std::move(memory), std::move(console));
  parts->tracks_changes = machine.track_dirty_pages;
  parts->has_boot_timer = with_boot_timer;
  if (auto attached = parts->attach_devices(with_boot_timer); !attached) return propagate(attached);
  // Before vCPUs run, for which a change of KVM's buses would have to wait.
  if (auto plugged = parts->virtio.create(std::move(devices), {.memory = parts->memory,
                                                               .vm = *parts->vm,
                                                               .ioapic = parts->ioapic,
                                                               .wiring = parts->wiring,
                                                               .mmio = parts->mmio,
                                                               .loop = parts->context.loop,
                                                               .log = parts->context.log,
                                                               .metrics = parts->context.metrics,
                                                               .metadata = parts->context.metadata});
      !plugged)
    return propagate(plugged);
  return parts;
}

Status Microvm::Parts::finish(std::vector<Vcpu> made, StandbyThread first_thread, const Snapshot* restored) {
  if (auto started = start_vcpus(std::move(made), std::move(first_thread)); !started) return started;
  // Last of what can fail: from here on the ring holds operations of this machine.
  if (auto timers = make_timers(); !timers) return timers;
  pit_timer->listen();
  if (restored != nullptr) restore_platform(restored->platform);
  virtio.start();
  console.start();
  return {};
}

Result<std::unique_ptr<Microvm>> Microvm::create(MicrovmPlan plan, MicrovmContext context) {
  auto memory = GuestMemory::create({.size_mib = plan.machine.mem_size_mib, .pages = plan.machine.huge_pages});
  if (!memory) return propagate(memory);
  auto entry = prepare_boot(*memory, {.kernel_fd = plan.kernel_fd,
                                      .kernel_path = plan.kernel_path,
                                      .initrd_fd = plan.initrd_fd,
                                      .initrd_path = plan.initrd_path,
                                      .command_line = plan.command_line,
                                      .vcpu_count = plan.machine.vcpu_count,
                                      .windows = virtio_windows(plan.devices.count())});
  if (!entry) return propagate(entry);
  auto parts = Parts::make(std::move(context), plan.shell, std::move(*memory), plan.machine, std::move(plan.console),
                           plan.boot_timer, std::move(plan.devices));
  if (!parts) return propagate(parts);
  auto vcpus = (*parts)->make_vcpus(plan.shell, plan.machine.vcpu_count);
  if (!vcpus) return propagate(vcpus);
  if (auto set = (*parts)->set_vcpus_up(*vcpus, plan, *entry); !set) return propagate(set);
  (*parts)->own_msrs = own_msr_indices(plan.cpu.msrs);
  if (auto finished = (*parts)->finish(std::move(*vcpus), std::move(plan.shell.first_thread), nullptr); !finished)
    return propagate(finished);
  return std::unique_ptr<Microvm>{new Microvm{std::move(*parts)}};
}

// --- Snapshots -------------------------------------------------------------------------------------------------------

namespace {

/// Cycles of a counter of `khz` in `ns`.
std::uint64_t cycles_in(std::uint64_t ns, std::uint32_t khz) {
  return static_cast<std::uint64_t>(static_cast<__uint128_t>(ns) * khz / 1'000'000);
}

}  // namespace

PlatformState Microvm::Parts::platform_state() {
  return {.ioapic = ioapic.state(),
          .pic = pic.state(),
          .pit = pit.state(),
          .serial = console.serial().state(),
          .i8042 = i8042.state(),
          .sleep_ports = sleep_ports.state(),
          .has_boot_timer = has_boot_timer,
          .boot_timer = boot_timer.state()};
}

void Microvm::Parts::restore_platform(const PlatformState& state) {
  ioapic.restore(state.ioapic);
  pic.restore(state.pic);
  pit.restore(state.pit);
  console.serial().restore(state.serial);
  i8042.restore(state.i8042);
  sleep_ports.restore(state.sleep_ports);
  vcpus->restore_undelivered_interrupt(state.undelivered_interrupt);
}

Status Microvm::Parts::save(Snapshot& snapshot) {
  auto kvm = Kvm::open();
  if (!kvm) return propagate(kvm);
  auto indices = kvm->msr_indices();
  if (!indices) return propagate(indices);
  const KeptMsrs kept = kept_msrs(*indices, own_msrs);
  for (const Vcpu& vcpu : vcpus->vcpus()) {
    auto state = save_vcpu(vcpu, kept);
    if (!state) return propagate(state);
    snapshot.vcpus.push_back(std::move(*state));
  }
  auto clock = vm->clock();
  if (!clock) return propagate(clock);
  // KVM tells both clocks of one moment where it can.
  const bool together = (clock->flags & KVM_CLOCK_REALTIME) != 0;
  snapshot.clock = {.guest_ns = clock->clock, .realtime_ns = together ? clock->realtime : clock_ns(CLOCK_REALTIME)};
  snapshot.platform = platform_state();
  snapshot.platform.undelivered_interrupt = vcpus->undelivered_interrupt(snapshot.vcpus.front());
  return virtio.save(snapshot);
}

Status Microvm::snapshot(const std::function<Status(Snapshot, GuestMemory&)>& take) {
  parts_->virtio.quiesce(parts_->context.loop);
  if (parts_->recorder) parts_->recorder->ignore(true);  // what a snapshot reads is not what the guest needs
  Snapshot snapshot;
  auto taken = parts_->save(snapshot);
  if (taken) taken = take(std::move(snapshot), parts_->memory);
  if (parts_->recorder) parts_->recorder->ignore(false);
  parts_->virtio.go_on();
  return taken;
}

Result<std::optional<PageRanges>> Microvm::changes() {
  if (!parts_->tracks_changes) return std::nullopt;
  // What was told is kept until the snapshot has succeeded, also if one of two logs cannot be had: KVM and the devices
  // have forgotten it.
  std::vector<std::uint64_t>& changed = parts_->changed;
  const std::vector<std::uint64_t> written = parts_->memory.take_written();
  changed.resize(written.size());
  for (std::size_t i = 0; i < written.size(); ++i) changed[i] |= written[i];
  const auto take = [&vm = *parts_->vm](std::uint32_t region, std::span<std::uint64_t> bitmap) {
    return vm.take_dirty_log(region, bitmap);
  };
  if (auto added = add_dirty_log(parts_->memory, take, changed); !added) return propagate(added);
  return pages_of(parts_->memory, parts_->changed);
}

void Microvm::forget_changes() { parts_->changed.clear(); }

Result<std::unique_ptr<Microvm>> Microvm::restore(RestorePlan plan, MicrovmContext context) {
  const Snapshot& snapshot = plan.snapshot;
  auto made = Parts::make(std::move(context), plan.shell, std::move(plan.memory), snapshot.machine,
                          std::move(plan.console), snapshot.platform.has_boot_timer, std::move(plan.devices));
  if (!made) return propagate(made);
  Parts& parts = **made;
  parts.userfault = std::move(plan.userfault);
  parts.recorder = std::move(plan.recorder);
  parts.own_msrs =
      own_msr_indices(snapshot.cpu ? std::span<const MsrEdit>{snapshot.cpu->msrs} : std::span<const MsrEdit>{});
  if (!plan.needed_first.empty()) parts.replay.emplace(parts.context.loop, parts.memory, plan.needed_first);
  if (auto restored = parts.virtio.restore(snapshot, plan.allow_changed_drives); !restored) return propagate(restored);
  if (auto renewed = renew_generation_id(parts.memory); !renewed) return propagate(renewed);

  const std::uint64_t now = clock_ns(CLOCK_REALTIME);
  const std::uint64_t elapsed =
      plan.clock_realtime && now > snapshot.clock.realtime_ns ? now - snapshot.clock.realtime_ns : 0;
  auto vcpus = parts.make_vcpus(plan.shell, snapshot.vcpus.size());
  if (!vcpus) return propagate(vcpus);
  for (const Vcpu& vcpu : *vcpus) {
    const VcpuState& state = snapshot.vcpus[vcpu.index()];
    if (auto restored = restore_vcpu(vcpu, state, cycles_in(elapsed, state.tsc_khz)); !restored)
      return propagate(restored);
  }
  // After the counters that it is computed from.
  kvm_clock_data clock{};
  clock.clock = snapshot.clock.guest_ns + elapsed;
  if (auto set = parts.vm->set_clock(clock); !set) return propagate(set);
  for (const Vcpu& vcpu : *vcpus) vcpu.notify_paused();
  if (auto finished = parts.finish(std::move(*vcpus), std::move(plan.shell.first_thread), &snapshot); !finished)
    return propagate(finished);
  // The guest learns of the new id by this interrupt, before its first instruction.
  InterruptLine{parts.wiring, layout::kEventGsi}.pulse();
  return std::unique_ptr<Microvm>{new Microvm{std::move(*made)}};
}

Microvm::Microvm(std::unique_ptr<Parts> parts) noexcept : parts_(std::move(parts)) {}

Microvm::~Microvm() = default;

void Microvm::resume() {
  parts_->virtio.move_on();
  parts_->vcpus->resume();
}

void Microvm::fetch_working_set() {
  if (parts_->replay) parts_->replay->begin();
}

std::vector<std::uint64_t> Microvm::touched() const { return parts_->recorder->touched(); }

void Microvm::stop_recording() { parts_->recorder->stop(); }

void Microvm::pause() {
  parts_->vcpus->request_pause();
  parts_->context.loop.serve_until([this] { return parts_->vcpus->parked(); });
  for (const Vcpu& vcpu : parts_->vcpus->vcpus()) vcpu.notify_paused();
  parts_->virtio.stand_still();
}

Status Microvm::press_ctrl_alt_del() {
  if (parts_->i8042.press_ctrl_alt_del()) return {};
  return fail(ErrorKind::State,
              "the guest does not listen to its keyboard: its kernel has no i8042 driver, or has not started it yet");
}

BlockDevice& Microvm::drive(std::string_view id) { return parts_->virtio.drive(id); }

NetDevice& Microvm::network_interface(std::string_view id) { return parts_->virtio.network_interface(id); }

void Microvm::drain_console(std::function<void()> done) {
  parts_->drained = std::move(done);
  const auto finish = [parts = parts_.get()] {
    if (parts->drained) std::exchange(parts->drained, nullptr)();
  };
  auto timer = LoopTimer::create(parts_->context.loop, finish);
  if (!timer) return finish();
  parts_->drain_timer = std::move(*timer);
  parts_->drain_timer->listen();
  parts_->drain_timer->arm(monotonic_ns() + kDrainDeadlineNs);
  parts_->console.when_drained(finish);
}

}  // namespace mayfly
