#include "vmm/machine/board.h"

#include "snapshot/userfault.h"
#include "vmm/base/clock.h"
#include "vmm/base/try.h"
#include "vmm/boot/layout.h"
#include "vmm/kvm/boot_msrs.h"

#include <array>
#include <utility>

namespace mayfly {
namespace {

/// On the first vCPU's thread. What has it leave the guest, as a pause, ends it.
std::function<void(const Vcpu&)> copy_ahead(const WorkingSetReplay& replay) {
  return [&replay](const Vcpu& vcpu) { replay.copy_ahead([&vcpu] { return vcpu.exit_requested(); }); };
}

}  // namespace

std::uint64_t HostClock::now_ns() const noexcept { return monotonic_ns(); }

void VirtualWire::set_pin(unsigned /*pin*/, bool level) noexcept {
  if (!level) return;
  if (VcpuSet* vcpus = vcpus_.load(std::memory_order_acquire)) vcpus->look_at_pic();
}

Board::Board(MachineContext outside, Kvm host, std::unique_ptr<Vm> machine, GuestMemory ram,
             ConsoleOptions console_options)
    : context(std::move(outside)),
      kvm(std::move(host)),
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

Board::~Board() {
  vcpus.reset();
  virtual_wire.connect(nullptr);
  if (userfault) stop_faults(userfault, memory);  // its server may be dead
}

Status Board::attach_devices(bool with_boot_timer) {
  struct PortRange {
    std::string_view name;
    std::uint64_t base;
    std::uint64_t length;
    BusDevice& device;
  };
  const std::array ranges = {
      PortRange{"pic", kMasterPicPort, kPicPortCount, pic},
      PortRange{"pic", kSlavePicPort, kPicPortCount, pic.slave_ports()},
      PortRange{"pic", kPicTriggerPort, kPicPortCount, pic.trigger_ports()},
      PortRange{"pit", kPitPort, kPitPortCount, pit},
      PortRange{"speaker port", kSpeakerPort, 1, pit.speaker_port()},
      PortRange{"i8042 data", layout::kKeyboardDataPort, 1, i8042},
      PortRange{"i8042 command", layout::kKeyboardCommandPort, 1, i8042.command_port()},
      PortRange{"serial", layout::kSerialPort, layout::kSerialPorts, console.serial()},
      PortRange{"pvpanic", layout::kPvpanicPort, 1, panic_port},
      PortRange{"ACPI sleep", layout::kSleepControlPort, layout::kSleepPorts, sleep_ports},
  };
  for (const PortRange& range : ranges) TRY(ports.attach(range.name, range.base, range.length, range.device));
  has_boot_timer = with_boot_timer;
  if (with_boot_timer) {
    TRY(ports.attach("boot timer", kBootTimerPort, 1, boot_timer));
    if (memory.low_end().value <= kBootTimerAddress) TRY(mmio.attach("boot timer", kBootTimerAddress, 1, boot_timer));
  }
  return mmio.attach("ioapic", layout::kIoapicBase, layout::kIoapicLength, ioapic);
}

Status Board::plug(DevicePlans plans) {
  return virtio.create(std::move(plans), {.memory = memory,
                                          .vm = *vm,
                                          .ioapic = ioapic,
                                          .wiring = wiring,
                                          .mmio = mmio,
                                          .loop = context.loop,
                                          .log = context.log,
                                          .metrics = context.metrics,
                                          .metadata = context.metadata});
}

Status Board::start_vcpus(std::vector<Vcpu> made, StandbyThread first_thread) {
  vcpus = TRY(VcpuSet::create(std::move(made),
                              {.ports = ports,
                               .mmio = mmio,
                               .ioapic = ioapic,
                               .pic = pic,
                               .memory = memory,
                               .metrics = context.metrics.vcpu,
                               .on_end = [this](MachineEnd what) { end(std::move(what)); },
                               .on_parked =
                                   [this] {
                                     context.loop.post([this] {
                                       if (on_parked) on_parked();
                                     });
                                   },
                               .enter_thread = context.enter_thread,
                               .before_first_run = replay ? copy_ahead(*replay) : nullptr},
                              std::move(first_thread)));
  virtual_wire.connect(vcpus.get());
  return {};
}

Status Board::make_timers() {
  pit_timer = TRY(LoopTimer::create(context.loop, [this] { pit.on_timer(); }));
  pit_alarm.connect(*pit_timer);
  return {};
}

void Board::start() {
  pit_timer->listen();
  virtio.start();
  console.start();
}

void Board::end(MachineEnd what) noexcept {
  if (ended.exchange(true)) return;
  context.loop.post([this, what = std::move(what)]() mutable { context.on_end(std::move(what)); });
}

void Board::crash_loaded() noexcept {
  if (crash_log_rate.allow()) context.log.warning("the guest's kernel panicked; its crash kernel takes over");
}

Result<std::vector<Vcpu>> make_vcpus(const Board& board, Vcpu first, std::size_t count) {
  std::vector<Vcpu> made;
  made.reserve(count);
  made.push_back(std::move(first));
  while (made.size() < count) {
    auto next = TRY(Vcpu::create(board.kvm.run_size(), *board.vm, static_cast<unsigned>(made.size())));
    made.push_back(std::move(next));
  }
  return made;
}

std::vector<std::uint32_t> own_msr_indices(std::span<const MsrEdit> edits) {
  std::vector<std::uint32_t> indices;
  indices.reserve(kBootMsrs.size() + edits.size());
  for (const MsrValue& boot : kBootMsrs) indices.push_back(boot.index);
  for (const MsrEdit& edit : edits) indices.push_back(edit.address);
  return indices;
}

}  // namespace mayfly
