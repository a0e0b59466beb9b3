#pragma once

#include "snapshot/pages.h"
#include "snapshot/snapshot.h"
#include "snapshot/working_set_recorder.h"
#include "vmm/base/log.h"
#include "vmm/base/metrics.h"
#include "vmm/base/standby_thread.h"
#include "vmm/base/thread_kind.h"
#include "vmm/config/configuration.h"
#include "vmm/devices/console.h"
#include "vmm/io/event_loop.h"
#include "vmm/kvm/kvm.h"
#include "vmm/kvm/vcpu.h"
#include "vmm/kvm/vm.h"
#include "vmm/machine/machine_end.h"
#include "vmm/machine/virtio_devices.h"

#include <functional>
#include <memory>
#include <string>

/// One started machine: KVM's VM, its memory, devices and vCPUs, from the first instruction to the end.
///
///   auto machine = Microvm::create(std::move(plan), context);   // everything is in place, vCPUs parked
///   (*machine)->resume();                                       // the guest's first instruction
namespace mayfly {

/// What of a machine does not depend on its configuration, made ahead of the start or load request: most of what a
/// start costs beside the guest's memory.
struct MachineShell {
  std::unique_ptr<Vm> vm;
  std::size_t run_size = 0;
  Vcpu first_vcpu;
  StandbyThread first_thread;
  // By learn_cpuid(): not for restored machines, whose CPUID is the snapshot's.
  std::unique_ptr<kvm_abi::CpuidTable> cpuid{};
  bool tsc_deadline = false;

  /// The first vCPU's thread calls `enter_thread`; none may be given. Errors: no usable KVM on this host, no more
  /// threads.
  [[nodiscard]] static Result<MachineShell> prepare(const ThreadEntry& enter_thread);
  /// Once is enough. Errors: as prepare().
  [[nodiscard]] Status learn_cpuid();
};

/// A machine to make. The files are open, and borrowed for the call: what was checked is what is booted.
struct MicrovmPlan {
  MachineShell shell;
  MachineConfig machine;
  CpuConfig cpu;
  int kernel_fd = -1;
  std::string kernel_path;
  std::optional<int> initrd_fd;
  std::string initrd_path;
  std::string command_line;  ///< Complete.
  DevicePlans devices;
  ConsoleOptions console;
  bool boot_timer = false;
};

/// A machine to restore.
struct RestorePlan {
  MachineShell shell;
  Snapshot snapshot;    ///< Decoded and checked; track_dirty_pages and huge_pages are those of the new machine.
  GuestMemory memory;   ///< As it was.
  OwnedFd userfault{};  ///< Of a page server; none: the memory is a file's.
  std::unique_ptr<WorkingSetRecorder> recorder{};  ///< That gives the memory; none: nobody wants to know.
  std::vector<PageRange> needed_first{};           ///< A working set to be replayed.
  DevicePlans devices;  ///< By the snapshot's configuration and what the load request overrides, in its order.
  ConsoleOptions console;
  bool clock_realtime = false;        ///< The guest's clock goes ahead by the time since the snapshot.
  bool allow_changed_drives = false;  ///< Restore though an image has changed since.
};

/// What a machine lives in. Everything outlives it.
struct MicrovmContext {
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

/// All members are for the loop's thread.
class Microvm {
 public:
  [[nodiscard]] static Result<std::unique_ptr<Microvm>> create(MicrovmPlan plan, MicrovmContext context);
  /// The machine of a snapshot, with a new generation id; parked. Errors: what does not fit this host, or has changed.
  [[nodiscard]] static Result<std::unique_ptr<Microvm>> restore(RestorePlan plan, MicrovmContext context);
  Microvm(const Microvm&) = delete;
  Microvm& operator=(const Microvm&) = delete;
  ~Microvm();

  void resume();
  /// Begins to bring the working set in, if there is one: once, after the machine was resumed if it is to be.
  void fetch_working_set();
  // Of the recorder, for a machine that was restored with one.
  [[nodiscard]] std::vector<std::uint64_t> touched() const;
  void stop_recording();
  /// Returns when no vCPU runs.
  void pause();
  /// Presses Ctrl-Alt-Del on the guest's keyboard. Error: the guest has not set its keyboard up.
  [[nodiscard]] Status press_ctrl_alt_del();
  /// Paused. Brings the devices to rest, calls `take` with everything of the machine but its memory's bytes and what
  /// was configured, and lets the devices go on. Errors: KVM's, a disk's, and those of `take`.
  [[nodiscard]] Status snapshot(const std::function<Status(Snapshot, GuestMemory&)>& take);
  /// Paused, devices at rest: the pages that the guest and the devices have written to since the last
  /// forget_changes(), or more; nullopt where nothing kept track. Error: KVM's.
  [[nodiscard]] Result<std::optional<PageRanges>> changes();
  void forget_changes();

  [[nodiscard]] BlockDevice& drive(std::string_view id);
  [[nodiscard]] NetDevice& network_interface(std::string_view id);
  /// Calls `done` when the serial port's output is written out, or after kDrainDeadlineNs if its reader is too slow.
  /// The vCPUs must be paused.
  void drain_console(std::function<void()> done);

 private:
  struct Parts;
  explicit Microvm(std::unique_ptr<Parts> parts) noexcept;
  std::unique_ptr<Parts> parts_;
};

}  // namespace mayfly
