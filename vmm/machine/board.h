#pragma once

#include "snapshot/snapshot.h"
#include "snapshot/working_set_recorder.h"
#include "snapshot/working_set_replay.h"
#include "vmm/base/log.h"
#include "vmm/base/metrics.h"
#include "vmm/base/thread_kind.h"
#include "vmm/devices/acpi_sleep_ports.h"
#include "vmm/devices/boot_timer.h"
#include "vmm/devices/bus.h"
#include "vmm/devices/console.h"
#include "vmm/devices/dual_pic.h"
#include "vmm/devices/guest_signals.h"
#include "vmm/devices/i8042.h"
#include "vmm/devices/interrupt_wiring.h"
#include "vmm/devices/ioapic.h"
#include "vmm/devices/panic_port.h"
#include "vmm/devices/pit.h"
#include "vmm/io/event_loop.h"
#include "vmm/io/loop_timer.h"
#include "vmm/kvm/vm.h"
#include "vmm/machine/machine_end.h"
#include "vmm/machine/vcpu_set.h"
#include "vmm/machine/virtio_devices.h"

#include <atomic>
#include <functional>
#include <memory>
#include <optional>
#include <vector>

/// What a machine is made of: memory, KVM's VM, buses, devices, vCPUs. boot() and restore() put one together, step by
/// step; Microvm runs it.
namespace mayfly {

/// What a machine lives in. Everything outlives it.
struct MachineContext {
  EventLoop& loop;
  Log& log;
  Metrics& metrics;
  const MetadataStore& metadata;  ///< What interfaces with a metadata service serve.
  /// Told once, on the loop's thread, that the machine cannot or does not want to go on.
  std::function<void(MachineEnd)> on_end;
  /// The boot timer's port was written; on a vCPU's thread.
  std::function<void()> on_booted;
  /// By each thread that the machine makes; none may be given.
  ThreadEntry enter_thread{};
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

class HostClock final : public MonotonicClock {
 public:
  [[nodiscard]] std::uint64_t now_ns() const noexcept override;
};

/// The PIC's output, to whoever runs the vCPUs.
class VirtualWire final : public InterruptSink {
 public:
  /// Null where there are none yet, or none any more.
  void connect(VcpuSet* vcpus) noexcept { vcpus_.store(vcpus, std::memory_order_release); }
  void set_pin(unsigned pin, bool level) noexcept override;

 private:
  std::atomic<VcpuSet*> vcpus_ = nullptr;
};

/// What a machine goes back to: kept where its load says that it may.
struct RevertPoint {
  std::shared_ptr<const Snapshot> snapshot;
  std::vector<std::vector<MsrValue>> left_out{};  ///< Of each vCPU, what the snapshot leaves out (msrs_left_out()).
};

/// Destroyed from the end: vCPUs stop before the devices they use go. Members are for the loop's thread, but where they
/// say otherwise.
struct Board final : GuestSignals {
  Board(MachineContext outside, Kvm host, std::unique_ptr<Vm> machine, GuestMemory ram, ConsoleOptions console_options);
  Board(const Board&) = delete;
  Board& operator=(const Board&) = delete;
  ~Board() override;

  // The steps that boot() and restore() share, in this order. After a failed one the board is to be thrown away.
  /// Ports and registers of all devices but drives and interfaces.
  [[nodiscard]] Status attach_devices(bool with_boot_timer);
  /// Drives and interfaces. Before vCPUs run, for which a change of KVM's buses would have to wait.
  [[nodiscard]] Status plug(DevicePlans plans);
  [[nodiscard]] Status make_timers();
  /// Threads for vCPUs that are ready to run, parked; `first_thread` is the first one's. They post to the loop: what
  /// fails afterwards would leave it a task of a board that is gone.
  [[nodiscard]] Status start_vcpus(std::vector<Vcpu> made, StandbyThread first_thread);
  /// Nothing fails any more: from here on the ring holds operations of this machine.
  void start();

  /// Posts the end to the loop; only the first one counts. Any thread.
  void end(MachineEnd what) noexcept;

  // GuestSignals: vCPU threads
  void reset_requested() noexcept override { end({EndReason::Reset, "the guest asked for a reset"}); }
  void power_off_requested() noexcept override { end({EndReason::PowerOff, "the guest switched itself off"}); }
  void guest_panicked() noexcept override { end({EndReason::GuestPanic, "the guest's kernel panicked"}); }
  void crash_loaded() noexcept override;
  void guest_booted() noexcept override { context.on_booted(); }

  MachineContext context;
  std::atomic<bool> ended{false};
  LogRate crash_log_rate;
  HostClock clock;
  // These answer the faults of `memory`, while anybody touches it.
  OwnedFd userfault;
  OwnedFd page_server;  // the connection: its end tells the server that the machine has ended
  std::unique_ptr<WorkingSetRecorder> recorder;
  Kvm kvm;             // for snapshots
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
  Bus ports;
  Bus mmio;
  bool has_boot_timer = false;
  bool tracks_changes = false;
  std::optional<RevertPoint> revert_point;
  std::vector<std::uint32_t> own_msrs;  // which the boot and the user's cpu-config set
  VirtioDevices virtio;
  std::function<void()> on_parked;  // posted each time that the last vCPU has parked; set before vCPUs run
  std::unique_ptr<VcpuSet> vcpus;
};

/// `count` vCPUs: the one that was prepared, and as many more.
[[nodiscard]] Result<std::vector<Vcpu>> make_vcpus(const Board& board, Vcpu first, std::size_t count);

/// The MSRs that a snapshot keeps though KVM does not list them: those that the boot sets, and those that the user
/// edits.
[[nodiscard]] std::vector<std::uint32_t> own_msr_indices(std::span<const MsrEdit> edits);

}  // namespace mayfly
